"""What a program's processes count of their tasks, in files that outlive them: how one is written, and read.

Each process has a file of its own and writes to it by memory that it shares with it: no call of the system a task, and
nothing is lost when it is killed. The file goes on with the next process of the program on the same release, so there
are never more files than processes at once, however often children are replaced.

Python's own library alone: workers have this as celery_fleet_counts, whatever else is in their environment.
"""

from __future__ import annotations

import contextlib
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
#: Upper bounds, in seconds, of how long tasks wait and run; what is longer goes beyond the last.
BOUNDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
#: How many pairs of a queue and a task have a place of their own. Those beyond share one, without names.
PLACES = 512
#: The last hour, second by second.
SECONDS = 3600

# All numbers are words of 8 bytes, whole or floating, but for the seconds, which are of 4: so each is read and written
# at once, by processes that know nothing of one another.
_WORD, _HALF = 8, 4
_RUNNING, _BROKEN_OFF, _TOLD, _UNTOLD, _SENT = (1 + len(KINDS) + number for number in range(5))
_HEAD = 6 + len(KINDS)
_CELL = 1 + len(KINDS)
_SECONDS_AT = _HEAD * _WORD
_PLACES_AT = (_SECONDS_AT + SECONDS * _CELL * _HALF + _WORD - 1) // _WORD
_NAME = 256
# In a place, after its name.
_KINDS_AT = _NAME // _WORD
WAIT, RUN = range(2)
_SUMS_AT = _KINDS_AT + len(KINDS)
_LATEST_SENT = _SUMS_AT + 2
_MINUTES_AT = _LATEST_SENT + 1
# Which minute, and the longest wait and run in it.
_MINUTE = 3
_BUCKETS_AT = _MINUTES_AT + 2 * _MINUTE
_RUNS_AT = _BUCKETS_AT + len(BOUNDS) + 1
_PLACE = _RUNS_AT + len(BOUNDS) + 1
SIZE = (_PLACES_AT + PLACES * _PLACE) * _WORD
_PLACE_SIZE = _PLACE * _WORD
# So many places are read at once.
_CHUNK = 32


