"""Compare the memory of each worker's parent and children with the plan's budget."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from ansible_collections.fleet.celery.plugins.module_utils import _plan
from ansible_collections.fleet.celery.plugins.module_utils._declaration import APP_MEMORY
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB

from lab.fleet import Fleet, load_fleet, remote

# Of each process of the application: its own id, its parent's, resident and proportional kilobytes, and its command.
LIST = """
for directory in /proc/[0-9]*; do
  pid=${directory#/proc/}
  case $(tr '\\0' ' ' <"$directory/cmdline" 2>/dev/null) in
    */venv/bin/celery*) ;;
    *) continue ;;
  esac
  parent=$(awk '/^PPid:/ {print $2}' "$directory/status")
  resident=$(awk '/^Rss:/ {print $2}' "$directory/smaps_rollup")
  share=$(awk '/^Pss:/ {print $2}' "$directory/smaps_rollup")
  echo "$pid $parent $resident $share"
done
"""


def worker_processes(fleet: Fleet, host: str) -> dict[int, tuple[int, int, int]]:
    """Return parent, resident memory and proportional share (KiB) of each of the application's processes."""
    rows = remote(fleet, host, ["sudo", "-n", "sh", "-c", LIST]).splitlines()
    numbers = ([int(field) for field in row.split()] for row in rows)
    return {pid: (parent, resident, share) for pid, parent, resident, share in numbers}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inventory", type=Path, default=Path("inventories/lab"), help="default: inventories/lab")
    fleet = load_fleet(parser.parse_args().inventory)
    counted = {"parent": APP_MEMORY, "beat": _plan.BEAT}
    print("The plan counts " + ", ".join(f"{size // MIB} MiB for a {name}" for name, size in counted.items()))
    print(f"{'program':28} {'pool':8} {'parent':>12} {'child (median)':>18}   MiB resident (share)")
    for host in fleet.app_hosts:
        found = worker_processes(fleet, host)
        status = remote(fleet, host, ["sudo", "-n", "supervisorctl", "status"], allowed=(0, 3))
        for program, _, _, pid_text, *_ in (line.split() for line in status.splitlines() if "RUNNING" in line):
            pid = int(pid_text.rstrip(","))
            children = [(resident, share) for parent, resident, share in found.values() if parent == pid]
            command = remote(fleet, host, ["sudo", "-n", "cat", f"/proc/{pid}/cmdline"]).split("\0")
            pool = next((word.removeprefix("--pool=") for word in command if word.startswith("--pool=")), "")
            _, resident, share = found[pid]
            child = ""
            if children:
                child = f"{median(c[0] for c in children) / 1024:.0f} ({median(c[1] for c in children) / 1024:.0f})"
            parent = f"{resident / 1024:.0f} ({share / 1024:.0f})"
            print(f"{program + ' on ' + host:28} {pool:8} {parent:>12} {child:>18}")


if __name__ == "__main__":
    main()
