"""The mark on each of the broker's hosts: whose broker it is, and how its node connects to the others.

The plan refuses what would break that broker before any host is changed. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._access import BrokerListener
from ansible_collections.fleet.celery.plugins.module_utils._hosts import Host
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.module_utils._rotation import FACTS

#: Name of the fact. No application can have it.
FACT = "celery-fleet.broker"
PATH = f"{FACTS}/{FACT}.fact"


@dataclass(frozen=True)
class BrokerMark:
    """The broker that a host is a part of.

    Attributes:
        app: its application.
        fleet: celery_fleet_name.
        node_tls: whether nodes of RabbitMQ connect to each other with TLS; None if it is no cluster of RabbitMQ.
    """

    app: str
    fleet: str
    node_tls: bool | None = None

    def file(self) -> dict[str, Any]:
        """Return the path of the mark's file and its content."""
        return {"path": PATH, "content": asdict(self)}


def make_mark(
    app: str, fleet: str, broker: BrokerListener, hosts: Iterable[Host], problems: list[Problem]
) -> BrokerMark:
    """Return the mark of the broker's hosts.

    Hosts of the broker of another fleet are refused, and another protocol between the nodes of a cluster.

    Args:
        fleet: celery_fleet_name; empty: the application's name.
    """
    clustered = broker.kind == "rabbitmq" and len(broker.members) > 1
    mark = BrokerMark(app, fleet or app, bool(broker.tls_port) if clustered else None)
    found = {host.name: _read(host.local[FACT]) for host in hosts if isinstance(host.local.get(FACT), Mapping)}
    for name, other in found.items():
        if (other.app, other.fleet) != (mark.app, mark.fleet):
            what = (
                f"{name} is a host of the broker of the fleet {other.fleet} (celery_app_name {other.app}), whose "
                "users, certificates and firewall would be replaced"
            )
            fix = (
                "Use other hosts, or celery_broker_url if this fleet shares that broker. If that fleet does not use "
                f"{name} any more, remove {PATH} there"
            )
            problems.append(Problem("celery_broker_group", what, fix))
    if joined := [name for name, other in found.items() if {other.node_tls, mark.node_tls} == {True, False}]:
        what = (
            f"can't be turned {'on' if mark.node_tls else 'off'} for an existing cluster of RabbitMQ: a node that "
            f"connects with TLS and one without, such as {joined[0]}, don't find each other"
        )
        mode = "off" if mark.node_tls else "both or only"
        fix = f"Set it to {mode}, or build a new cluster: see docs/broker-cluster.md"
        problems.append(Problem("celery_tls", what, fix))
    return mark


def _read(fact: Mapping[str, Any]) -> BrokerMark:
    return BrokerMark(str(fact.get("app", "")), str(fact.get("fleet", "")), fact.get("node_tls"))
