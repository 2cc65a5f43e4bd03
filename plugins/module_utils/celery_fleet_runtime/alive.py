"""A worker's heartbeat: a file that the worker rewrites each second, and how to read it.

The heartbeat proves that the worker's event loop runs, with any broker. While the worker has no connection to its
broker, the loop stands still, and the file says so. The file is rewritten in place, so a full disk does not stop the
heartbeat of a healthy worker.

Standard library only: workers import this module, whatever their environment contains.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from .counts import read_file

INTERVAL_SECONDS = 1.0
#: A worker with an older heartbeat does not respond. A busy machine delays an event loop by seconds.
FRESH_SECONDS = 10.0
_SUFFIX = ".alive"
# Bytes of the file, enough for the queues of the largest worker. The rest is filled with spaces.
_SIZE = 16384


@dataclass(frozen=True)
class Alive:
    """A worker's heartbeat.

    Attributes:
        pid: process ID.
        at: time in seconds of the host's monotonic clock. Without a connection, the time at which it was lost.
        queues: queues that the worker consumes.
        active: number of running tasks.
        held: number of tasks that were received and not started, such as under a rate limit.
        done: number of tasks that were received since the process started.
        connected: whether the worker has a connection to its broker.
    """

    pid: int
    at: float
    queues: tuple[str, ...]
    active: int
    held: int
    done: int
    connected: bool = True

    @property
    def age(self) -> float:
        """Return the seconds since the heartbeat."""
        return max(0.0, time.monotonic() - self.at)


class AliveFile:
    """The heartbeat file of a program, for its worker to write."""

    def __init__(self, directory: Path, program: str) -> None:
        self._path = directory / f"{program}{_SUFFIX}"
        self._file = -1

    def write(self, queues: Iterable[str], *, active: int, held: int, done: int, connected: bool = True) -> None:
        """Write a heartbeat. Ignore disk errors: the next heartbeat follows within a second."""
        alive = Alive(os.getpid(), time.monotonic(), tuple(queues), active, held, done, connected)
        text = json.dumps(asdict(alive)).encode()
        with contextlib.suppress(OSError):
            if self._file < 0:
                self._path.parent.mkdir(mode=0o750, exist_ok=True)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
            os.pwrite(self._file, text.ljust(_SIZE), 0)


def read_alive(directory: Path, program: str, pid: int) -> Alive | None:
    """Return the last heartbeat of a program's process; None if it has not written one.

    Args:
        directory: directory of the counts.
        pid: process ID that Supervisor reports.
    """
    try:
        raw = json.loads(read_file(directory, f"{program}{_SUFFIX}", _SIZE))
        queues = tuple(map(str, raw["queues"]))
        numbers = (int(raw["active"]), int(raw["held"]), int(raw["done"]))
        # Workers of an earlier release do not write connected.
        found = Alive(int(raw["pid"]), float(raw["at"]), queues, *numbers, bool(raw.get("connected", True)))
    except (ValueError, KeyError, TypeError):
        return None
    return found if found.pid == pid else None


def is_fresh(alive: Alive | None) -> bool:
    """Return whether a worker's last heartbeat is at most FRESH_SECONDS old, and the worker is connected."""
    return alive is not None and alive.connected and 0 <= time.monotonic() - alive.at <= FRESH_SECONDS
