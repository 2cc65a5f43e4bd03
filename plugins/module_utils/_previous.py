"""The broker that a fleet leaves, while messages are moved from it to the new one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ansible_collections.fleet.celery.plugins.module_utils._access import (
    Access,
    BrokerListener,
    BrokerMember,
    is_address,
)
from ansible_collections.fleet.celery.plugins.module_utils._broker_plan import name_addresses
from ansible_collections.fleet.celery.plugins.module_utils._declaration import BrokerOptions
from ansible_collections.fleet.celery.plugins.module_utils._fleet_plan import PreviousBroker, PreviousMember
from ansible_collections.fleet.celery.plugins.module_utils._hosts import Host
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq_cluster import cluster_name, node_host
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.module_utils._rotation import State


def previous_hosts(
    options: BrokerOptions, groups: Mapping[str, list[str]], hosts: Mapping[str, Host], problems: list[Problem]
) -> tuple[str, ...]:
    """Return the hosts of the broker that the fleet leaves, in the order of the inventory; none if it is refused."""
    group = options.previous_group
    names = groups.get(group, [])
    if not names:
        return ()
    where = f"the group {group}"
    if options.own or options.flavor != "rabbitmq":
        which = "of celery_broker_url" if options.own else options.flavor
        what = f"has hosts, but tasks are moved to a RabbitMQ of the fleet only, and the broker is {which}"
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


def _listener(app: str, hosts: Sequence[Host], new: BrokerListener) -> BrokerListener:
    several = len(hosts) > 1
    members = {
        host.name: BrokerMember(
            host.address, host.addresses or (host.address,), host.address, node_host(host.name) if several else ""
        )
        for host in hosts
    }
    address = cluster_name(app, members) if several else hosts[0].address
    return BrokerListener(new.kind, address, new.port, new.tls_port, members)


def previous_access(new: Access, names: Sequence[str], app: str) -> Access | None:
    """Return who reaches the broker that the fleet leaves: all clients of the new one, and the new one's hosts.

    Args:
        new: who reaches the new broker. The other one was built alike, with the same ports.
        names: of the hosts of the broker that the fleet leaves. None is returned if there are none.
    """
    if not names:
        return None
    hosts = [new.hosts.get(name, Host(name)) for name in names]
    clients = replace(new.clients, broker=(*new.clients.broker, *new.broker.members))
    cache = replace(new.replay_cache, host=names[0]) if new.replay_cache else None
    return replace(new, clients=clients, broker=_listener(app, hosts, new.broker), replay_cache=cache)


def previous_broker(
    options: BrokerOptions, access: Access | None, clients: Iterable[str], rotations: State
) -> PreviousBroker | None:
    """Return the broker that the fleet leaves, as the plan has it; None if there is none.

    Args:
        access: who reaches it.
    """
    if not access:
        return None
    previous = access.broker
    return PreviousBroker(
        group=options.previous_group,
        members={
            name: PreviousMember(member.address, _server_name(access, name, member.address))
            for name, member in previous.members.items()
        },
        address=previous.address,
        port=previous.tls_port or previous.port,
        tls=bool(previous.tls_port),
        name_addresses=name_addresses(replace(options, address=""), previous, clients),
        rotations=rotations,
    )


def _server_name(access: Access, name: str, address: str) -> str:
    """Return the name by which a host's certificate is verified. Erlang 25 does not find an address in it."""
    host = access.hosts.get(name, Host(name))
    names = access.certificate_names(host, [access.broker.kind])
    return next((each for each in names if not is_address(each) and each != "localhost"), address)


def check_move(group: str, hosts: Iterable[str], rotations: State, problems: list[Problem]) -> list[str]:
    """Return warnings about a move. Refuse one while a password is rotated, as the brokers would have other values.

    Args:
        group: of the broker that the fleet leaves.
        hosts: names of its hosts; empty if there is no move.
    """
    if not list(hosts):
        return []
    if rotations.rotating:
        what = f"has hosts, but the earlier values of {', '.join(rotations.rotating)} are still valid"
        fix = "Remove the hosts from it, and end the rotation first: rotate.yml with -e celery_rotate_finish=true"
        problems.append(Problem(f"the group {group}", what, fix))
    return [
        f"the group {group} has hosts: site.yml moves all clients and messages from them to the new broker. Once it "
        "has, run broker_retire.yml"
    ]
