"""RabbitMQ clusters: the names of nodes, times that fit together, and when a node may stop. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._declaration import Queue
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem

#: Seconds after which a node that does not respond counts as down. Until then, the others can't declare queues.
#: A shorter time takes busy nodes for failed ones.
NET_TICKTIME = 30
#: Smallest heartbeat in seconds. A connection without heartbeats is closed after two of them. A worker that declares
#: its queues sends none, and may have to wait until a failed node is noticed, at the latest after 1.25 ticks.
HEARTBEAT_LEAST = NET_TICKTIME * 5 // 8 + 1
HEARTBEAT = 20
# Settings of control and event queues that keep them on one node, or locked while it is down.
_QUEUES_OF_WORKERS = {
    f"{kind}_queue_{name}": value
    for kind in ("control", "event")
    for name, value in (("exclusive", False), ("durable", True))
}


def node_host(name: str) -> str:
    """Return the host part of a node's name, for a name of the inventory. No host has this name itself."""
    return _label(f"rabbitmq-node-{name}")


def cluster_name(app: str, hosts: Iterable[str]) -> str:
    """Return the name by which clients find all nodes. A cluster that replaces another one has other hosts."""
    return f"{app}-{_label(f'broker-{min(hosts)}')}"[:63].rstrip("-")


def _label(text: str) -> str:
    """Return a text as a label of a domain name."""
    return re.sub("[^A-Za-z0-9]+", "-", text).strip("-").lower()[:63].rstrip("-")


def check_nodes(addresses: Mapping[str, str], problems: list[Problem]) -> None:
    """Refuse hosts of the inventory that can't be nodes of one cluster.

    Args:
        addresses: by the names of the hosts.
    """
    found: dict[str, str] = {}
    for name, address in addresses.items():
        if ":" in address:
            fix = "Set it to an IPv4 address of that host"
            problems.append(Problem(f"celery_host_address of {name}", f"{address} can't be that of a node", fix))
        other = found.setdefault(node_host(name), name)
        if other != name:
            what = f"have the same name as nodes of RabbitMQ, {node_host(name)}"
            problems.append(Problem(f"the hosts {other} and {name}", what, "Rename one of them in the inventory"))


def check_queues(queues: Iterable[Queue], problems: list[Problem]) -> None:
    """Refuse queues that only one node has: while it is down, workers that consume from them end."""
    for queue in queues:
        if queue.transient or queue.type != "quorum":
            key = "transient" if queue.transient else "type"
            what = (
                "the queue would be on one of the broker's hosts. While that host is down, its tasks wait, and "
                "its workers end again and again"
            )
            problems.append(Problem(f"celery_queues[{queue.name}].{key}", what, "Remove it, for a quorum queue"))


def check_settings(settings: Mapping[str, Any], problems: list[Problem]) -> None:
    """Refuse Celery's settings with which workers would not survive the failure of a node."""
    heartbeat = settings.get("broker_heartbeat")
    if not isinstance(heartbeat, (int, float)) or heartbeat < HEARTBEAT_LEAST:
        what = (
            f"{heartbeat} s is too short for a broker with several hosts: they need up to {NET_TICKTIME * 5 / 4:g} s "
            "to notice that one has failed, and until then a worker that starts waits. A connection is closed after "
            "two heartbeats"
        )
        if not heartbeat:
            what = f"{heartbeat}: without heartbeats, a worker does not notice that its broker's host has failed"
        fix = f"Remove it, or set it to {HEARTBEAT_LEAST} or more"
        problems.append(Problem("celery_settings.broker_heartbeat", what, fix))
    for name, value in _QUEUES_OF_WORKERS.items():
        if bool(settings.get(name)) != value:
            what = (
                f"is {settings.get(name)}, but the queue must be a quorum queue. Another is on one of the broker's "
                "hosts, and a worker can't start while that host is down"
            )
            problems.append(Problem(f"celery_settings.{name}", what, "Remove it"))


def rotated(addresses: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Return addresses with another one first for each number, so that clients use all of them."""
    first = number % len(addresses)
    return addresses[first:] + addresses[:first]


def cluster_problems(status: Mapping[str, Any], planned: Collection[str]) -> list[str]:
    """Return what a node lacks to be part of the planned cluster; empty: nothing.

    Args:
        status: output of rabbitmqctl cluster_status as JSON.
        planned: the names of all nodes.
    """
    members, running = set(status["disk_nodes"]), set(status["running_nodes"])
    partitions = status.get("partitions") or {}
    found = []
    if lacking := sorted(set(planned) - members):
        found.append(f"its cluster lacks {', '.join(lacking)}")
    if others := sorted(members - set(planned)):
        found.append(f"its cluster has {', '.join(others)}, which the inventory does not have")
    if down := sorted(members & set(planned) - running):
        found.append(f"{', '.join(down)} does not run")
    if partitions:
        found.append(f"the cluster is split: {partitions}")
    return found
