"""Measure what signed messages cost: sent, verified and claimed in the replay cache, and by kind of key.

On a worker's host of the demo, whose senders sign for as long as it takes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from bench.throughput import on
from lab.fleet import load_fleet, play

ON_HOST = Path(__file__).with_name("signing_on_host.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inventory", type=Path, default=Path("inventories/lab"), help="default: inventories/lab")
    parser.add_argument("--broker", choices=("rabbitmq", "redis"), default="rabbitmq")
    parser.add_argument("--messages", type=int, default=1000, help="a round (default: 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    options = parser.parse_args()
    fleet = load_fleet(options.inventory, options.broker)
    worker = next(host for host in fleet.app_hosts if host != fleet.beat)
    variables = ["--extra-vars", f"celery_broker={fleet.kind}"]
    run = ["sudo", "-n", f"/srv/{fleet.app}/bin/celery_run", "python", "-c", ON_HOST.read_text(encoding="utf-8")]
    run += ["shop.celery:app", "customers.noop", str(options.messages)]
    play(options.inventory, "site.yml", [*variables, "--extra-vars", "celery_signed_messages=both"])
    try:
        rounds: list[dict[str, Any]] = []
        for number in range(options.rounds):
            rounds.append(json.loads(on(fleet, worker, run).splitlines()[-1]))
            print(f"round {number + 1} of {options.rounds}", flush=True)
    finally:
        play(options.inventory, "site.yml", variables)
    what = {kind: {key: median(each[kind][key] for each in rounds) for key in ("cpu", "seconds")} for kind in rounds[0]}
    for kind, cost in what.items():
        base = kind.split()[0] + " Ed25519" if kind.split()[-1].isdigit() else "send plain"
        ratio = {key: cost[key] / what[base][key] for key in cost}
        print(
            f"{fleet.kind}, {kind}: CPU {cost['cpu'] * 1000:.2f} ms, time {cost['seconds'] * 1000:.2f} ms; "
            f"CPU x{ratio['cpu']:.2f}, time x{ratio['seconds']:.2f} of {base}"
        )


if __name__ == "__main__":
    main()
