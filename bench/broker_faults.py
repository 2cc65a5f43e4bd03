"""Measure what the loss of a broker's host costs, with three hosts: seconds without tasks, tasks lost and run twice.

And their throughput, to that of one host.

Runs the scenarios of the tests with all of their faults: cluster (RabbitMQ) and sentinel (Valkey).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

LOGS = Path(".cache/test-logs")
SCENARIOS = {"rabbitmq": "cluster", "valkey": "sentinel"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--broker", choices=SCENARIOS, help="default: both, one after the other")
    chosen = parser.parse_args().broker
    failed = False
    for broker in [chosen] if chosen else SCENARIOS:
        scenario = SCENARIOS[broker]
        environment = os.environ | {"FLEET_BENCHMARK": "1", "PYTEST_ADDOPTS": "-s"}
        done = subprocess.run([Path("scripts/test").resolve(), "--only", scenario], env=environment, check=False)
        failed |= done.returncode != 0
        print(f"{broker}, three hosts:")
        for line in (LOGS / f"{scenario}.log").read_text(encoding="utf-8").splitlines():
            if " lost, " in line or "throughput of " in line:
                print(f"    {line.strip()}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
