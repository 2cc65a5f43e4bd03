"""The broker in the plan: its host and address, its listeners, and the resources that it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._brokers import BROKERS, Demand
from ansible_collections.fleet.celery.plugins.module_utils._facts import DERIVED_ROLE_VARIABLES
from ansible_collections.fleet.celery.plugins.module_utils._hosts import Host
from ansible_collections.fleet.celery.plugins.module_utils._platforms import platform_of
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, as_integer
from ansible_collections.fleet.celery.plugins.module_utils._sizing import (
    MEASURED_COMPRESSIONS,
    SHARE,
    Need,
    broker_need,
)
from ansible_collections.fleet.celery.plugins.module_utils._topology import DELAY_LEVELS
from ansible_collections.fleet.celery.plugins.module_utils._units import format_size, parse_size
from ansible_collections.fleet.celery.plugins.module_utils._url import LOOPBACK

# Smallest limit of connections.
MAXCLIENTS_LEAST = 1000
# Smallest number of queues that clients may declare, for replies, events and remote control.
QUEUES_LEAST = 500

_ADDRESS = re.compile(r"[A-Za-z0-9.:_-]+")


@dataclass(frozen=True)
class Senders:
    """The broker's clients other than workers.

    Attributes:
        web: number of processes outside of the fleet that send tasks.
        monitors: number of monitoring clients: Flower, and the watchdog of each host with workers.
    """

    web: int
    monitors: int


def broker_flavor(raw: Mapping[str, Any], problems: list[Problem]) -> str:
    flavor = str(raw.get("broker") or "rabbitmq")
    if flavor not in BROKERS:
        problems.append(
            Problem("celery_broker", f"{flavor!r} is not a broker", f"Set it to one of {', '.join(BROKERS)}")
        )
        return "rabbitmq"
    return flavor


def broker_host(
    raw: Mapping[str, Any],
    flavor: str,
    groups: Mapping[str, list[str]],
    hosts: Mapping[str, Host],
    problems: list[Problem],
) -> tuple[Host, str]:
    """Return the broker's host, with an empty name if there is none, and its address for workers."""
    group = str(raw.get("broker_group") or "broker")
    members = groups.get(group, [])
    if len(members) != 1:
        problems.append(
            Problem(
                "celery_broker_group",
                f"the group {group!r} has {len(members)} hosts, but a fleet has one broker",
                f"Put exactly one host into the group {group}",
            )
        )
        return Host(""), ""
    host = hosts.get(members[0], Host(members[0]))
    address = str(raw.get("broker_address") or "") or host.address
    if not address:
        problems.append(
            Problem(
                "celery_broker_address",
                f"the address of {host.name} is not known",
                "Set it to a name or an IP address, or gather facts of the host",
            )
        )
    if not _ADDRESS.fullmatch(address or "-"):
        problems.append(
            Problem(
                "celery_broker_address",
                f"{address!r} is not an address",
                "Set it to a name or an IP address, e.g. 10.0.0.10",
            )
        )
    if flavor == "valkey" and host.system and not platform_of(*host.system).valkey:
        problems.append(
            Problem(
                "celery_broker",
                f"{host.name} has {' '.join(map(str, host.system))}, which has no Valkey",
                "Set it to redis, or use a host whose system has a package of Valkey",
            )
        )
    for name in host.role_variables:
        if name.startswith(BROKERS[flavor].kind):
            problems.append(
                Problem(name, "has no effect, because the plan sets it", f"Set {DERIVED_ROLE_VARIABLES[name]} instead")
            )
    return host, address


def broker_port(raw: Mapping[str, Any], default: int, problems: list[Problem]) -> int:
    value = raw.get("broker_port") or default
    port = as_integer(value)
    if port is None or not 0 < port < 2**16:
        problems.append(Problem("celery_broker_port", f"{value!r} is not a port", "Set it to a number from 1 to 65535"))
        return default
    return port


def reached_at(raw: Mapping[str, Any], address: str, listening: Sequence[str]) -> str:
    """Return the address that workers connect to: the given one, or loopback if the broker listens on nothing else."""
    return "127.0.0.1" if not raw.get("broker_address") and listening == ["127.0.0.1"] else address


