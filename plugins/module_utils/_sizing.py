"""What a broker needs: memory and disk for the tasks that may wait in it, connections for all who use it.

Sizes are bytes. What a task costs was measured by bench/broker_memory.py (docs/figures.md has its table).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from ansible_collections.fleet.celery.plugins.module_utils._declaration import Queue
from ansible_collections.fleet.celery.plugins.module_utils._message_costs import COSTS
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, format_size

# For fragmentation, messages larger than the typical one, and what comes while somebody reads the alarm.
HEADROOM = 1.25
# Of a broker's host. The rest is for the copy that Redis makes of what changes while it rewrites its append-only file,
# or for RabbitMQ's garbage collection (https://www.rabbitmq.com/docs/memory#configuring-threshold recommends 0.4 to
# 0.7), and for the system.
SHARE = 0.6
# A rewritten append-only file, or segment, lies beside the old one until it is complete.
DISK_COPIES = 2
# What the log of all quorum queues takes in memory before RabbitMQ writes it out: 512 MiB of messages at most
# (https://www.rabbitmq.com/docs/quorum-queues#resource-use), measured to be up to 1.7 times their size.
QUORUM_LOG = 900 * MIB
# Settings of Celery's whose messages were measured (kombu names the same algorithm twice).
MEASURED_COMPRESSIONS = ("zlib", "gzip", "application/x-gzip")


@dataclass(frozen=True)
class Clients:
    """Connections to a broker, at most, by what opens them.

    Attributes:
        worker: by a worker's main process: to consume, to send events, for remote control.
        child: by each prefork child or thread whose tasks send tasks, or store results.
        sender: by each process outside of the fleet that sends tasks and reads results.
        monitor: by what looks on: Flower, the watchdog of each host, the broker's page.
    """

    worker: int
    child: int
    sender: int
    monitor: int


@dataclass(frozen=True)
class Costs:
    """What a kind of broker takes for itself.

    Attributes:
        base: bytes of memory with nothing in it.
        connection: bytes of memory for each connection.
        result: bytes of memory for each result that it keeps; 0: it keeps none.
    """

    base: int
    connection: int
    result: int
    clients: Clients


@dataclass(frozen=True)
class Need:
    """What a fleet needs of its broker.

    Attributes:
        parts: what the memory is for, in words with the numbers that it comes from, and bytes.
    """

    parts: Mapping[str, int]
    disk: int
    connections: int

    @property
    def memory(self) -> int:
        """What the broker must be allowed to take before it refuses or holds up senders."""
        return ceil(sum(self.parts.values()) * HEADROOM)

    @property
    def host_memory(self) -> int:
        """What its host must have for it."""
        return ceil(self.memory / SHARE)

    @property
    def arithmetic(self) -> str:
        """How the memory comes about, for people."""
        terms = " + ".join(f"{label} {format_size(size)}" for label, size in self.parts.items())
        return f"({terms}) x {HEADROOM} = {format_size(self.memory)}"


@dataclass(frozen=True)
class TaskCost:
    """What a queued task takes.

    Attributes:
        memory: with all just queued.
        kept: once the log of a quorum queue is written out of memory; the same as memory for other queues.
    """

    memory: int
    kept: int
    disk: int


def task_cost(kind: str, queue_type: str, size: int, *, compressed: bool) -> TaskCost:
    """Return the bytes that a queued task takes.

    Between the sizes that were measured it grows in a straight line, and beyond the largest as between the last two.

    Args:
        kind: of broker, "redis" or "rabbitmq".
        queue_type: "list", "quorum" or "classic".
        size: of the task's arguments as JSON, in bytes.
    """
    rows = COSTS[kind, queue_type, compressed]
    upper = min(max(bisect_left([row[0] for row in rows], size), 1), len(rows) - 1)
    (low, *below), (high, *above) = rows[upper - 1], rows[upper]
    part = (size - low) / (high - low)
    return TaskCost(*(ceil(first + part * (second - first)) for first, second in zip(below, above, strict=True)))


def broker_need(
    kind: str,
    costs: Costs,
    queues: Iterable[tuple[Queue, str]],
    *,
    connections: int,
    compressed: bool,
    result_expires: int,
) -> Need:
    """Return what a broker needs for its queues.

    Args:
        queues: each with its type on this broker.
        result_expires: seconds that results are kept.
    """
    parts = {"itself": costs.base, f"{connections} connections": connections * costs.connection}
    disk = log = results = 0
    for queue, queue_type in queues:
        cost = task_cost(kind, queue_type, queue.message_size, compressed=compressed)
        disk += queue.backlog * cost.disk
        log += queue.backlog * (cost.memory - cost.kept)
        results += ceil(queue.results_per_hour * result_expires / 3600)
        if queue.backlog:
            parts[f"{queue.name} {queue.backlog} tasks x {cost.kept} bytes"] = queue.backlog * cost.kept
    if log:
        parts["log of quorum queues"] = min(log, QUORUM_LOG)
    if results and costs.result:
        parts[f"{results} results x {costs.result} bytes"] = results * costs.result
        disk += results * costs.result
    return Need(parts, ceil(disk * DISK_COPIES * HEADROOM), connections)
