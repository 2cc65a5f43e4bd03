"""The broker in the plan: its host and address, its listeners, and the resources that it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._access import BrokerListener, BrokerMember
from ansible_collections.fleet.celery.plugins.module_utils._brokers import BROKERS, Demand
from ansible_collections.fleet.celery.plugins.module_utils._declaration import BrokerOptions
from ansible_collections.fleet.celery.plugins.module_utils._facts import DERIVED_ROLE_VARIABLES
from ansible_collections.fleet.celery.plugins.module_utils._fleet_plan import BrokerLimits
from ansible_collections.fleet.celery.plugins.module_utils._hosts import Host
from ansible_collections.fleet.celery.plugins.module_utils._platforms import platform_of
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq_cluster import (
    check_nodes,
    check_queues,
    check_settings,
    cluster_name,
    node_host,
    rotated,
)
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, as_integer
from ansible_collections.fleet.celery.plugins.module_utils._sentinel import make_sentinel
from ansible_collections.fleet.celery.plugins.module_utils._signing import PORT, TLS_PORT, ReplayCache, SigningOptions
from ansible_collections.fleet.celery.plugins.module_utils._sizing import (
    MEASURED_COMPRESSIONS,
    SHARE,
    Need,
    broker_need,
)
from ansible_collections.fleet.celery.plugins.module_utils._tls import mode_of
from ansible_collections.fleet.celery.plugins.module_utils._topology import DELAY_LEVELS
from ansible_collections.fleet.celery.plugins.module_utils._units import format_size
from ansible_collections.fleet.celery.plugins.module_utils._url import LOOPBACK

# Smallest limit of connections.
MAXCLIENTS_LEAST = 1000
# Smallest number of queues that clients may declare, for replies, events and remote control.
QUEUES_LEAST = 500

_ADDRESS = re.compile(r"[A-Za-z0-9.:_-]+")


def broker_hosts(
    options: BrokerOptions,
    groups: Mapping[str, list[str]],
    hosts: Mapping[str, Host],
    problems: list[Problem],
) -> tuple[Host, ...]:
    """Return the broker's hosts, in the order of the inventory; none if their number is refused."""
    names = groups.get(options.group, [])
    if options.own:
        return ()
    sizes = BROKERS[options.flavor].sizes
    if len(names) not in sizes:
        problems.append(_wrong_size(options, len(names), sizes))
        return ()
    found = tuple(hosts.get(name, Host(name)) for name in names)
    for host in found:
        if options.flavor == "valkey" and host.system and not platform_of(*host.system).valkey:
            problems.append(
                Problem(
                    "celery_broker",
                    f"{host.name} has {' '.join(map(str, host.system))}, which has no Valkey",
                    "Set it to redis, or use a host whose system has a package of Valkey",
                )
            )
    for name in dict.fromkeys(name for host in found for name in host.role_variables):
        if name.startswith(BROKERS[options.flavor].kind):
            problems.append(
                Problem(name, "has no effect, because the plan sets it", f"Set {DERIVED_ROLE_VARIABLES[name]} instead")
            )
    systems = {host.system: host.name for host in found if host.system}
    if len(systems) > 1:
        which = ", ".join(f"{name} has {' '.join(map(str, system))}" for system, name in systems.items())
        what = f"the broker's hosts have different systems, and with them different versions of the broker: {which}"
        problems.append(Problem("celery_broker_group", what, "Use hosts with the same release of Debian"))
    return found


def _wrong_size(options: BrokerOptions, number: int, sizes: Sequence[int]) -> Problem:
    """Return why a broker can't have this number of hosts."""
    group, allowed = options.group, " or ".join(map(str, sizes))
    what = f"the group {group!r} has {number} hosts, but a {options.flavor} broker has {allowed}"
    if number > 1 and number % 2 == 0:
        what += f". {number} hosts survive no more failures than {number - 1}, because a majority must be left"
    fix = (
        f"Put exactly one host into the group {group}"
        if number == 0 or len(sizes) == 1
        else f"Put {allowed} hosts into it"
    )
    return Problem("celery_broker_group", what, fix)


