"""Measure the no-op tasks per second of the same worker through each of Debian 13's brokers, in turns.

Boots hosts of its own, and removes them. The worker runs on the broker's host, with a fleet's settings.
"""

from __future__ import annotations

import argparse
import os
from statistics import median

from bench.brokers import SUBJECTS, Subject, bench_hosts, options_of
from lab.fleet import ROOT

HOST = "debian13"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=5000, help="a round (default: 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each broker (default: 3)")
    options = parser.parse_args()
    os.chdir(ROOT)
    rates: dict[Subject, list[float]] = {subject: [] for subject in SUBJECTS if subject.host == HOST}
    names = {}
    with bench_hosts() as hosts:
        for number in range(options.rounds):
            for subject, found in rates.items():
                for answer in hosts.run(HOST, "throughput", options_of(subject) | {"tasks": options.tasks}):
                    found.append(options.tasks / answer["seconds"])
                    names[subject] = f"{subject.name} {answer['version']} {subject.queue_type}"
                    print(f"round {number + 1}, {names[subject]}: {found[-1]:.0f} tasks/s", flush=True)
    first = median(next(iter(rates.values())))
    for subject, found in rates.items():
        print(f"median, {names[subject]}: {median(found):.0f} tasks/s, {median(found) / first:.2f} of the first")


if __name__ == "__main__":
    main()
