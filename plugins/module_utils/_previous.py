"""The broker that a fleet leaves, while messages are moved from it to the new one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ansible_collections.fleet.celery.plugins.module_utils._access import (
    Access,
    BrokerListener,
    BrokerMember,
    is_address,
)
from ansible_collections.fleet.celery.plugins.module_utils._broker_plan import name_addresses, replay_cache
from ansible_collections.fleet.celery.plugins.module_utils._brokers import BROKERS, Demand
from ansible_collections.fleet.celery.plugins.module_utils._declaration import BrokerOptions
from ansible_collections.fleet.celery.plugins.module_utils._fleet_plan import PreviousBroker, PreviousMember
from ansible_collections.fleet.celery.plugins.module_utils._hosts import Host
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq_cluster import cluster_name, node_host
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.module_utils._rotation import State
from ansible_collections.fleet.celery.plugins.module_utils._sentinel import make_sentinel
from ansible_collections.fleet.celery.plugins.module_utils._signing import SigningOptions


def previous_hosts(
    options: BrokerOptions, groups: Mapping[str, list[str]], hosts: Mapping[str, Host], problems: list[Problem]
) -> tuple[str, ...]:
    """Return the hosts of the broker that the fleet leaves, in the order of the inventory; none if it is refused."""
    group = options.previous_group
    names = groups.get(group, [])
    if not names:
        return ()
    where = f"the group {group}"
    if options.own:
        what = "has hosts, but messages are moved to a broker of the fleet only, and the broker is of celery_broker_url"
        fix = "Remove the hosts from it, and drain the previous broker before the switch (docs/broker-move.md)"
        problems.append(Problem(where, what, fix))
        return ()
    if both := [name for name in names if name in groups.get(options.group, [])]:
        what = f"{', '.join(both)}: in the group {options.group}, too. Messages can't be moved to the same host"
        problems.append(Problem(where, what, "Build the new broker on other hosts"))
        return ()
    for name in names:
        if not hosts.get(name, Host(name)).address:
            fix = "Set it in the variables of that host, or gather its facts"
            problems.append(Problem(f"celery_host_address of {name}", "is not known", fix))
    return tuple(names)


def _listener(app: str, flavor: str, hosts: Sequence[Host], new: BrokerListener) -> BrokerListener:
    broker, several = BROKERS[flavor], len(hosts) > 1
    nodes = several and broker.kind == "rabbitmq"
    members = {
        host.name: BrokerMember(
            host.address, host.addresses or (host.address,), host.address, node_host(host.name) if nodes else ""
        )
        for host in hosts
    }
    address = cluster_name(app, members) if nodes else hosts[0].address
    ports = new.port, new.tls_port
    if broker.kind != new.kind:
        ports = new.port and broker.port, new.tls_port and broker.tls_port
    addresses = {name: member.address for name, member in members.items()}
    sentinel = make_sentinel(app, addresses, *ports, []) if several and not nodes else None
    return BrokerListener(broker.kind, address, *ports, members, sentinel)


def previous_access(
    new: Access, names: Sequence[str], demand: Demand, signing: SigningOptions, slots: Iterable[int]
) -> Access | None:
    """Return who reaches the broker that the fleet leaves: all clients of the new one, and the new one's hosts.

    Args:
        new: who reaches the new broker. The other one was built alike, with the same ports if it is of the same kind,
            and else with the default ones.
        names: of the hosts of the broker that the fleet leaves. None is returned if there are none.
        slots: the concurrency of each worker on each host.
    """
    if not names:
        return None
    hosts = [new.hosts.get(name, Host(name)) for name in names]
    clients = replace(new.clients, broker=(*new.clients.broker, *new.broker.members))
    broker = _listener(demand.app_name, demand.options.previous, hosts, new.broker)
    beside = signing.enabled and broker.kind == "rabbitmq"
    cache = replay_cache(signing, demand, broker, slots, []) if beside else None
    return replace(new, clients=clients, broker=broker, replay_cache=cache)


def previous_broker(
    demand: Demand, access: Access | None, clients: Iterable[str], rotations: State
) -> PreviousBroker | None:
    """Return the broker that the fleet leaves, as the plan has it; None if there is none.

    Args:
        access: who reaches it.
    """
    if not access:
        return None
    options, previous = demand.options, access.broker
    # Its limits are not checked: it was built with them.
    former = replace(demand, options=replace(options, flavor=options.previous, visibility_timeout=None))
    return PreviousBroker(
        kind=previous.kind,
        flavor=options.previous,
        forwarded=not options.flavor == options.previous == "rabbitmq",
        group=options.previous_group,
        members={
            name: PreviousMember(member.address, _server_name(access, name, member.address))
            for name, member in previous.members.items()
        },
        address=previous.address,
        port=previous.tls_port or previous.port,
        tls_port=previous.tls_port,
        sentinel=previous.sentinel,
        name_addresses=name_addresses(replace(options, address=""), previous, clients),
        rotations=rotations,
        services=tuple(
            _services(options.previous, sentinel=bool(previous.sentinel), measured=bool(access.clients.monitor))
        ),
        holds=BROKERS[options.previous].holds(former, [], []),
    )


def _services(flavor: str, *, sentinel: bool, measured: bool) -> Iterator[str]:
    if sentinel:
        # It would make another server the primary.
        yield f"{flavor}-sentinel"
    if BROKERS[flavor].kind == "redis":
        yield from ("redis-ui.socket", "redis-ui", *["prometheus-redis-exporter"] * measured)
    yield f"{flavor}-server"


def _server_name(access: Access, name: str, address: str) -> str:
    """Return the name by which a host's certificate is verified. Erlang 25 does not find an address in it."""
    host = access.hosts.get(name, Host(name))
    names = access.certificate_names(host, [access.broker.kind])
    return next((each for each in names if not is_address(each) and each != "localhost"), address)


def check_move(options: BrokerOptions, hosts: Iterable[str], rotations: State, problems: list[Problem]) -> list[str]:
    """Return warnings about a move. Refuse one while a password is rotated, as the brokers would have other values.

    Args:
        hosts: names of the hosts of the broker that the fleet leaves; empty if there is no move.
    """
    group, kind = options.previous_group, BROKERS[options.previous].kind
    if not list(hosts):
        if options.previous != options.flavor:
            return [f"celery_broker_previous has no effect, because the group {group} has no hosts. Remove it"]
        return []
    if rotations.rotating:
        what = f"has hosts, but the earlier values of {', '.join(rotations.rotating)} are still valid"
        fix = "Remove the hosts from it, and end the rotation first: rotate.yml with -e celery_rotate_finish=true"
        problems.append(Problem(f"the group {group}", what, fix))
    advice = [
        f"the group {group} has hosts: site.yml moves all clients and messages from them to the new broker. Once it "
        "has, run broker_retire.yml"
    ]
    if kind == "redis":
        advice.append(
            "results in the Redis that the fleet leaves do not move: who waits for one does not get it, and a chord "
            "whose tasks run meanwhile does not end. docs/broker-move.md says how to avoid it"
        )
    if kind != BROKERS[options.flavor].kind:
        advice.append(
            "priority of a task has the reverse meaning on the new broker: Redis runs 0 first, RabbitMQ the highest "
            "number. Messages that move get the default one"
        )
    return advice
