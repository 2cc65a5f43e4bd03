"""Measure the memory and disk space of a queued task on each broker.

Boots two hosts of its own, fills one queue of one broker at a time with messages as Celery publishes them with a
fleet's settings, and removes the hosts. What it finds goes to bench/results/broker_memory.json as well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any

from bench.brokers import SUBJECTS, Hosts, Subject, bench_hosts, options_of
from lab.fleet import ROOT

RESULTS = ROOT / "bench" / "results" / "broker_memory.json"
COSTS = ROOT / "plugins" / "module_utils" / "_message_costs.py"

KIB = 1024
#: Bytes of a task's arguments, and the most tasks of that size: what fills a host must stay below its memory.
SIZES = {0: sys.maxsize, KIB: 200_000, 10 * KIB: 30_000}
COMPRESSIONS = (None, "zlib")
QUICK_TASKS = 3000
TELL_SECONDS = 5
#: "Having a million tasks in the queue consumes roughly 1 GB": of Redis, in megabytes.
ARTICLE_MEGABYTES = 1000


COSTS_MODULE = '''"""The costs of a queued task on each kind of broker, in bytes.

Written by bench/broker_memory.py on {date} with Celery {celery}: the maximum of the measurements on Debian 12 and 13.
Keys: kind of broker, type of queue, whether messages are compressed. Rows: size of the arguments, memory right after
queueing, memory once a quorum queue has written its log to the disk, space on the disk.
"""

from __future__ import annotations

COSTS: dict[tuple[str, str, bool], tuple[tuple[int, int, int, int], ...]] = {{
{costs}
}}
'''


@dataclass(frozen=True)
class Cost:
    """The cost of a task, in bytes.

    Attributes:
        memory: what the broker itself counts.
        resident: what the kernel counts.
        disk: below the broker's data directory.
    """

    memory: float
    resident: float
    disk: float


@dataclass(frozen=True)
class Figure:
    """The result of filling a queue once.

    Attributes:
        size: bytes of the arguments as JSON.
        message: bytes that Celery sends.
        peak: bytes a task that the kernel counted at most while the queue was filled.
        filled: the cost with the queue filled and the broker at rest.
        compacted: that after the broker's log was rewritten (Redis) or written out of memory (quorum queues).
    """

    broker: str
    version: str
    queue_type: str
    size: int
    compression: str | None
    tasks: int
    message: float
    peak: float
    filled: Cost
    compacted: Cost | None

    @property
    def title(self) -> str:
        """Return a title of the measurement."""
        kind = "" if self.queue_type == "list" else f" {self.queue_type}"
        return f"{self.broker} {'.'.join(self.version.split('.')[:2])}{kind}"

    @property
    def arguments(self) -> str:
        """Return the size of the arguments, for people."""
        return f"{self.size // KIB} KiB" if self.size else "none"


def figure(subject: Subject, fill: Mapping[str, Any], result: Mapping[str, Any]) -> Figure:
    """Return the result of a fill, from the host's measurements."""
    tasks = fill["tasks"]

    def cost(added: Mapping[str, int]) -> Cost:
        return Cost(**{name: round(value / tasks, 1) for name, value in added.items()})

    return Figure(
        broker=subject.name,
        version=result["version"],
        queue_type=subject.queue_type,
        size=fill["size"],
        compression=fill["compression"],
        tasks=tasks,
        message=round(result["message"], 1),
        peak=round(result["peak"] / tasks, 1),
        filled=cost(result["filled"]),
        compacted=cost(result["compacted"]) if result["compacted"] else None,
    )


def as_data(found: Figure) -> dict[str, Any]:
    """Return a result for the file of results, with units in its keys."""

    def cost(given: Cost | None) -> dict[str, float] | None:
        return (
            None
            if given is None
            else {
                "memory_bytes": given.memory,
                "resident_bytes": given.resident,
                "disk_bytes": given.disk,
            }
        )

    return {
        "broker": found.broker.lower(),
        "version": found.version,
        "queue_type": found.queue_type,
        "argument_bytes": found.size,
        "compression": found.compression,
        "tasks": found.tasks,
        "message_bytes": found.message,
        "peak_resident_bytes": found.peak,
        "filled": cost(found.filled),
        "compacted": cost(found.compacted),
    }


HEADINGS = (
    ("broker", "arguments", "zlib", "tasks", "message", "memory", "", "resident", "", "", "disk", "", "memory of"),
    ("", "", "", "", "", "filled", "after*", "filled", "peak", "after*", "filled", "after*", "a million tasks"),
)
LEFT_COLUMNS = 3


def table(figures: Sequence[Figure]) -> list[str]:
    """Return the lines of the table: bytes per task, and of a million tasks beside the article's figure."""
    rows: list[tuple[str, ...]] = list(HEADINGS)
    for found in figures:
        after = found.compacted
        numbers: list[float | None] = [
            found.tasks,
            found.message,
            found.filled.memory,
            after.memory if after else None,
            found.filled.resident,
            found.peak,
            after.resident if after else None,
            found.filled.disk,
            after.disk if after else None,
        ]
        million = f"{found.filled.memory:,.0f} MB ({found.filled.memory / ARTICLE_MEGABYTES:.2f})"
        cells = ["-" if number is None else f"{number:,.0f}" for number in numbers]
        rows.append((found.title, found.arguments, "yes" if found.compression else "no", *cells, million))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < LEFT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


