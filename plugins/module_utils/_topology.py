"""Exchanges, queues, bindings and policies of RabbitMQ that Celery uses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Objects = dict[str, list[dict[str, Any]]]

EVENT_EXCHANGE = "celeryev"
DELIVERY_EXCHANGE = "celery_delayed_delivery"
#: Options of a queue that limit what it holds.
LIMITS = ("max_length", "max_length_bytes")
#: Number of queues of delayed tasks.
DELAY_LEVELS = 28


def celery_topology(queues: Sequence[Mapping[str, Any]], exchange: str) -> Objects:
    """Return the objects that a worker declares, as options of the module rabbitmq_definitions.

    Args:
        queues: queues of tasks, with a name and arguments. The routing key of each is its name.
        exchange: topic exchange to which the queues are bound.
    """
    names = [str(queue["name"]) for queue in queues]
    objects: Objects = {
        "exchanges": [{"name": name, "type": "topic"} for name in (exchange, EVENT_EXCHANGE)],
        "queues": [{key: queue[key] for key in ("name", "durable", "arguments") if key in queue} for queue in queues],
        "bindings": [{"exchange": exchange, "queue": name, "routing_key": name} for name in names],
    }
    # Without a quorum queue, workers keep delayed tasks themselves.
    if any((queue.get("arguments") or {}).get("x-queue-type") == "quorum" for queue in queues):
        for kind, items in _delayed_delivery(names, exchange).items():
            objects[kind] += items
    return objects


def celery_policies(queues: Iterable[Mapping[str, Any]], definition: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a policy for each queue of tasks, as options of the module rabbitmq_definitions.

    Each queue has one of its own, because only one policy applies to a queue, and so that a limit that is no longer
    declared is gone with the next change.

    Args:
        queues: with a name, and the limits max_length (messages) and max_length_bytes; 0 or none: unlimited.
        definition: what holds for all of them.
    """
    policies = []
    for queue in queues:
        limits = {limit.replace("_", "-"): queue[limit] for limit in LIMITS if queue.get(limit)}
        policies.append(
            {
                "name": f"celery-fleet.{queue['name']}",
                "pattern": f"^{re.escape(queue['name'])}$",
                "apply_to": "queues",
                "priority": 10,
                "definition": {**definition, **limits},
            }
        )
    return policies


def _delayed_delivery(queues: Iterable[str], exchange: str) -> Objects:
    """Return the objects of Celery's native delayed delivery.

    A message with a countdown passes an exchange for each bit of the countdown, the highest first. If the bit is set,
    the message waits in the exchange's queue for 2^bit seconds. Source: kombu.transport.native_delayed_delivery, which
    is the same in kombu 5.5 to 5.7.
    """
    names = [f"celery_delayed_{level}" for level in range(DELAY_LEVELS)]
    following = dict(zip(names, [DELIVERY_EXCHANGE, *names], strict=False))
    # The routing key begins with the bits of the countdown.
    before = {name: "*." * (DELAY_LEVELS - 1 - level) for level, name in enumerate(names)}
    bindings: list[dict[str, Any]] = []
    for name in names:
        bindings += [
            {"exchange": name, "queue": name, "routing_key": f"{before[name]}1.#"},
            {"exchange": name, "destination_exchange": following[name], "routing_key": f"{before[name]}0.#"},
        ]
    for queue in queues:
        # A delayed message keeps its bits.
        bindings += [
            {"exchange": DELIVERY_EXCHANGE, "destination_exchange": exchange, "routing_key": f"#.{queue}"},
            {"exchange": exchange, "queue": queue, "routing_key": f"#.{queue}"},
        ]
    return {
        "exchanges": [{"name": name, "type": "topic"} for name in [*names, DELIVERY_EXCHANGE]],
        "queues": [
            {
                "name": name,
                "arguments": {
                    "x-queue-type": "quorum",
                    "x-overflow": "reject-publish",
                    "x-message-ttl": 2**level * 1000,
                    "x-dead-letter-exchange": following[name],
                    "x-dead-letter-strategy": "at-least-once",
                },
            }
            for level, name in enumerate(names)
        ],
        "bindings": bindings,
    }
