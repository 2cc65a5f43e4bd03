"""Counts what becomes of a worker's tasks, second by second, in files that outlive its processes.

Imported by the settings of a program that Supervisor runs. Each process writes to a file of its own, by memory that it
shares with it: no call of the system a task, and nothing is lost when it is killed. The file goes on with the next
process of the program on the same release. celery_status reads them.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from celery import signals

MAGIC = b"fleet 1\0"
# Of all time: begun, done, failed, retried.
TOTALS = struct.Struct("=8s4Q")
# Of one second: which, and the same four.
CELL = struct.Struct("=5I")
CELLS = 3600
SIZE = TOTALS.size + CELLS * CELL.size
KINDS = ("begun", "done", "failed", "retried")


class Counts:
    """A file of counts that belongs to this process as long as it lives."""

    def __init__(self, directory: Path, name: str) -> None:
        """Take the first file that no other process has.

        Args:
            name: of the program and its release.
        """
        self.pid = os.getpid()
        self._lock = threading.Lock()
        for number in range(10_000):
            self._file = os.open(directory / f"{name}.{number}.counts", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                os.close(self._file)
        if os.fstat(self._file).st_size != SIZE:
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, SIZE)
            os.pwrite(self._file, MAGIC, 0)
        self._map = mmap.mmap(self._file, SIZE)

    def add(self, kind: int, now: float) -> None:
        """Count one event.

        Args:
            kind: its place in KINDS.
            now: seconds since the epoch.
        """
        second = int(now)
        place = TOTALS.size + second % CELLS * CELL.size
        with self._lock:
            _, *totals = TOTALS.unpack_from(self._map)
            totals[kind] += 1
            TOTALS.pack_into(self._map, 0, MAGIC, *totals)
            then, *cell = CELL.unpack_from(self._map, place)
            if then != second:
                cell = [0, 0, 0, 0]
            cell[kind] += 1
            CELL.pack_into(self._map, place, second, *cell)


def reporter(directory: Path, name: str) -> Callable[[int], None]:
    """Return what counts an event of a kind, in whichever process it is called."""
    mine: list[Counts] = []

    def report(kind: int) -> None:
        # A report that fails must not fail a task.
        with contextlib.suppress(OSError, ValueError):
            if not mine or mine[0].pid != os.getpid():
                mine[:] = [Counts(directory, name)]
            mine[0].add(kind, time.time())

    return report


def handlers(report: Callable[[int], None]) -> Iterator[tuple[signals.Signal, Callable[..., None]]]:
    """Yield Celery's signals with what counts each."""
    for kind, signal in enumerate(
        (signals.task_prerun, signals.task_success, signals.task_failure, signals.task_retry)
    ):

        def count(kind: int = kind, **_: object) -> None:
            report(kind)

        yield signal, count


def install() -> None:
    """Count the tasks of a program that Supervisor runs; in any other process do nothing."""
    directory, program = os.environ.get("CELERY_FLEET_COUNTS"), os.environ.get("SUPERVISOR_PROCESS_NAME")
    if not directory or not program:
        return
    report = reporter(Path(directory), f"{program}@{os.environ.get('CELERY_APP_RELEASE', '')}")
    for signal, count in handlers(report):
        signal.connect(count, weak=False, dispatch_uid=f"celery_fleet_report.{id(signal)}")
