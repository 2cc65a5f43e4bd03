#!/usr/bin/python3
"""Strays: programs that outlived their supervisord, which was killed. They run beside those that the next one starts.

Run as a program before supervisord starts, it stops all of them warm. It only needs Python's standard library: hosts
have this file as supervisor-end-strays.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# An idle worker exits within this time. Others finish their tasks beside the new ones.
WAIT_SECONDS = 10
_NAME = b"SUPERVISOR_PROCESS_NAME="


@dataclass(frozen=True, order=True)
class Stray:
    """The main process of a program that no supervisord owns."""

    program: str
    pid: int


def strays(supervisord: int = 0, proc: Path = Path("/proc")) -> list[Stray]:
    """Return the main processes of programs whose parent is not this supervisord.

    Args:
        supervisord: process id of supervisord; 0 if none runs.
    """
    processes: dict[int, tuple[str, int]] = {}
    for path in proc.glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes().split(b"\0")
            parent = int((path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it has exited
        for item in environment:
            if item.startswith(_NAME):
                processes[int(path.name)] = (item.removeprefix(_NAME).decode(errors="replace"), parent)
    return sorted(
        Stray(name, pid)
        for pid, (name, parent) in processes.items()
        if parent != supervisord and parent not in processes
    )


def strays_of(app_name: str) -> list[dict[str, object]]:
    """Return the program and the pid of each stray of an application."""
    return [asdict(stray) for stray in strays(supervisord()) if stray.program.startswith(f"{app_name}-")]


def stop_strays(found: list[Stray], signum: int = signal.SIGTERM) -> None:
    """Send a signal to strays. By SIGTERM, a worker consumes no more tasks, and exits once its own have ended."""
    for stray in found:
        try:
            handle = os.pidfd_open(stray.pid)
        except OSError:
            continue
        try:
            # The kernel may have reused the process id.
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
    found = strays()
    for stray in found:
        print(f"{stray.program} (process {stray.pid}) outlived its supervisord, which was killed; stopping it warm")
    stop_strays(found)
    deadline = time.monotonic() + WAIT_SECONDS
    while strays() and time.monotonic() < deadline:
        time.sleep(0.2)


if __name__ == "__main__":
    main()
