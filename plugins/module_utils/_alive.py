"""A worker's sign of life: a file that the worker rewrites each second, and how the file is read.

The file says that the worker's event loop turns, on every broker and also while the broker is away. It is rewritten in
place, so that a full disk does not make a healthy worker look dead.

Python's own library alone: workers have this as celery_fleet_alive, whatever else is in their environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

INTERVAL_SECONDS = 1.0
#: A worker whose file is older does not answer. A busy machine delays a loop by seconds.
FRESH_SECONDS = 10.0
_SUFFIX = ".alive"
# The queues of the largest worker fit in. What is shorter is filled up with spaces.
_SIZE = 16384


@dataclass(frozen=True)
class Alive:
    """What a worker reports of itself.

    Attributes:
        pid: its process.
        at: seconds of the host's monotonic clock, which does not jump.
        queues: that it consumes now.
        active: number of tasks that it runs.
        held: number of tasks that it has received and not started, as under a rate limit.
        done: number of tasks that it has received since its process started.
    """

    pid: int
    at: float
    queues: tuple[str, ...]
    active: int
    held: int
    done: int


class AliveFile:
    """The file of one program, which its worker writes."""

    def __init__(self, directory: Path, program: str) -> None:
        self._path = directory / f"{program}{_SUFFIX}"
        self._file = -1

    def write(self, queues: Iterable[str], *, active: int, held: int, done: int) -> None:
        """Report; an error of the disk is left to the next time."""
        alive = Alive(os.getpid(), time.monotonic(), tuple(queues), active, held, done)
        text = json.dumps(asdict(alive)).encode()
        with contextlib.suppress(OSError):
            if self._file < 0:
                self._path.parent.mkdir(exist_ok=True)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
            os.pwrite(self._file, text.ljust(_SIZE), 0)


def read_alive(directory: Path, program: str, pid: int) -> Alive | None:
    """Return the last report of a program's process; None if it has never written one.

    The directory belongs to the application's user, and root reads it: no link is followed, and nothing is waited for.

    Args:
        directory: of the counts.
        pid: its process, as Supervisor knows it.
    """
    try:
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        file = os.open(f"{program}{_SUFFIX}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except OSError:
        return None
    finally:
        os.close(place)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        raw = json.loads(os.pread(file, _SIZE, 0))
        queues = tuple(map(str, raw["queues"]))
        numbers = (int(raw["active"]), int(raw["held"]), int(raw["done"]))
        found = Alive(int(raw["pid"]), float(raw["at"]), queues, *numbers)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    finally:
        os.close(file)
    return found if found.pid == pid else None


def is_fresh(alive: Alive | None) -> bool:
    """Return whether a worker's last report is so recent that its event loop turns."""
    return alive is not None and 0 <= time.monotonic() - alive.at <= FRESH_SECONDS
