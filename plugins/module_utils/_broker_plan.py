"""The plan's part about the broker: where it is, where it listens, and what it must hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._brokers import BROKERS, Demand
from ansible_collections.fleet.celery.plugins.module_utils._declaration import Problem, as_integer
from ansible_collections.fleet.celery.plugins.module_utils._facts import DERIVED_ROLE_VARIABLES
from ansible_collections.fleet.celery.plugins.module_utils._hosts import Host
from ansible_collections.fleet.celery.plugins.module_utils._sizing import (
    MEASURED_COMPRESSIONS,
    SHARE,
    Need,
    broker_need,
)
from ansible_collections.fleet.celery.plugins.module_utils._units import format_size, parse_size
from ansible_collections.fleet.celery.plugins.module_utils._url import LOOPBACK

# Fewer are not worth a limit. Twice as many as there may be, since those that broke may be there still.
MAXCLIENTS_LEAST = 1000
# Valkey came with Debian 13.
VALKEY_SINCE = 13

_ADDRESS = re.compile(r"[A-Za-z0-9.:_-]+")


@dataclass(frozen=True)
class Senders:
    """Who else connects to the broker than workers.

    Attributes:
        web: processes outside of the fleet that send tasks.
        lookers: Flower, and the watchdogs of the hosts with workers.
    """

    web: int
    lookers: int


def broker_flavor(raw: Mapping[str, Any], problems: list[Problem]) -> str:
    flavor = str(raw.get("broker") or "rabbitmq")
    if flavor not in BROKERS:
        problems.append(Problem("celery_broker", f"{flavor!r} is unknown", f"Choose one of {', '.join(BROKERS)}"))
        return "rabbitmq"
    return flavor


def broker_host(
    raw: Mapping[str, Any],
    flavor: str,
    groups: Mapping[str, list[str]],
    hosts: Mapping[str, Host],
    problems: list[Problem],
) -> tuple[Host, str]:
    """Return the broker's host, its name empty if there is none, and the address that workers reach it by."""
    group = str(raw.get("broker_group") or "broker")
    members = groups.get(group, [])
    if len(members) != 1:
        problems.append(
            Problem(
                "celery_broker_group",
                f"{group!r} has {len(members)} hosts, but a fleet has one broker",
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
                "Set it, or gather facts",
            )
        )
    if not _ADDRESS.fullmatch(address or "-"):
        problems.append(
            Problem(
                "celery_broker_address", f"{address!r} is no address", "Give a name or an IP address, such as 10.0.0.10"
            )
        )
    if flavor == "valkey" and host.system and host.system[0] == "Debian" and host.system[1] < VALKEY_SINCE:
        problems.append(
            Problem(
                "celery_broker",
                f"{host.name} has Debian {host.system[1]}, which has no Valkey",
                f"Take redis, or a host with Debian {VALKEY_SINCE}",
            )
        )
    for name in host.role_variables:
        if name.startswith(BROKERS[flavor].kind):
            problems.append(
                Problem(name, "is derived by the plan, and would have no effect", f"Set {DERIVED_ROLE_VARIABLES[name]}")
            )
    return host, address


def broker_port(raw: Mapping[str, Any], default: int, problems: list[Problem]) -> int:
    given = raw.get("broker_port") or default
    port = as_integer(given)
    if port is None or not 0 < port < 2**16:
        problems.append(Problem("celery_broker_port", f"{given!r} is no port", "Give a number from 1 to 65535"))
        return default
    return port


def listen_addresses(
    raw: Mapping[str, Any], broker: Host, fleet_hosts: Iterable[str], problems: list[Problem]
) -> list[str]:
    """Return where the broker listens: as told, or no wider than the fleet needs.

    Where its address is a public one, that must be told.
    """
    told = raw.get("broker_listen_addresses") or []
    if not isinstance(told, list):
        what = f"{told!r} is not a list"
        problems.append(Problem("celery_broker_listen_addresses", what, f"Write it as [{told}]"))
        told = []
    given = [str(address) for address in told]
    away = sorted(set(fleet_hosts) - {broker.name})
    if given:
        if away and all(address in LOOPBACK for address in given):
            problems.append(
                Problem(
                    "celery_broker_listen_addresses",
                    f"{', '.join(given)} can't be reached from {', '.join(away)}",
                    "Add another address of the broker's host",
                )
            )
        return given
    if not away or not broker.address:
        return ["127.0.0.1"]
    if ip_address(broker.address).is_global:
        problems.append(
            Problem(
                "celery_broker_listen_addresses",
                f"is not set, and the address of {broker.name}, {broker.address}, is a public one",
                "Name the address on which the broker is to listen, better a private one",
            )
        )
    return [broker.address]


def web_processes(raw: Mapping[str, Any], problems: list[Problem]) -> int:
    given = raw.get("web_processes") or 0
    number = as_integer(given)
    if number is None or number < 0:
        problems.append(Problem("celery_web_processes", f"{given!r} is no number of processes", "Give a whole number"))
        return 0
    return number


def need_of(
    flavor: str,
    demand: Demand,
    slots: Iterable[int],
    senders: Senders,
    settings: Mapping[str, Any],
) -> Need:
    """Return what the fleet needs of its broker.

    Args:
        slots: for each worker on each host, the tasks that it runs at once.
        settings: Celery's, the user's own among them.
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
        connections=workers + senders.web * clients.sender + senders.lookers * clients.monitor,
        compressed=compression in MEASURED_COMPRESSIONS,
        result_expires=0 if expires is None else expires,
    )


def given_memory(raw: Mapping[str, Any], need: Need, problems: list[Problem]) -> int | None:
    """Return the bytes that the user grants the broker's messages; None where the plan is to say it."""
    given = raw.get("broker_memory")
    if not given:
        return None
    try:
        memory = parse_size(given)
    except ValueError as error:
        problems.append(Problem("celery_broker_memory", str(error), "Set it to 4GB, say, or remove it"))
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
    """Return the bytes that the broker may take before it refuses messages, or holds up who sends them.

    Args:
        left: bytes that the rest of the plan leaves on its host; None if that is not known.
    """
    return given or max(need.memory, int((left or 0) * SHARE))


def check_disk(host: Host, need: Need, problems: list[Problem]) -> None:
    if host.disk is not None and need.disk > host.disk:
        problems.append(
            Problem(
                f"disk of {host.name}",
                f"the declared tasks need {format_size(need.disk)}, but the file system of /var/lib has "
                f"{format_size(host.disk)}",
                "Lower backlog or message_size of celery_queues, or give it a larger disk",
            )
        )


def maxclients(need: Need) -> int:
    """Return how many connections the broker is to take."""
    return max(MAXCLIENTS_LEAST, 2 * need.connections)
