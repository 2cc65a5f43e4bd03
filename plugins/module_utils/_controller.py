"""This run of Ansible, and the other runs on the controller."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Run:
    """A run of Ansible.

    Attributes:
        user: the user who started it.
        machine: the controller's host name.
        process: its main process as PID.START, so that a reused PID is not taken for it; empty where it is not known.
        processes: the processes of all runs on the controller.
    """

    user: str
    machine: str
    process: str
    processes: tuple[str, ...]


def _stat(pid: str) -> tuple[str, str]:
    """Return the parent and the start time of a process (proc(5)). The name before them may contain any character."""
    fields = (_PROC / pid / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return fields[1], fields[19]


def _is_ansible(pid: str) -> bool:
    arguments = (_PROC / pid / "cmdline").read_bytes().split(b"\0")[:2]
    return any(Path(os.fsdecode(argument)).name.startswith("ansible") for argument in arguments)


def this_run() -> Run:
    """Return the run that this process belongs to."""
    processes = {}
    for path in _PROC.glob("[0-9]*"):
        try:
            if _is_ansible(path.name):
                processes[path.name] = f"{path.name}.{_stat(path.name)[1]}"
        except OSError:  # it has exited
            continue
    mine, pid = "", str(os.getpid())
    while pid not in ("0", "1"):
        mine = processes.get(pid, mine)
        try:
            pid = _stat(pid)[0]
        except OSError:  # the controller has no /proc
            break
    return Run(getpass.getuser(), os.uname().nodename, mine, tuple(processes.values()))
