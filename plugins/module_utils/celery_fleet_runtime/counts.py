"""Counts of tasks, which the processes of a program write to files that outlive them.

Each process maps a file of its own into memory. So a task costs no system call, and nothing is lost when the process is
killed. The next process of the program on the same release continues the file, so there are never more files than
processes at once, however often children are replaced.

Standard library only: workers import this module, whatever their environment contains.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import glob
import mmap
import os
import stat
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import add
from pathlib import Path

MAGIC = b"fleet 2\0"
KINDS = ("begun", "done", "failed", "retried")
BEGUN = KINDS.index("begun")
#: Upper bounds of the histograms of waits and runs, in seconds. One more bucket is for longer ones.
BOUNDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
#: Number of records for pairs of a queue and a task. All other pairs share the last record, which has no name.
RECORDS = 512
#: Number of seconds with counts of their own: the last hour.
SECONDS = 3600

# All numbers are integers or floats of 8 bytes, except in the seconds, where they have 4. So each is read and written
# atomically, by processes that are not synchronized.
_WORD, _HALF = 8, 4
_RUNNING, _BROKEN_OFF, _TOLD, _UNTOLD, _SENT = (1 + len(KINDS) + number for number in range(5))
_HEAD = 6 + len(KINDS)
_CELL = 1 + len(KINDS)
_SECONDS_AT = _HEAD * _WORD
_RECORDS_AT = (_SECONDS_AT + SECONDS * _CELL * _HALF + _WORD - 1) // _WORD
_NAME = 256
# Offsets in a record, after its name.
_KINDS_AT = _NAME // _WORD
WAIT, RUN = range(2)
_SUMS_AT = _KINDS_AT + len(KINDS)
_LATEST_SENT = _SUMS_AT + 2
_MINUTES_AT = _LATEST_SENT + 1
# The minute, and the longest wait and run in it.
_MINUTE = 3
_BUCKETS_AT = _MINUTES_AT + 2 * _MINUTE
_RUNS_AT = _BUCKETS_AT + len(BOUNDS) + 1
_RECORD = _RUNS_AT + len(BOUNDS) + 1
SIZE = (_RECORDS_AT + RECORDS * _RECORD) * _WORD
_RECORD_SIZE = _RECORD * _WORD
# Slots that are read at once.
_CHUNK = 32


class CountsFile:
    """A file of counts that belongs to this process while it is alive.

    The file is sparse. Blocks are allocated before they are written to: on a full disk, the kernel would kill a process
    that writes to an unallocated block of a mapping (mmap(2), SIGBUS).
    """

    def __init__(self, directory: Path, name: str) -> None:
        """Open and lock the first file that no other process has.

        Args:
            name: name of the program and its release.

        Raises:
            OSError: no file is free, and none can be created.
        """
        directory.mkdir(mode=0o750, exist_ok=True)
        self.name = ""
        self._lock = threading.Lock()
        for number in range(10_000):
            file = os.open(directory / f"{name}.{number}.counts", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.name = f"{name}.{number}"
                break
            except OSError:
                os.close(file)
        else:
            raise OSError(f"{directory} has no free file of counts")
        self._file = file
        try:
            if os.fstat(file).st_size != SIZE or os.pread(file, len(MAGIC), 0) != MAGIC:
                os.ftruncate(file, 0)
                os.ftruncate(file, SIZE)
                os.pwrite(file, MAGIC, 0)
            self._records = {name: record for record, (name, _) in enumerate(_named(file))}
            os.posix_fallocate(file, 0, _record_at(len(self._records)))
            os.posix_fallocate(file, _record_at(RECORDS - 1), _RECORD_SIZE)
            memory = memoryview(mmap.mmap(file, SIZE))
        except OSError:
            os.close(file)
            raise
        self._words, self._halves, self._floats = memory.cast("Q"), memory.cast("I"), memory.cast("d")
        self._bytes = memory
        # The previous process was killed while it ran these tasks.
        self._words[_BROKEN_OFF] += self._words[_RUNNING]
        self._words[_RUNNING] = 0

    def begin(self, queue: str, task: str, now: float, sent: float | None = None, wait: float = 0.0) -> None:
        """Count a task that is started.

        Args:
            now: seconds since the epoch.
            sent: when it was sent; None: not known, so its wait is not counted either.
            wait: seconds since it was sent or due.
        """
        with self._lock:
            self._words[_RUNNING] += 1
            record = self._count(BEGUN, queue, task, now)
            if sent is not None:
                self._floats[record + _LATEST_SENT] = max(sent, self._floats[record + _LATEST_SENT])
                self._observe(record, wait, now, WAIT)

    def end(self, queue: str, task: str, now: float, seconds: float) -> None:
        """Count the run time of a task that has ended. Its outcome is counted separately."""
        with self._lock:
            self._words[_RUNNING] = max(0, self._words[_RUNNING] - 1)
            self._observe(self._record(queue, task), seconds, now, RUN)

    def count(self, kind: int, queue: str, task: str, now: float) -> None:
        """Count the outcome of a task: done, failed or retried."""
        with self._lock:
            self._count(kind, queue, task, now)

    def send(self, now: float) -> None:
        """Record that a task was sent.

        Args:
            now: seconds since the epoch.
        """
        self._floats[_SENT] = now

    def tell(self, send: Callable[[int], None]) -> None:
        """Log a task result, or count that it could not be logged.

        Logged results are numbered without gaps, so a sink can detect lost ones.

        Args:
            send: logs the result with its number. Raises OSError if that fails.
        """
        with self._lock:
            try:
                send(self._words[_TOLD] + 1)
            except OSError:
                self._words[_UNTOLD] += 1
            else:
                self._words[_TOLD] += 1

    def _count(self, kind: int, queue: str, task: str, now: float) -> int:
        record, second = self._record(queue, task), int(now)
        self._words[1 + kind] += 1
        self._words[record + _KINDS_AT + kind] += 1
        cell = _SECONDS_AT // _HALF + second % SECONDS * _CELL
        if self._halves[cell] != second:
            for offset in range(1, _CELL):
                self._halves[cell + offset] = 0
            self._halves[cell] = second
        self._halves[cell + 1 + kind] += 1
        return record

    def _observe(self, record: int, seconds: float, now: float, what: int) -> None:
        self._floats[record + _SUMS_AT + what] += seconds
        self._words[record + _BUCKETS_AT + what * (len(BOUNDS) + 1) + bisect_left(BOUNDS, seconds)] += 1
        minute = int(now) // 60
        at = record + _MINUTES_AT + minute % 2 * _MINUTE
        if self._words[at] != minute:
            self._floats[at + 1] = self._floats[at + 2] = 0.0
            self._words[at] = minute
        self._floats[at + 1 + what] = max(seconds, self._floats[at + 1 + what])

    def _record(self, queue: str, task: str) -> int:
        name = f"{queue}\0{task}".encode(errors="replace")[: _NAME - 1]
        record = self._records.get(name)
        if record is None:
            # Names without a record are not stored, as there may be any number of them.
            record = min(len(self._records), RECORDS - 1)
            if record < RECORDS - 1:
                start = _record_at(record)
                try:
                    os.posix_fallocate(self._file, start, _RECORD_SIZE)
                except OSError:
                    record = RECORDS - 1
                else:
                    self._bytes[start : start + len(name)] = name
                    self._records[name] = record
        return _RECORDS_AT + record * _RECORD


def _record_at(record: int) -> int:
    return (_RECORDS_AT + record * _RECORD) * _WORD


def _named(file: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the name and the content of each named record of a file."""
    for first in range(0, RECORDS - 1, _CHUNK):
        size = min(_CHUNK, RECORDS - 1 - first) * _RECORD_SIZE
        chunk = memoryview(os.pread(file, size, _record_at(first)))
        if len(chunk) < size:
            return
        for start in range(0, size, _RECORD_SIZE):
            record = chunk[start : start + _RECORD_SIZE]
            name = bytes(record[:_NAME]).rstrip(b"\0")
            if not name:
                return
            yield name, record


