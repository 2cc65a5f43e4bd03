#!/usr/bin/env python3
"""Check that this machine has the resources that the lab's hosts need, and raise its limit of inotify instances.

Usage: lab/machine.py HOSTS. Prints all that is missing, with the fix, and exits with 1. Run it as root, who can see the
hosts' processes and raise the limit.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
#: Measured maximum of a host in the largest fleets, rounded up: workers, a broker, monitoring.
HOST_MEMORY = 350 * MIB
HOST_DISK = 400 * MIB
#: inotify instances of systemd and its services: 5 to 6.
HOST_INOTIFY = 8
#: For the images of Debian 12 and 13, and for Ansible, pip and browsers.
BASE_DISK = 3 * GIB
BASE_MEMORY = 1 * GIB
INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
#: The limit is raised at least to this, so that it need not be raised often.
INOTIFY_RAISED = 1024
STORAGE = Path("/var/lib/containers")


@dataclass(frozen=True)
class Machine:
    """The free resources of a machine.

    Attributes:
        memory: available memory in bytes.
        disk: free bytes of the file system of podman's containers.
        inotify_used: inotify instances of root's processes, including those on hosts.
        inotify_limit: inotify instances that a user may have.
    """

    memory: int
    disk: int
    inotify_used: int
    inotify_limit: int

    def inotify_needed(self, hosts: int) -> int:
        """Return the limit that is needed with this number of additional hosts."""
        return self.inotify_used + hosts * HOST_INOTIFY


def problems(machine: Machine, hosts: int) -> list[str]:
    """Return the resources that the machine lacks for a number of additional hosts, each with the fix."""
    missing = []
    memory, disk = BASE_MEMORY + hosts * HOST_MEMORY, BASE_DISK + hosts * HOST_DISK
    if machine.memory < memory:
        missing.append(
            f"memory: {machine.memory / GIB:.1f} GiB are available, {hosts} hosts need {memory / GIB:.1f} GiB. "
            "End other programs, or run fewer scenarios at a time (scripts/test --jobs 1)"
        )
    if machine.disk < disk:
        missing.append(
            f"disk: {machine.disk / GIB:.1f} GiB are free below {STORAGE}, {hosts} hosts need {disk / GIB:.1f} GiB. "
            "Remove unused images (podman system prune), or enlarge that file system"
        )
    needed = machine.inotify_needed(hosts)
    if machine.inotify_limit < needed:
        missing.append(
            f"inotify: a user may have {machine.inotify_limit} instances, {hosts} hosts need {needed}, and without "
            f"them a host does not boot. Run: sysctl -w fs.inotify.max_user_instances={max(needed, INOTIFY_RAISED)}"
        )
    return missing


def inotify_instances() -> int:
    """Return the number of inotify instances of root's processes."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == 0:
                found += sum(str(link.readlink()) == "anon_inode:inotify" for link in (process / "fd").iterdir())
        except OSError:  # it has exited
            continue
    return found


def this_machine() -> Machine:
    """Return the free resources of this machine."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    storage = next(path for path in (STORAGE, *STORAGE.parents) if path.exists())
    return Machine(
        memory=int(meminfo["MemAvailable"].split()[0]) * 1024,
        disk=shutil.disk_usage(storage).free,
        inotify_used=inotify_instances(),
        inotify_limit=int(INOTIFY_LIMIT.read_text(encoding="ascii")),
    )


def main() -> int:
    """Check this machine for the number of hosts in the first argument."""
    hosts = int(sys.argv[1])
    machine = this_machine()
    needed = machine.inotify_needed(hosts)
    if machine.inotify_limit < needed and os.access(INOTIFY_LIMIT, os.W_OK):
        raised = max(needed, INOTIFY_RAISED)
        try:
            INOTIFY_LIMIT.write_text(f"{raised}\n", encoding="ascii")
        except OSError:  # read-only in a sandbox: reported below
            pass
        else:
            print(f"Raised fs.inotify.max_user_instances from {machine.inotify_limit} to {raised} until the next boot")
            machine = this_machine()
    found = problems(machine, hosts)
    for problem in found:
        print(f"This machine lacks resources for {hosts} hosts. {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
