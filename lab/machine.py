#!/usr/bin/env python3
"""Check that this machine has what the lab's hosts need, and raise its limit of inotify instances if that is too low.

lab/machine.py HOSTS names all that is missing, with the remedy, and exits with 1. Run as root: only root sees what the
hosts use, and may raise the limit.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
#: What a host of the largest fleets takes, measured, and rounded up: workers, a broker, what monitors them.
HOST_MEMORY = 350 * MIB
HOST_DISK = 400 * MIB
#: systemd and each of its services that watch files: 5 to 6.
HOST_INOTIFY = 8
#: For the images of Debian 12 and 13, and for Ansible, pip and browsers beside the hosts.
BASE_DISK = 3 * GIB
BASE_MEMORY = 1 * GIB
INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
#: What the limit is raised to at least, so that it is not raised again for each few hosts.
INOTIFY_RAISED = 1024
STORAGE = Path("/var/lib/containers")


@dataclass(frozen=True)
class Machine:
    """What a machine has left.

    Attributes:
        memory: bytes that programs can still take.
        disk: bytes that are free where podman keeps its containers.
        inotify_used: inotify instances of root's processes, the hosts' among them.
        inotify_limit: how many a user may have.
    """

    memory: int
    disk: int
    inotify_used: int
    inotify_limit: int

    def inotify_needed(self, hosts: int) -> int:
        """Return the limit that so many hosts more need."""
        return self.inotify_used + hosts * HOST_INOTIFY


def problems(machine: Machine, hosts: int) -> list[str]:
    """Return what the machine lacks for so many hosts more, each with what to do about it."""
    found = []
    memory, disk = BASE_MEMORY + hosts * HOST_MEMORY, BASE_DISK + hosts * HOST_DISK
    if machine.memory < memory:
        found.append(
            f"memory: {machine.memory / GIB:.1f} GiB are available, {hosts} hosts need {memory / GIB:.1f} GiB. "
            "End other programs, or run fewer scenarios at a time (scripts/test --jobs 1)"
        )
    if machine.disk < disk:
        found.append(
            f"disk: {machine.disk / GIB:.1f} GiB are free below {STORAGE}, {hosts} hosts need {disk / GIB:.1f} GiB. "
            "Remove what is not needed (podman system df), or give that directory a larger disk"
        )
    needed = machine.inotify_needed(hosts)
    if machine.inotify_limit < needed:
        found.append(
            f"inotify: a user may have {machine.inotify_limit} instances, {hosts} hosts need {needed}, and without "
            f"them a host does not boot. Run: sysctl -w fs.inotify.max_user_instances={max(needed, INOTIFY_RAISED)}"
        )
    return found


def inotify_instances() -> int:
    """Return how many inotify instances root's processes have."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == 0:
                found += sum(str(link.readlink()) == "anon_inode:inotify" for link in (process / "fd").iterdir())
        except OSError:  # it has ended meanwhile
            continue
    return found


def this_machine() -> Machine:
    """Return what this machine has left."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    storage = next(path for path in (STORAGE, *STORAGE.parents) if path.exists())
    return Machine(
        memory=int(meminfo["MemAvailable"].split()[0]) * 1024,
        disk=shutil.disk_usage(storage).free,
        inotify_used=inotify_instances(),
        inotify_limit=int(INOTIFY_LIMIT.read_text(encoding="ascii")),
    )


def main() -> int:
    """Check this machine for as many hosts as the first argument says."""
    hosts = int(sys.argv[1])
    machine = this_machine()
    needed = machine.inotify_needed(hosts)
    if machine.inotify_limit < needed and os.access(INOTIFY_LIMIT, os.W_OK):
        raised = max(needed, INOTIFY_RAISED)
        try:
            INOTIFY_LIMIT.write_text(f"{raised}\n", encoding="ascii")
        except OSError:  # a sandbox that has it read-only: named below
            pass
        else:
            print(f"Raised fs.inotify.max_user_instances from {machine.inotify_limit} to {raised} until the next boot")
            machine = this_machine()
    found = problems(machine, hosts)
    for problem in found:
        print(f"This machine is too small for {hosts} hosts. {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
