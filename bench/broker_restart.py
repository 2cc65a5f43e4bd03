"""Measure how long after a restart of the broker workers consume again under load, and whether tasks are lost.

On the demo's hosts, whichever broker it was made with. The broker is restarted in order, and then killed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.fleet import Fleet, load_fleet, processes, read_ledgers, remote

SECONDS_BEFORE = 10
SETTLE_SECONDS = 120
CALLS = {
    "customers.sync": [1],
    "email.send_order_confirmation": [1, "a@shop.example"],
    "video.transcode": [1, 0.1],
    "reports.build": ["2026-03", 0.1],
}
FLOW = """
import json, sys, time
from shop.celery import app
app.loader.import_default_modules()
deadline = time.monotonic() + float(sys.argv[1])
while time.monotonic() < deadline:
    for task, arguments in json.loads(sys.argv[2]).items():
        print(app.tasks[task].apply_async(arguments).id)
    time.sleep(0.2)
"""


def started(lines: list[dict[str, Any]]) -> dict[tuple[str, str], list[datetime]]:
    """Return when each queue's tasks were started on each host."""
    found: dict[tuple[str, str], list[datetime]] = {}
    for line in lines:
        if line["event"] == "started":
            found.setdefault((line["queue"], line["host"]), []).append(datetime.fromisoformat(line["time"]))
    return found


def ledger(fleet: Fleet, since: float, ids: set[str]) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, read_ledgers(fleet, since)) if line["id"] in ids]


def measure(fleet: Fleet, unit: str, how: list[str], seconds: int) -> tuple[dict[tuple[str, str], float], int, int]:
    """Return for each worker the seconds until it started a task, the number of tasks sent, and of those not ended."""
    began = time.time()
    ssh = ["ssh", "-F", str(fleet.state / "ssh" / "config"), "-o", "BatchMode=yes", fleet.beat]
    flow = ["sudo", "-n", "-u", fleet.app, f"/srv/{fleet.app}/bin/celery_run", "python", "-c", FLOW]
    command = [*ssh, shlex.join([*flow, str(seconds), json.dumps(CALLS)])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
        time.sleep(SECONDS_BEFORE)
        remote(fleet, fleet.broker, ["sudo", "-n", *how, unit])
        away = datetime.now(UTC)
        ids = set((sender.communicate()[0] or "").split())
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        lines = ledger(fleet, began, ids)
        left = ids - {line["id"] for line in lines if line["event"] == "done"}
        if not left or time.monotonic() > deadline:
            break
        time.sleep(1)
    waits = {}
    for worker, times in started(lines).items():
        after = [moment for moment in times if moment > away]
        if any(moment < away for moment in times):
            waits[worker] = (min(after) - away).total_seconds() if after else float("inf")
    return waits, len(ids), len(left)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inventory", type=Path, default=Path("inventories/lab"), help="default: inventories/lab")
    parser.add_argument("--seconds", type=int, default=80, help="how long tasks are sent (default: 80)")
    options = parser.parse_args()
    fleet = load_fleet(options.inventory)
    brokers = ("rabbitmq-server", "redis-server", "valkey-server")
    unit = next(process.name for process in processes(fleet, fleet.broker) if process.name in brokers)
    for name, how in (("restarted", ["systemctl", "restart"]), ("killed", ["systemctl", "kill", "--signal=KILL"])):
        waits, sent, lost = measure(fleet, unit, how, options.seconds)
        for (queue, host), wait in sorted(waits.items()):
            print(f"{unit} {name}: {queue} on {host} takes tasks again after {wait:.1f} s")
        print(f"{unit} {name}: all after {max(waits.values()):.1f} s; {sent} tasks sent meanwhile, {lost} not done")


if __name__ == "__main__":
    main()