def broker_address(options: BrokerOptions, app: str, brokers: Sequence[Host], problems: list[Problem]) -> str:
    """Return the address that clients connect to.

    Several hosts of RabbitMQ have one name: of a list of URLs, Celery connects to each at every start, also to those
    that are down. Of several hosts of Redis, Sentinels know which one clients connect to; this is the first.
    """
    if not brokers:
        return ""
    sentinels = len(brokers) > 1 and BROKERS[options.flavor].kind == "redis"
    if sentinels and options.address:
        what = "has no effect, because clients ask the Sentinels on the broker's hosts for the address of the primary"
        problems.append(Problem("celery_broker_address", what, "Remove it, and set celery_host_address of each host"))
    one = len(brokers) == 1 or sentinels
    derived = brokers[0].address if one else cluster_name(app, [host.name for host in brokers])
    address = options.address or derived
    if not address:
        problems.append(
            Problem(
                "celery_broker_address",
                f"the address of {brokers[0].name} is not known",
                "Set it to a name or an IP address, or gather facts of the host",
            )
        )
    if not _ADDRESS.fullmatch(address or "-"):
        fix = "Set it to a name or an IP address, e.g. 10.0.0.10"
        problems.append(Problem("celery_broker_address", f"{address!r} is not an address", fix))
    return address


@dataclass(frozen=True)
class BrokerPorts:
    """The broker's ports without and with TLS; 0 if it does not listen there."""

    plain: int
    tls: int


def broker_ports(options: BrokerOptions, clients: Iterable[str], problems: list[Problem]) -> BrokerPorts:
    """Return the broker's ports, by celery_tls. A port that is set and not used is a problem.

    Args:
        clients: the fleet's hosts. If there is only one, the default is no TLS.
    """
    broker = BROKERS[options.flavor]
    mode = mode_of(options.tls, clients)
    if mode == "only" and options.port:
        what = "has no effect, because all connections have TLS"
        problems.append(Problem("celery_broker_port", what, "Set celery_broker_tls_port instead, or celery_tls: both"))
    if mode == "off" and options.tls_port:
        what = "has no effect, because the broker has no TLS"
        problems.append(Problem("celery_broker_tls_port", what, "Remove it, or set celery_tls: both or only"))
    ports = BrokerPorts(
        0 if mode == "only" else options.port or broker.port,
        0 if mode == "off" else options.tls_port or broker.tls_port,
    )
    if ports.plain == ports.tls:
        what = f"{ports.tls} is the port without TLS, too"
        problems.append(Problem("celery_broker_tls_port", what, "Set it to another port"))
    return ports


def broker_members(
    options: BrokerOptions,
    brokers: Sequence[Host],
    fleet_hosts: Iterable[str],
    problems: list[Problem],
    warnings: list[str],
    *,
    monitor: str,
) -> dict[str, BrokerMember]:
    """Return where each of the broker's hosts listens, by name.

    Args:
        monitor: name of the host that scrapes metrics; empty if there is none.
    """
    several = len(brokers) > 1
    for name in ("listen_addresses", "metrics_address"):
        if several and getattr(options, name):
            what = f"is one value, but the broker has {len(brokers)} hosts, each with its own address"
            fix = "Remove it, and set celery_host_address of each host"
            problems.append(Problem(f"celery_broker_{name}", what, fix))
    members = {}
    for host in brokers:
        if several and not host.address:
            fix = "Set it in the variables of that host, or gather its facts"
            problems.append(Problem(f"celery_host_address of {host.name}", "is not known", fix))
        listening = listen_addresses(options, host, fleet_hosts, problems, warnings)
        node = node_host(host.name) if several and options.flavor == "rabbitmq" else ""
        members[host.name] = BrokerMember(host.address, listening, metrics_address(options, host, monitor), node)
    return members


