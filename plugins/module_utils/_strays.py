#!/usr/bin/python3
"""Programs that a supervisord left behind when it was killed: they work on, beside those that the next one starts.

Run by itself, before a supervisord starts, it has all of them end, warm. Python's own library alone: hosts have this as
supervisor-end-strays.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# Who is at no task ends within that; others end theirs beside the new ones.
PATIENCE_SECONDS = 10
_NAME = b"SUPERVISOR_PROCESS_NAME="


@dataclass(frozen=True, order=True)
class Stray:
    """A process of a program that no supervisord owns, without those that it started itself."""

    program: str
    pid: int


def strays(supervisord: int = 0, proc: Path = Path("/proc")) -> list[Stray]:
    """Return the programs' processes whose parent is neither this supervisord nor one of them.

    Args:
        supervisord: its process id; 0 if none runs.
    """
    found: dict[int, tuple[str, int]] = {}
    for path in proc.glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has ended meanwhile
        for item in environment:
            if item.startswith(_NAME):
                found[int(path.name)] = (item.removeprefix(_NAME).decode(errors="replace"), parent)
    return sorted(
        Stray(name, pid) for pid, (name, parent) in found.items() if parent != supervisord and parent not in found
    )


def strays_of(app_name: str) -> list[dict[str, object]]:
    """Return program and pid of each of an application's programs that the host's supervisord does not own."""
    return [asdict(stray) for stray in strays(supervisord()) if stray.program.startswith(f"{app_name}-")]


def end(those: list[Stray], signum: int = signal.SIGTERM) -> None:
    """Send them a signal: by TERM, a worker takes no more tasks and ends those that it has."""
    for stray in those:
        try:
            handle = os.pidfd_open(stray.pid)
        except OSError:
            continue
        try:
            # The number may be another process's by now.
            if f"{stray.program}".encode() in (Path("/proc") / str(stray.pid) / "environ").read_bytes():
                signal.pidfd_send_signal(handle, signum)
        except OSError:
            continue
        finally:
            os.close(handle)


def supervisord() -> int:
    """Return the process id of the supervisord of this host; 0 if none runs."""
    try:
        pid = int(Path("/run/supervisord.pid").read_text(encoding="ascii"))
        os.kill(pid, 0)
    except (OSError, ValueError):
        return 0
    return pid


def main() -> None:
    there = strays()
    for stray in there:
        print(f"{stray.program} (process {stray.pid}) was left by a supervisord that was killed; it ends its tasks")
    end(there)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while strays() and time.monotonic() < deadline:
        time.sleep(0.2)


if __name__ == "__main__":
    main()
