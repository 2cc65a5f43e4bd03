"""Measure the time and the tasks of site.yml on bare hosts, and on hosts that are already configured.

Destroys the demo's hosts and makes them anew.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from lab.fleet import LOGS, become_options, play

RECAP = re.compile(r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+)", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inventory", type=Path, default=Path("inventories/lab"), help="default: inventories/lab")
    inventory = parser.parse_args().inventory
    for playbook in ("lab/destroy.yml", "lab/create.yml"):
        print(playbook, flush=True)
        play(inventory, playbook, become_options())
    seconds = {}
    for run in ("first", "second"):
        print(f"site.yml, the {run} time", flush=True)
        started = time.monotonic()
        play(inventory, "site.yml")
        seconds[run] = time.monotonic() - started
        for host in RECAP.finditer((LOGS / "site.log").read_text(encoding="utf-8")):
            print(f"    {host['host']:12} {host['ok']:>4} tasks, {host['changed']:>3} changed")
        print(f"    {seconds[run]:.0f} s", flush=True)
    print(f"first / second: {seconds['first'] / seconds['second']:.1f}")


if __name__ == "__main__":
    main()