class CountsFile:
    """A file of counts that belongs to this process as long as it lives.

    Most of it is never written to, and then takes no room on the disk. What is written to has room there before: on a
    full disk the kernel would kill the process that writes to such memory (mmap(2), SIGBUS).
    """

    def __init__(self, directory: Path, name: str) -> None:
        """Take the first file that no other process has.

        Args:
            name: of the program and its release.

        Raises:
            OSError: there is none, and none can be made.
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
            raise OSError(f"{directory} has no file that is free")
        self._file = file
        try:
            if os.fstat(file).st_size != SIZE or os.pread(file, len(MAGIC), 0) != MAGIC:
                os.ftruncate(file, 0)
                os.ftruncate(file, SIZE)
                os.pwrite(file, MAGIC, 0)
            self._places = {name: place for place, (name, _) in enumerate(_named(file))}
            os.posix_fallocate(file, 0, _place_at(len(self._places)))
            os.posix_fallocate(file, _place_at(PLACES - 1), _PLACE_SIZE)
            memory = memoryview(mmap.mmap(file, SIZE))
        except OSError:
            os.close(file)
            raise
        self._words, self._halves, self._floats = memory.cast("Q"), memory.cast("I"), memory.cast("d")
        self._bytes = memory
        # Whoever had it before was killed in the middle of these.
        self._words[_BROKEN_OFF] += self._words[_RUNNING]
        self._words[_RUNNING] = 0

    def begin(self, queue: str, task: str, now: float, sent: float | None = None, wait: float = 0.0) -> None:
        """Count a task that begins.

        Args:
            now: seconds since the epoch.
            sent: when it was sent; None: nobody knows, and so not how long it waited.
            wait: seconds that it did, since it was sent or since it was due.
        """
        with self._lock:
            self._words[_RUNNING] += 1
            place = self._count(BEGUN, queue, task, now)
            if sent is not None:
                self._floats[place + _LATEST_SENT] = max(sent, self._floats[place + _LATEST_SENT])
                self._observe(place, wait, now, WAIT)

    def end(self, queue: str, task: str, now: float, seconds: float) -> None:
        """Note that a task runs no more; what became of it is counted by itself."""
        with self._lock:
            self._words[_RUNNING] = max(0, self._words[_RUNNING] - 1)
            self._observe(self._place(queue, task), seconds, now, RUN)

    def count(self, kind: int, queue: str, task: str, now: float) -> None:
        """Count what became of a task: done, failed or retried."""
        with self._lock:
            self._count(kind, queue, task, now)

    def send(self, now: float) -> None:
        """Note that a task was sent.

        Args:
            now: seconds since the epoch.
        """
        self._floats[_SENT] = now

    def tell(self, send: Callable[[int], None]) -> None:
        """Tell the end of a task, or count that it could not be told.

        Those that are told are numbered without a gap, so what is lost later is seen wherever they are told to.

        Args:
            send: gets its number, and raises OSError where it is not taken.
        """
        with self._lock:
            try:
                send(self._words[_TOLD] + 1)
            except OSError:
                self._words[_UNTOLD] += 1
            else:
                self._words[_TOLD] += 1

    def _count(self, kind: int, queue: str, task: str, now: float) -> int:
        place, second = self._place(queue, task), int(now)
        self._words[1 + kind] += 1
        self._words[place + _KINDS_AT + kind] += 1
        cell = _SECONDS_AT // _HALF + second % SECONDS * _CELL
        if self._halves[cell] != second:
            for offset in range(1, _CELL):
                self._halves[cell + offset] = 0
            self._halves[cell] = second
        self._halves[cell + 1 + kind] += 1
        return place

    def _observe(self, place: int, seconds: float, now: float, what: int) -> None:
        self._floats[place + _SUMS_AT + what] += seconds
        self._words[place + _BUCKETS_AT + what * (len(BOUNDS) + 1) + bisect_left(BOUNDS, seconds)] += 1
        minute = int(now) // 60
        at = place + _MINUTES_AT + minute % 2 * _MINUTE
        if self._words[at] != minute:
            self._floats[at + 1] = self._floats[at + 2] = 0.0
            self._words[at] = minute
        self._floats[at + 1 + what] = max(seconds, self._floats[at + 1 + what])

    def _place(self, queue: str, task: str) -> int:
        name = f"{queue}\0{task}".encode(errors="replace")[: _NAME - 1]
        place = self._places.get(name)
        if place is None:
            # Names beyond the places are not remembered: there may be any number of them.
            place = min(len(self._places), PLACES - 1)
            if place < PLACES - 1:
                start = _place_at(place)
                try:
                    os.posix_fallocate(self._file, start, _PLACE_SIZE)
                except OSError:
                    place = PLACES - 1
                else:
                    self._bytes[start : start + len(name)] = name
                    self._places[name] = place
        return _PLACES_AT + place * _PLACE


def _place_at(place: int) -> int:
    return (_PLACES_AT + place * _PLACE) * _WORD


def _named(file: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the name and the contents of each place of a file that has a name."""
    for first in range(0, PLACES - 1, _CHUNK):
        size = min(_CHUNK, PLACES - 1 - first) * _PLACE_SIZE
        chunk = memoryview(os.pread(file, size, _place_at(first)))
        if len(chunk) < size:
            return
        for start in range(0, size, _PLACE_SIZE):
            place = chunk[start : start + _PLACE_SIZE]
            name = bytes(place[:_NAME]).rstrip(b"\0")
            if not name:
                return
            yield name, place