def name_addresses(
    options: BrokerOptions, broker: BrokerListener, clients: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return what the name of several hosts of RabbitMQ stands for on each client; empty if it is the user's own."""
    addresses = tuple(member.address for member in broker.members.values() if member.node_host)
    if not addresses or options.address:
        return {}
    return {name: rotated(addresses, number) for number, name in enumerate(dict.fromkeys(clients))}


def check_cluster(
    demand: Demand,
    brokers: Sequence[Host],
    settings: Mapping[str, Any],
    problems: list[Problem],
) -> None:
    """Refuse what would not survive the failure of one of several hosts of RabbitMQ.

    Args:
        settings: Celery's settings, including celery_settings.
    """
    if demand.options.flavor == "rabbitmq" and len(brokers) > 1:
        check_nodes({host.name: host.address for host in brokers}, problems)
        check_queues(demand.queues, problems)
        check_settings(settings, problems)


def broker_listener(
    demand: Demand,
    brokers: Sequence[Host],
    fleet_hosts: Iterable[str],
    problems: list[Problem],
    warnings: list[str],
    *,
    monitor: str,
) -> BrokerListener:
    """Return where the broker listens.

    Args:
        fleet_hosts: all hosts of the fleet, producers included.
        monitor: name of the host that scrapes metrics; empty if there is none.
    """
    options, fleet_hosts = demand.options, list(fleet_hosts)
    ports = broker_ports(options, fleet_hosts, problems)
    address = broker_address(options, demand.app_name, brokers, problems)
    members = broker_members(options, brokers, fleet_hosts, problems, warnings, monitor=monitor)
    if len(members) == 1:
        ((name, member),) = members.items()
        if member.listen_addresses == ("127.0.0.1",) and not options.address:
            address = "127.0.0.1"
        members = {name: replace(member, address=address)}
    kind = BROKERS[options.flavor].kind
    sentinel = None
    if kind == "redis" and len(members) > 1:
        addresses = {name: member.address for name, member in members.items()}
        sentinel = make_sentinel(demand.app_name, addresses, ports.plain, ports.tls, problems)
    return BrokerListener(kind, address, ports.plain, ports.tls, members, sentinel)


def listen_addresses(
    options: BrokerOptions,
    broker: Host,
    fleet_hosts: Iterable[str],
    problems: list[Problem],
    warnings: list[str],
) -> tuple[str, ...]:
    """Return the addresses on which the broker listens: celery_broker_listen_addresses, or what the fleet needs.

    A public address must be set explicitly. Of several addresses without a default route, one must be.
    """
    addresses = options.listen_addresses
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
    if not broker.address or (not clients and (options.address or "127.0.0.1") in LOOPBACK):
        return ("127.0.0.1",)
    address = options.address if options.address in broker.addresses else broker.address
    if _is_global(address):
        problems.append(
            Problem(
                "celery_broker_listen_addresses",
                f"is not set, and the address of {broker.name}, {address}, is public",
                "Set it to the addresses on which the broker must listen, preferably private ones",
            )
        )
    if broker.guessed and address != options.address:
        which = f"{broker.name} has several addresses: {', '.join(broker.addresses)}"
        if address in broker.addresses:
            warnings.append(f"{which}. The fleet uses {address}. To change it, set celery_host_address of that host")
        else:
            fix = "Set it in the variables of that host to the address that other hosts reach"
            problems.append(Problem(f"celery_host_address of {broker.name}", f"is not set, and {which}", fix))
    return (address,)


def metrics_address(options: BrokerOptions, broker: Host, monitor: str) -> str:
    """Return the address of the broker's metrics: the given one, or its host's if another host is the monitor."""
    return options.metrics_address or (broker.address if monitor not in ("", broker.name) else "127.0.0.1")


def _is_global(address: str) -> bool:
    """Return whether an address is a public one. A name stands for a host whose facts are not known."""
    try:
        return ip_address(address).is_global
    except ValueError:
        return False


def need_of(
    demand: Demand,
    slots: Iterable[int],
    monitors: int,
    settings: Mapping[str, Any],
    signing: SigningOptions,
) -> Need:
    """Return the resources that the broker needs.

    Args:
        slots: the concurrency of each worker on each host.
        monitors: number of clients that watch the broker.
        settings: Celery's settings, including celery_settings.
    """
    broker = BROKERS[demand.options.flavor]
    clients = broker.costs.clients
    slots = list(slots)
    workers = sum(clients.worker + slot * clients.child for slot in slots)
    if signing.enabled and broker.kind == "redis":
        workers += replay_connections(slots)
    compression = str(settings.get("task_compression") or "").lower()
    expires = as_integer(settings.get("result_expires"))
    return broker_need(
        broker.kind,
        broker.costs,
        [(queue, broker.queue(demand, queue).type) for queue in demand.queues],
        connections=workers + demand.options.web_processes * clients.sender + monitors * clients.monitor,
        compressed=compression in MEASURED_COMPRESSIONS,
        result_expires=0 if expires is None else expires,
        replay_cache=signing.memory if signing.enabled else 0,
    )


def replay_connections(slots: Iterable[int]) -> int:
    """Return the number of connections to the replay cache: one of each worker's main process, child and thread."""
    return sum(1 + slot for slot in slots)


def replay_cache(
    signing: SigningOptions,
    demand: Demand,
    broker: BrokerListener,
    slots: Iterable[int],
    problems: list[Problem],
) -> ReplayCache:
    """Return the replay cache: in the broker itself if it is Redis, in a server beside it if it is RabbitMQ.

    Args:
        slots: the concurrency of each worker on each host.
    """
    beside = broker.kind == "rabbitmq"
    host = next(iter(broker.members), "")
    plain, tls = broker.port, broker.tls_port
    if beside:
        plain, tls = plain and PORT, tls and TLS_PORT
        for key, port in (("celery_broker_port", broker.port), ("celery_broker_tls_port", broker.tls_port)):
            if port and port in (plain, tls):
                what = f"{port} is the port of the replay cache, which the broker's host has, too"
                problems.append(Problem(key, what, "Set it to another port"))
    return ReplayCache(
        host=host,
        # Of several hosts, one has it.
        address=broker.members[host].address if len(broker.members) > 1 else broker.address,
        port=tls or plain,
        tls=bool(tls),
        plain_port=plain,
        tls_port=tls,
        user=f"{demand.app_name}-replay",
        key_prefix=f"{demand.options.key_prefix or f'{demand.app_name}:'}replay:",
        memory=signing.memory,
        # Twice the need, as for the broker.
        maxclients=max(MAXCLIENTS_LEAST, 2 * replay_connections(slots)) if beside else 0,
        sentinel=broker.sentinel,
    )


def check_resources(brokers: Iterable[Host], memory: int | None, need: Need, problems: list[Problem]) -> None:
    """Refuse a celery_broker_memory, in bytes, and disks that are less than the need."""
    for host in brokers:
        _check_disk(host, need, problems)
    _check_memory(memory, need, problems)


def _check_memory(given: int | None, need: Need, problems: list[Problem]) -> None:
    """Refuse a celery_broker_memory, in bytes, that is less than the need."""
    if given is not None and given < need.memory:
        problems.append(
            Problem(
                "celery_broker_memory",
                f"{format_size(given)} is less than the declared tasks need: {need.arithmetic}",
                f"Raise it to {format_size(need.memory)}, remove it, or lower backlog or message_size of celery_queues",
            )
        )


def _check_disk(host: Host, need: Need, problems: list[Problem]) -> None:
    if host.disk is not None and need.disk > host.disk:
        problems.append(
            Problem(
                f"disk of {host.name}",
                f"the declared tasks need {format_size(need.disk)}, but the file system of /var/lib has "
                f"{format_size(host.disk)}",
                "Lower backlog or message_size of celery_queues, or enlarge the disk",
            )
        )


def limits_of(need: Need, queues: int, given: int | None, left: int | None) -> BrokerLimits:
    """Return what the broker may take.

    Its limit of connections is twice the need, as broken connections may still be open. RabbitMQ's limit of queues
    allows all that exist permanently, and two for each connection: a queue for replies outlives its connection.

    Args:
        queues: number of queues of tasks.
        given: bytes of celery_broker_memory; None if it is not set.
        left: bytes that the rest of the plan leaves on its host; None if the host's memory is not known.
    """
    return BrokerLimits(
        memory=given or max(need.memory, int((left or 0) * SHARE)),
        memory_needed=need.memory,
        arithmetic=need.arithmetic,
        disk_needed=need.disk,
        connections=need.connections,
        maxclients=max(MAXCLIENTS_LEAST, 2 * need.connections),
        max_queues=queues + 1 + DELAY_LEVELS + max(QUEUES_LEAST, 2 * need.connections),
    )
