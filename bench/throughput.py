"""Measure a worker's no-op tasks per second with the rendered settings and with Celery's defaults.

On a worker's host of the demo, by turns, through a vhost and a user that exist for as long as it takes.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._plan import PREFETCHED_MOST
from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url

from lab.fleet import Fleet, load_fleet

NAME = "bench"
# Which settings, and the worker's options.
CASES = {
    "rendered": ("rendered", []),
    "rendered, duration 5ms": ("rendered", [f"--prefetch-multiplier={PREFETCHED_MOST}"]),
    "Celery's defaults": ("defaults", []),
}
ON_HOST = Path(__file__).with_name("throughput_on_host.py")


def on(fleet: Fleet, host: str, command: list[str], given: str = "") -> str:
    """Run a command on a host, with data on its stdin, which no process list shows."""
    ssh = ["ssh", "-F", str(fleet.state / "ssh" / "config"), "-o", "BatchMode=yes", host, shlex.join(command)]
    return subprocess.run(ssh, input=given, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inventory", type=Path, default=Path("inventories/lab"), help="default: inventories/lab")
    parser.add_argument("--tasks", type=int, default=3000, help="a round (default: 3000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each (default: 3)")
    options = parser.parse_args()
    fleet = load_fleet(options.inventory)
    worker = next(host for host in fleet.app_hosts if host != fleet.beat)
    broker: dict[str, Any] = {"kind": "rabbitmq", "address": fleet.addresses[fleet.broker], "user": NAME, "vhost": NAME}
    broker |= {"port": 5671, "tls_port": 5671}
    password = secrets.token_urlsafe(24)
    control = ["sudo", "-n", "rabbitmqctl", "--quiet"]
    rates: dict[str, list[float]] = {case: [] for case in CASES}
    try:
        on(fleet, fleet.broker, [*control, "add_vhost", NAME])
        on(fleet, fleet.broker, [*control, "add_user", NAME], password)
        on(fleet, fleet.broker, [*control, "set_permissions", "-p", NAME, NAME, ".*", ".*", ".*"])
        for number in range(options.rounds):
            for case, (settings, worker_options) in CASES.items():
                run = ["sudo", "-n", "-u", fleet.app, f"/srv/{fleet.app}/bin/celery_run"]
                run += ["python", "-c", ON_HOST.read_text(encoding="utf-8"), settings, str(options.tasks)]
                answer = json.loads(on(fleet, worker, [*run, *worker_options], broker_url(broker, password)))
                rates[case].append(answer["tasks"] / answer["seconds"])
                print(f"round {number + 1}, {case}: {rates[case][-1]:.0f} tasks/s", flush=True)
    finally:
        on(fleet, fleet.broker, [*control, "delete_vhost", NAME])
        on(fleet, fleet.broker, [*control, "delete_user", NAME])
    middle = {case: median(found) for case, found in rates.items()}
    defaults = middle["Celery's defaults"]
    print("median:")
    for case, rate in middle.items():
        print(f"    {case}: {rate:.0f} tasks/s, {rate / defaults:.2f} of Celery's defaults")


if __name__ == "__main__":
    main()