def listen_addresses(
    raw: Mapping[str, Any],
    broker: Host,
    fleet_hosts: Iterable[str],
    problems: list[Problem],
    warnings: list[str],
) -> list[str]:
    """Return the addresses on which the broker listens: celery_broker_listen_addresses, or what the fleet needs.

    A public address must be set explicitly. Of several addresses without a default route, one must be.
    """
    value = raw.get("broker_listen_addresses") or []
    if not isinstance(value, list):
        what = f"{value!r} is not a list"
        problems.append(Problem("celery_broker_listen_addresses", what, f"Set it to a list, e.g. [{value}]"))
        value = []
    addresses = [str(address) for address in value]
    clients = sorted(set(fleet_hosts) - {broker.name})
    if addresses:
        if clients and all(address in LOOPBACK for address in addresses):
            problems.append(
                Problem(
                    "celery_broker_listen_addresses",
                    f"{', '.join(addresses)} can't be reached from {', '.join(clients)}",
                    "Add another address of the broker's host",
                )
            )
        return addresses
    if not broker.address or (not clients and str(raw.get("broker_address") or "127.0.0.1") in LOOPBACK):
        return ["127.0.0.1"]
    declared = str(raw.get("broker_address") or "")
    address = declared if declared in broker.addresses else broker.address
    if _is_global(address):
        problems.append(
            Problem(
                "celery_broker_listen_addresses",
                f"is not set, and the address of {broker.name}, {address}, is public",
                "Set it to the addresses on which the broker must listen, preferably private ones",
            )
        )
    if broker.guessed and address != declared:
        which = f"{broker.name} has several addresses: {', '.join(broker.addresses)}"
        if address in broker.addresses:
            warnings.append(f"{which}. The fleet uses {address}. To change it, set celery_host_address of that host")
        else:
            fix = "Set it in the variables of that host to the address that other hosts reach"
            problems.append(Problem(f"celery_host_address of {broker.name}", f"is not set, and {which}", fix))
    return [address]


def _is_global(address: str) -> bool:
    """Return whether an address is a public one. A name stands for a host whose facts are not known."""
    try:
        return ip_address(address).is_global
    except ValueError:
        return False


def web_processes(raw: Mapping[str, Any], problems: list[Problem]) -> int:
    value = raw.get("web_processes") or 0
    processes = as_integer(value)
    if processes is None or processes < 0:
        what = f"{value!r} is not a number of processes"
        problems.append(Problem("celery_web_processes", what, "Set it to a whole number, e.g. 8"))
        return 0
    return processes


def need_of(
    flavor: str,
    demand: Demand,
    slots: Iterable[int],
    senders: Senders,
    settings: Mapping[str, Any],
) -> Need:
    """Return the resources that the broker needs.

    Args:
        slots: the concurrency of each worker on each host.
        settings: Celery's settings, including celery_settings.
    """
    broker = BROKERS[flavor]
    clients = broker.costs.clients
    workers = sum(clients.worker + slot * clients.child for slot in slots)
    compression = str(settings.get("task_compression") or "").lower()
    expires = as_integer(settings.get("result_expires"))
    return broker_need(
        broker.kind,
        broker.costs,
        [(queue, str(broker.queue(demand.app_name, queue)["type"])) for queue in demand.queues],
        connections=workers + senders.web * clients.sender + senders.monitors * clients.monitor,
        compressed=compression in MEASURED_COMPRESSIONS,
        result_expires=0 if expires is None else expires,
    )


def given_memory(raw: Mapping[str, Any], need: Need, problems: list[Problem]) -> int | None:
    """Return the bytes of celery_broker_memory; None if it is not set."""
    value = raw.get("broker_memory")
    if not value:
        return None
    try:
        memory = parse_size(value)
    except ValueError as error:
        problems.append(Problem("celery_broker_memory", str(error), "Set it to a size, e.g. 4GB, or remove it"))
        return None
    if memory < need.memory:
        problems.append(
            Problem(
                "celery_broker_memory",
                f"{format_size(memory)} is less than the declared tasks need: {need.arithmetic}",
                f"Raise it to {format_size(need.memory)}, remove it, or lower backlog or message_size of celery_queues",
            )
        )
    return memory


def memory_limit(given: int | None, need: Need, left: int | None) -> int:
    """Return the bytes that the broker may take before it refuses messages or blocks senders.

    Args:
        left: bytes that the rest of the plan leaves on its host; None if the host's memory is not known.
    """
    return given or max(need.memory, int((left or 0) * SHARE))


def check_disk(host: Host, need: Need, problems: list[Problem]) -> None:
    if host.disk is not None and need.disk > host.disk:
        problems.append(
            Problem(
                f"disk of {host.name}",
                f"the declared tasks need {format_size(need.disk)}, but the file system of /var/lib has "
                f"{format_size(host.disk)}",
                "Lower backlog or message_size of celery_queues, or enlarge the disk",
            )
        )


def maxclients(need: Need) -> int:
    """Return the broker's limit of connections: twice the need, as broken connections may still be open."""
    return max(MAXCLIENTS_LEAST, 2 * need.connections)


def max_queues(queues: int, need: Need) -> int:
    """Return RabbitMQ's limit of queues: all that exist permanently, and two for each connection.

    A queue for replies outlives its connection for a while.

    Args:
        queues: number of queues of tasks.
    """
    return queues + 1 + DELAY_LEVELS + max(QUEUES_LEAST, 2 * need.connections)