NOTES = f"""
Bytes a task, beyond those of the broker with an empty queue. memory: what the broker counts (used_memory; Erlang's
total). resident: what the kernel counts, and its peak while the queue was filled. disk: append-only file, or message
store and log. A message's bytes are those that Celery sends: Redis gets the body as base64.
* after Redis rewrote its append-only file, or RabbitMQ wrote a quorum queue's log (512 MiB at most) out of memory.
In brackets: over the {ARTICLE_MEGABYTES / 1000:.0f} GB that an article names for a million tasks in Redis.
A quorum queue costs as much on each of its members.
""".strip()


def planner_costs(found: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, bool], list[tuple[int, ...]]]:
    """Return the costs of a task for _message_costs.py: the maximum over all versions.

    Memory is what the broker's own limit counts: used_memory for Redis' maxmemory, resident memory for RabbitMQ's
    vm_memory_high_watermark. Once a log is written out, what the broker counts: the kernel still has what was freed,
    which the next messages take.

    Args:
        found: figures as the file of results has them.
    """
    costs: dict[tuple[str, str, bool], dict[int, tuple[int, ...]]] = {}
    for each in found:
        kind = "rabbitmq" if each["broker"] == "rabbitmq" else "redis"
        counts = "resident_bytes" if kind == "rabbitmq" else "memory_bytes"
        filled, after = each["filled"], each["compacted"] or each["filled"]
        kept = after["memory_bytes"] if each["queue_type"] == "quorum" else filled[counts]
        row = (filled[counts], kept, max(filled["disk_bytes"], after["disk_bytes"]))
        rows = costs.setdefault((kind, each["queue_type"], each["compression"] is not None), {})
        other = rows.get(each["argument_bytes"], (0, 0, 0))
        rows[each["argument_bytes"]] = tuple(max(ceil(one), two) for one, two in zip(row, other, strict=True))
    return {key: [(size, *row) for size, row in sorted(rows.items())] for key, rows in costs.items()}


def planner_module(results: Mapping[str, Any]) -> str:
    """Return the text of _message_costs.py."""
    lines = []
    for key, rows in planner_costs(results["figures"]).items():
        lines += [f"    {key!r}: (", *(f"        {row!r}," for row in rows), "    ),"]
    return COSTS_MODULE.format(date=results["date"], celery=results["celery"], costs="\n".join(lines).replace("'", '"'))


def fills(most: int) -> list[dict[str, Any]]:
    """Return the fills of each broker, with at most this number of tasks."""
    return [
        {"size": size, "compression": compression, "tasks": min(most, limit), "tell_seconds": TELL_SECONDS}
        for size, limit in SIZES.items()
        for compression in COMPRESSIONS
    ]


class Runner:
    """Measures on all hosts in parallel, and stops on all of them if one fails."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: dict[Subject, list[Figure]] = {subject: [] for subject in SUBJECTS}

    @property
    def figures(self) -> list[Figure]:
        """Return the results so far, by subject."""
        return [each for found in self.found.values() for each in found]

    def run(self, hosts: Hosts) -> None:
        """Run all measurements.

        Raises:
            RuntimeError: the program failed on a host.
        """
        names = sorted({subject.host for subject in SUBJECTS})
        with ThreadPoolExecutor(len(names)) as pool:
            waiting = [pool.submit(self._host, hosts, name) for name in names]
            try:
                wait(waiting, return_when=FIRST_EXCEPTION)
            finally:
                hosts.stop()
        for future in waiting:
            future.result()

    def _host(self, hosts: Hosts, name: str) -> None:
        for subject in SUBJECTS:
            if subject.host == name:
                self._measure(hosts, subject)

    def _measure(self, hosts: Hosts, subject: Subject) -> None:
        options = options_of(subject) | {"fills": fills(self.most)}
        found = self.found[subject]
        for line in hosts.run(subject.host, "memory", options):
            fill = options["fills"][len(found)]
            size = f"{fill['size']} bytes" + (", zlib" if fill["compression"] else "")
            about = f"{subject.host}: {subject.name} {subject.queue_type}, {size}"
            if "done" in line:
                print(f"{about}: {line['done']:,} of {line['of']:,}", flush=True)
                continue
            result = line["result"]
            found.append(figure(subject, fill, result))
            took, memory = result["seconds"], found[-1].filled.memory
            print(f"{about}: {fill['tasks']:,} tasks in {took:.0f} s, {memory:,.0f} bytes each", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000, help="a queue; fewer large ones (default: 100000)")
    parser.add_argument("--quick", action="store_true", help="a few tasks, to try this program; writes no results")
    parser.add_argument("--output", type=Path, default=RESULTS, help=f"default: {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    os.chdir(ROOT)
    runner = Runner(QUICK_TASKS if options.quick else options.tasks)
    try:
        with bench_hosts() as hosts:
            runner.run(hosts)
    finally:
        # Also what was found before it was interrupted.
        if runner.figures:
            print("", *table(runner.figures), "", NOTES, sep="\n")
    if not options.quick:
        found = {
            "date": datetime.now(UTC).date().isoformat(),
            "celery": version("celery"),
            "kombu": version("kombu"),
            "figures": [as_data(each) for each in runner.figures],
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"\nWritten to {options.output}")
        if options.output == RESULTS:
            COSTS.write_text(planner_module(found), encoding="utf-8")
            print(f"and to {COSTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