@dataclass
class Tasks:
    """The counts of a task and a queue.

    Attributes:
        kinds: number of tasks of each kind.
        waits: number of tasks whose wait is in each bucket of BOUNDS, and above the last bound.
        runs: number of tasks whose run time is in each bucket of BOUNDS, and above the last bound.
        wait_seconds: sum of all waits.
        run_seconds: sum of all run times.
        latest_sent: the latest time at which a task that was started had been sent, in seconds since the epoch; 0: not
            known.
        longest: for each of the latest minutes (since the epoch), the longest wait and run.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    waits: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    runs: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    wait_seconds: float = 0.0
    run_seconds: float = 0.0
    latest_sent: float = 0.0
    longest: dict[int, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, record: memoryview) -> Tasks:
        """Return the counts in a record of a file."""
        words, floats = record.cast("Q"), record.cast("d")
        minutes = (_MINUTES_AT, _MINUTES_AT + _MINUTE)
        return cls(
            Counter(dict(zip(KINDS, words[_KINDS_AT:_SUMS_AT], strict=True))),
            list(words[_BUCKETS_AT:_RUNS_AT]),
            list(words[_RUNS_AT:_RECORD]),
            floats[_SUMS_AT + WAIT],
            floats[_SUMS_AT + RUN],
            floats[_LATEST_SENT],
            {words[at]: (floats[at + 1], floats[at + 2]) for at in minutes if words[at]},
        )

    def update(self, other: Tasks) -> None:
        """Add the counts of other processes for the same task and queue."""
        self.kinds.update(other.kinds)
        self.waits = list(map(add, self.waits, other.waits))
        self.runs = list(map(add, self.runs, other.runs))
        self.wait_seconds += other.wait_seconds
        self.run_seconds += other.run_seconds
        self.latest_sent = max(self.latest_sent, other.latest_sent)
        for minute, (wait, run) in other.longest.items():
            before = self.longest.get(minute, (0.0, 0.0))
            self.longest[minute] = max(wait, before[0]), max(run, before[1])


@dataclass
class Counts:
    """The counts of some processes.

    Attributes:
        totals: number of tasks of each kind, since the program first ran on its release.
        seconds: for each second of the last hour (since the epoch), the number of tasks of each kind. Optional.
        latest: the latest second in which a task was counted; 0: none.
        running: in-flight tasks.
        broken_off: tasks that were in flight when their process was killed.
        untold: task results that the journal did not accept.
        sent: when a task was last sent, in seconds since the epoch; 0: never.
        tasks: counts by queue and task. Both names are empty for tasks without a record.
    """

    totals: Counter[str] = field(default_factory=Counter)
    seconds: dict[int, Counter[str]] = field(default_factory=dict)
    latest: int = 0
    running: int = 0
    broken_off: int = 0
    untold: int = 0
    sent: float = 0.0
    tasks: dict[tuple[str, str], Tasks] = field(default_factory=dict)

    def update(self, other: Counts) -> None:
        """Add the counts of other processes."""
        self.totals.update(other.totals)
        for second, cell in other.seconds.items():
            self.seconds.setdefault(second, Counter()).update(cell)
        self.latest = max(self.latest, other.latest)
        self.running += other.running
        self.broken_off += other.broken_off
        self.untold += other.untold
        self.sent = max(self.sent, other.sent)
        for name, tasks in other.tasks.items():
            self.tasks.setdefault(name, Tasks()).update(tasks)

    def add(self, file: int, *, seconds: bool = True) -> None:
        """Add the counts in an open file. An incomplete file is ignored.

        Args:
            seconds: whether to read the counts of each second.
        """
        alive = _held(file)
        head = os.pread(file, _RECORDS_AT * _WORD, 0)
        if os.fstat(file).st_size != SIZE or not head.startswith(MAGIC):
            return
        # A process that has locked the file since may already have started tasks.
        alive = alive or _held(file)
        memory = memoryview(head)
        words, halves, floats = memory.cast("Q"), memory.cast("I"), memory.cast("d")
        self.totals.update(dict(zip(KINDS, words[1:_RUNNING], strict=True)))
        self.running += words[_RUNNING] if alive else 0
        self.broken_off += words[_BROKEN_OFF] + (0 if alive else words[_RUNNING])
        self.untold += words[_UNTOLD]
        self.sent = max(self.sent, floats[_SENT])
        cells = halves[_SECONDS_AT // _HALF : _SECONDS_AT // _HALF + SECONDS * _CELL]
        self.latest = max(self.latest, *cells[::_CELL])
        if seconds:
            for second, start in ((cells[start], start) for start in range(0, len(cells), _CELL)):
                if second:
                    cell = dict(zip(KINDS, cells[start + 1 : start + _CELL], strict=True))
                    self.seconds.setdefault(second, Counter()).update(cell)
        nameless = memoryview(os.pread(file, _RECORD_SIZE, _record_at(RECORDS - 1)))
        for name, record in [*_named(file), (b"", nameless)]:
            tasks = Tasks.of(record)
            if any(tasks.kinds.values()):
                queue, _, task = name.decode(errors="replace").partition("\0")
                if known := self.tasks.get((queue, task)):
                    known.update(tasks)
                else:
                    self.tasks[queue, task] = tasks


def read_counts(directory: Path, *, seconds: bool = True) -> dict[tuple[str, str], Counts]:
    """Return the counts of each program and release of a host.

    Args:
        seconds: whether to read the counts of each second, which is most of the work.
    """
    total: dict[tuple[str, str], Counts] = {}
    for name, file in _regular_files(directory, "*.counts"):
        program, _, rest = name.partition("@")
        release = rest.removesuffix(".counts").rpartition(".")[0]
        total.setdefault((program, release), Counts()).add(file, seconds=seconds)
    return total


def remove_counts(directory: Path, release: str) -> None:
    """Remove the counts of a release."""
    with contextlib.suppress(OSError), _entered(directory) as descriptor:
        for name in _names(descriptor, f"*@{glob.escape(release)}.*.counts"):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=descriptor)


def read_file(directory: Path, name: str, size: int) -> bytes:
    """Return the first bytes of a regular file of a directory; empty if it can't be read.

    Args:
        size: number of bytes.
    """
    with contextlib.suppress(OSError), _entered(directory) as descriptor, _regular_file(descriptor, name) as file:
        return os.read(file, size)
    return b""


def _regular_files(directory: Path, pattern: str) -> Iterator[tuple[str, int]]:
    """Yield the name and the descriptor of each regular file. A descriptor is open until the next one."""
    with contextlib.suppress(OSError), _entered(directory) as descriptor:
        for name in _names(descriptor, pattern):
            with contextlib.suppress(OSError), _regular_file(descriptor, name) as file:
                yield name, file


@contextlib.contextmanager
def _regular_file(directory: int, name: str) -> Iterator[int]:
    """Yield a descriptor of a regular file.

    Root reads this directory of the application's user. So links are not followed, and no open blocks, e.g. on a pipe.

    Args:
        directory: descriptor of its directory.

    Raises:
        OSError: it is another kind of file, or can't be opened.
    """
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", name)
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def _entered(directory: Path) -> Iterator[int]:
    """Yield a descriptor of a directory.

    Raises:
        OSError: it does not exist or is a link.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(descriptor: int, pattern: str) -> list[str]:
    with os.scandir(descriptor) as entries:
        return sorted(fnmatch.filter((entry.name for entry in entries), pattern))


def _held(file: int) -> bool:
    """Return whether a process has locked a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    # Unlock it at once: a process that starts now would skip a locked file.
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