@dataclass
class Tasks:
    """What became of the tasks of one name that came by one queue.

    Attributes:
        kinds: how many of each kind.
        waits: how many waited up to each of BOUNDS and no less than the one before, and longer than the last.
        runs: the same of how long they ran.
        wait_seconds: that they waited, together.
        run_seconds: that they ran, together.
        latest_sent: when the latest that began was sent, in seconds since the epoch; 0: nobody knows.
        longest: for each of the last minutes that are known (since the epoch), the longest wait and run.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    waits: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    runs: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    wait_seconds: float = 0.0
    run_seconds: float = 0.0
    latest_sent: float = 0.0
    longest: dict[int, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, place: memoryview) -> Tasks:
        """Return what a place of a file holds."""
        words, floats = place.cast("Q"), place.cast("d")
        minutes = (_MINUTES_AT, _MINUTES_AT + _MINUTE)
        return cls(
            Counter(dict(zip(KINDS, words[_KINDS_AT:_SUMS_AT], strict=True))),
            list(words[_BUCKETS_AT:_RUNS_AT]),
            list(words[_RUNS_AT:_PLACE]),
            floats[_SUMS_AT + WAIT],
            floats[_SUMS_AT + RUN],
            floats[_LATEST_SENT],
            {words[at]: (floats[at + 1], floats[at + 2]) for at in minutes if words[at]},
        )

    def update(self, other: Tasks) -> None:
        """Take up what other processes counted of the same."""
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
    """What some processes counted.

    Attributes:
        totals: of each kind, since the program first ran on its release.
        seconds: of each kind, for each second of the last hour (since the epoch), where that is asked for.
        latest: the latest second in which anything was counted; 0: none.
        running: tasks that have begun and not ended.
        broken_off: those that were running when their process was killed.
        untold: ends of tasks that the journal did not take.
        sent: when they last sent a task, in seconds since the epoch; 0: never.
        tasks: by the names of their queue and their own. Both are empty for those that have no place.
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
        """Take up what other processes counted."""
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
        """Take up what is in an open file; one that is not whole counts for nothing.

        Args:
            seconds: whether what happened in each second is asked for.
        """
        alive = _held(file)
        head = os.pread(file, _PLACES_AT * _WORD, 0)
        if os.fstat(file).st_size != SIZE or not head.startswith(MAGIC):
            return
        # What has been taken meanwhile may have tasks of its new process's.
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
        nameless = memoryview(os.pread(file, _PLACE_SIZE, _place_at(PLACES - 1)))
        for name, place in [*_named(file), (b"", nameless)]:
            tasks = Tasks.of(place)
            if any(tasks.kinds.values()):
                queue, _, task = name.decode(errors="replace").partition("\0")
                if known := self.tasks.get((queue, task)):
                    known.update(tasks)
                else:
                    self.tasks[queue, task] = tasks


def read_counts(directory: Path, *, seconds: bool = True) -> dict[tuple[str, str], Counts]:
    """Return what each program of a host did on each release, by their names.

    Args:
        seconds: whether what happened in each second is asked for, which is most of the work.
    """
    found: dict[tuple[str, str], Counts] = {}
    for name, file in regular_files(directory, "*.counts"):
        program, _, rest = name.partition("@")
        release = rest.removesuffix(".counts").rpartition(".")[0]
        found.setdefault((program, release), Counts()).add(file, seconds=seconds)
    return found


def remove_counts(directory: Path, release: str) -> None:
    """Remove what was counted on a release."""
    with _entered(directory) as place:
        for name in _names(place, f"*@{glob.escape(release)}.*.counts"):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=place)


def regular_files(directory: Path, pattern: str) -> Iterator[tuple[str, int]]:
    """Yield the names and descriptors of a directory's files; each is open until the next.

    The directory belongs to the application's user, and root reads it: no link is followed, and nothing is waited
    for, such as the other end of a pipe.
    """
    with _entered(directory) as place:
        for name in _names(place, pattern):
            try:
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
            except OSError:
                continue
            try:
                if stat.S_ISREG(os.fstat(file).st_mode):
                    yield name, file
            finally:
                os.close(file)


@contextlib.contextmanager
def _entered(directory: Path) -> Iterator[int | None]:
    """Yield a descriptor of a directory; none if it is not there, or is a link."""
    try:
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield place
    finally:
        os.close(place)


def _names(place: int | None, pattern: str) -> list[str]:
    if place is None:
        return []
    with os.scandir(place) as entries:
        return sorted(fnmatch.filter((entry.name for entry in entries), pattern))


def _held(file: int) -> bool:
    """Return whether a process has taken a file."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    # At once, as a process that starts now would pass over it.
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
