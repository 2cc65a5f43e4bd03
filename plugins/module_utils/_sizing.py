"""The broker's need of resources: memory and disk for queued tasks, and connections for all clients.

Sizes are bytes. The costs of a task were measured by bench/broker_memory.py (see the table in docs/figures.md).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from ansible_collections.fleet.celery.plugins.module_utils._declaration import Queue
from ansible_collections.fleet.celery.plugins.module_utils._message_costs import COSTS
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, format_size

# For fragmentation, messages larger than the typical one, and messages that arrive after the alert.
HEADROOM = 1.25
# Share of the host's memory for messages. The rest is for Redis' copy of changed pages during a rewrite of its
# append-only file, or for RabbitMQ's garbage collection, and for the system. RabbitMQ recommends 0.4 to 0.7
# (https://www.rabbitmq.com/docs/memory#configuring-threshold).
SHARE = 0.6
# During a rewrite of an append-only file or segment, the old and the new one are on the disk.
DISK_COPIES = 2
# Memory of the write-ahead log of all quorum queues. It holds at most 512 MiB of messages
# (https://www.rabbitmq.com/docs/quorum-queues#resource-use), which were measured to take up to 1.7 times their size.
QUORUM_LOG = 900 * MIB
# Values of task_compression that were measured. They name the same algorithm.
MEASURED_COMPRESSIONS = ("zlib", "gzip", "application/x-gzip")


@dataclass(frozen=True)
class Clients:
    """The largest number of connections to a broker, by client.

    Attributes:
        worker: of a worker's main process, for consuming, events and remote control.
        child: of each prefork child or thread, for sending tasks and storing results.
        sender: of each process outside of the fleet that sends tasks and reads results.
        monitor: of each monitoring client: Flower, the watchdog of each host, the broker's UI.
    """

    worker: int
    child: int
    sender: int
    monitor: int


@dataclass(frozen=True)
class Costs:
    """The memory costs of a kind of broker.

    Attributes:
        base: bytes of an empty broker.
        connection: bytes of each connection.
        result: bytes of each stored result; 0: it stores none.
        clients: connections of each client.
    """

    base: int
    connection: int
    result: int
    clients: Clients


@dataclass(frozen=True)
class Need:
    """The resources that a broker needs.

    Attributes:
        parts: bytes of memory, by a label with the numbers that they result from.
        disk: bytes on the disk.
        connections: number of connections.
    """

    parts: Mapping[str, int]
    disk: int
    connections: int

    @property
    def memory(self) -> int:
        """Return the bytes that the broker must be able to take before it refuses messages or blocks senders."""
        return ceil(sum(self.parts.values()) * HEADROOM)

    @property
    def host_memory(self) -> int:
        """Return the bytes that its host must have for it."""
        return ceil(self.memory / SHARE)

    @property
    def arithmetic(self) -> str:
        """Return the calculation of the memory, for people."""
        terms = " + ".join(f"{label} {format_size(size)}" for label, size in self.parts.items())
        return f"({terms}) x {HEADROOM} = {format_size(self.memory)}"


@dataclass(frozen=True)
class TaskCost:
    """The costs of a queued task, in bytes.

    Attributes:
        memory: memory right after it was queued.
        kept: memory once a quorum queue has written its log to the disk; the same as memory for other queues.
        disk: space on the disk.
    """

    memory: int
    kept: int
    disk: int


def task_cost(kind: str, queue_type: str, size: int, *, compressed: bool) -> TaskCost:
    """Return the costs of a queued task, by linear interpolation and extrapolation of the measured ones.

    Args:
        kind: the broker's kind, "redis" or "rabbitmq".
        queue_type: "list", "quorum" or "classic".
        size: bytes of the task's arguments as JSON.
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
    replay_cache: int = 0,
) -> Need:
    """Return the resources that a broker needs.

    Args:
        queues: each queue with its type on this broker.
        result_expires: seconds for which results are stored.
        replay_cache: bytes of the replay cache, 0 if there is none. Redis holds it itself, RabbitMQ's host beside it.
    """
    parts = {"empty broker": costs.base, f"{connections} connections": connections * costs.connection}
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
    disk += replay_cache
    if replay_cache and kind == "redis":
        parts["replay cache"] = replay_cache
    return Need(parts, ceil(disk * DISK_COPIES * HEADROOM), connections)
