"""The run of Ansible that this process belongs to, and the others of this machine."""

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
        user: who runs it.
        machine: its controller.
        process: its main process, with when it was started, so that none that comes later is taken for it; empty where
            that can't be known.
        processes: of all runs on this machine.
    """

    user: str
    machine: str
    process: str
    processes: tuple[str, ...]


def _stat(pid: str) -> tuple[str, str]:
    """Return parent and start of a process (proc(5)); the name before them may hold anything."""
    fields = (_PROC / pid / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return fields[1], fields[19]


def _is_ansible(pid: str) -> bool:
    arguments = (_PROC / pid / "cmdline").read_bytes().split(b"\0")[:2]
    return any(Path(os.fsdecode(argument)).name.startswith("ansible") for argument in arguments)


def this_run() -> Run:
    """Return the run that this process belongs to."""
    found = {}
    for path in _PROC.glob("[0-9]*"):
        try:
            if _is_ansible(path.name):
                found[path.name] = f"{path.name}.{_stat(path.name)[1]}"
        except OSError:  # it has ended meanwhile
            continue
    mine, pid = "", str(os.getpid())
    while pid not in ("0", "1"):
        mine = found.get(pid, mine)
        try:
            pid = _stat(pid)[0]
        except OSError:  # no /proc on this machine
            break
    return Run(getpass.getuser(), os.uname().nodename, mine, tuple(found.values()))
