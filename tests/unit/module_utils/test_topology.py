"""The objects on RabbitMQ that the fleet declares are those that Celery's workers would declare."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._topology import celery_policies, celery_topology
from celery.events.event import event_exchange
from kombu.entity import Exchange, Queue
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)

QUORUM = {"x-queue-type": "quorum"}
QUEUES: list[dict[str, Any]] = [
    {"name": "customers", "arguments": QUORUM},
    {"name": "ticks", "durable": False, "arguments": {}},
]
Bindings = set[tuple[str, str, str, str]]


class Channel:
    """A channel that notes what is declared."""

    def __init__(self) -> None:
        self.exchanges: dict[str, str] = {}
        self.queues: dict[str, dict[str, Any]] = {}
        self.bindings: Bindings = set()
        self.connection = SimpleNamespace(client=SimpleNamespace())

    def exchange_declare(self, exchange: str, type: str, durable: bool, auto_delete: bool, **_: Any) -> None:
        assert (durable, auto_delete) == (True, False)
        self.exchanges[exchange] = type

    def queue_declare(self, queue: str, arguments: dict[str, Any], **_: Any) -> tuple[str, int, int]:
        self.queues[queue] = arguments
        return queue, 0, 0

    def prepare_queue_arguments(self, arguments: dict[str, Any], **_: Any) -> dict[str, Any]:
        return arguments

    def queue_bind(self, queue: str, exchange: str, routing_key: str, **_: Any) -> None:
        self.bindings.add((exchange, "queue", queue, routing_key))

    def exchange_bind(self, destination: str, source: str, routing_key: str, **_: Any) -> None:
        self.bindings.add((source, "exchange", destination, routing_key))


def bindings(items: list[dict[str, Any]]) -> Bindings:
    return {
        (item["exchange"], "queue", item["queue"], item["routing_key"])
        if "queue" in item
        else (item["exchange"], "exchange", item["destination_exchange"], item["routing_key"])
        for item in items
    }


def test_the_fleet_declares_what_a_worker_would() -> None:
    channel: Any = Channel()
    connection: Any = SimpleNamespace(channel=lambda: channel)
    declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
    event_exchange(channel).declare()
    for item in QUEUES:
        queue = Queue(item["name"], Exchange("shop", type="topic"), routing_key=item["name"])
        bind_queue_to_native_delayed_delivery_exchange(connection, queue)
        queue(channel).declare()
        channel.queues[str(item["name"])] = item["arguments"]
    made = celery_topology(QUEUES, "shop")
    assert {item["name"]: item["type"] for item in made["exchanges"]} == channel.exchanges
    assert {item["name"]: item["arguments"] for item in made["queues"]} == channel.queues
    assert bindings(made["bindings"]) == channel.bindings
    assert len(made["bindings"]) == len(channel.bindings)


def test_without_quorum_queues_workers_delay_tasks_themselves() -> None:
    made = celery_topology([{"name": "customers"}, QUEUES[1]], "shop")
    assert [item["name"] for item in made["exchanges"]] == ["shop", "celeryev"]
    assert [item["name"] for item in made["queues"]] == ["customers", "ticks"]
    assert bindings(made["bindings"]) == {
        ("shop", "queue", "customers", "customers"),
        ("shop", "queue", "ticks", "ticks"),
    }


def test_a_policy_limits_the_length_of_its_own_queue_only() -> None:
    queues = [
        {"name": "mail.bulk", "max_length": 1000, "max_length_bytes": 0},
        {"name": "ticks", "max_length_bytes": 2**20},
    ]
    mail, ticks = celery_policies(queues, {"overflow": "reject-publish"})
    assert mail["pattern"] == r"^mail\.bulk$"
    assert mail["definition"] == {"overflow": "reject-publish", "max-length": 1000}
    assert ticks["definition"] == {"overflow": "reject-publish", "max-length-bytes": 2**20}
    assert mail["name"] != ticks["name"]
