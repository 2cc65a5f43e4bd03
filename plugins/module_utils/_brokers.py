"""What differs between the kinds of broker: how a queue is declared there, and what must outlast the longest task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._declaration import Problem, Queue, as_integer
from ansible_collections.fleet.celery.plugins.module_utils._sizing import Clients, Costs
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, format_size

DELIVERY_LIMIT = 50
# RabbitMQ's own default, never gone below, and what a message is granted beyond its run time.
CONSUMER_TIMEOUT_LEAST = 1800
CONSUMER_TIMEOUT_MARGIN = 600
# Redis sees a message that was not acknowledged for so long as one whose worker died. Its sweep is up to 100 s late.
VISIBILITY_MARGIN = 300
LONGEST_COUNTDOWN = 3600
# RabbitMQ 4's max_message_size.
_LARGEST_MESSAGE = 16 * MIB


@dataclass(frozen=True)
class Demand:
    """What a fleet asks of its broker.

    Attributes:
        held: seconds that a worker may keep a message before it acknowledges it: a full prefetch's, one after another.
        raw: the declaration as it was given.
    """

    app_name: str
    queues: tuple[Queue, ...]
    held: int
    raw: Mapping[str, Any] = field(default_factory=dict)


class RabbitMQ:
    """Queues on a topic exchange, with a delivery limit where they are quorum queues, and a queue for what it ends."""

    kind = flavor = "rabbitmq"
    port = 5672
    costs = Costs(
        base=160 * MIB, connection=MIB // 4, result=0, clients=Clients(worker=3, child=1, sender=1, monitor=4)
    )

    def queue(self, app_name: str, queue: Queue) -> dict[str, Any]:
        """Return a queue as Celery declares it."""
        arguments: dict[str, Any] = {} if queue.transient else {"x-queue-type": queue.type}
        if queue.max_priority:
            arguments["x-max-priority"] = queue.max_priority
        return {
            "name": queue.name,
            "exchange": app_name,
            "exchange_type": "topic",
            "routing_key": queue.name,
            "durable": not queue.transient,
            "type": queue.type,
            "arguments": arguments,
        }

    def values(self, demand: Demand, problems: list[Problem], advice: list[str]) -> dict[str, Any]:
        """Return what the broker must be, beyond its place and its user.

        A message that waits in a worker's prefetch is unacknowledged too, and a worker whose message exceeds
        consumer_timeout ends (celery/celery#6760).
        """
        for queue in demand.queues:
            where = f"celery_queues[{queue.name}]"
            if queue.message_size > _LARGEST_MESSAGE:
                largest = format_size(_LARGEST_MESSAGE)
                what = f"{format_size(queue.message_size)} is above the {largest} that RabbitMQ 4 takes"
                problems.append(Problem(f"{where}.message_size", what, "Send a reference to what is large instead"))
            if queue.max_priority and queue.type == "quorum":
                problems.append(
                    Problem(f"{where}.max_priority", "a quorum queue has no such priorities", "Set type: classic, too")
                )
            if queue.type == "classic" and not queue.transient:
                advice.append(
                    f"{where}.type: a classic queue has no delivery limit, so a task that ends its worker each time "
                    "runs again without end"
                )
        app = demand.app_name
        queues = [self.queue(app, queue) for queue in demand.queues]
        return {
            "vhost": app,
            "consumer_timeout": max(CONSUMER_TIMEOUT_LEAST, demand.held + CONSUMER_TIMEOUT_MARGIN) * 1000,
            "exchange": app,
            "dead_letter_exchange": f"{app}.dead",
            "dead_letter_queue": f"{app}.dead",
            "delivery_limit": DELIVERY_LIMIT,
            "queues": [{key: queue[key] for key in ("name", "durable", "arguments")} for queue in queues],
        }


class Redis:
    """Lists in one database, results in another, all keys with the application's prefix.

    Attributes:
        flavor: "redis", or "valkey", which speaks the same protocol.
    """

    kind = "redis"
    port = 6379
    costs = Costs(
        base=16 * MIB, connection=MIB // 16, result=1024, clients=Clients(worker=8, child=3, sender=3, monitor=10)
    )

    def __init__(self, flavor: str = "redis") -> None:
        self.flavor = flavor

    def queue(self, app_name: str, queue: Queue) -> dict[str, Any]:
        """Return a queue as Celery declares it: kombu keeps who is bound to an exchange in a set."""
        return {
            "name": queue.name,
            "exchange": app_name,
            "exchange_type": "direct",
            "routing_key": queue.name,
            "durable": True,
            "type": "list",
            "arguments": {},
        }

    def values(self, demand: Demand, problems: list[Problem], advice: list[str]) -> dict[str, Any]:
        """Return what the broker must be, beyond its place and its user.

        What is not acknowledged within the visibility timeout goes to another worker, also where the first one is at
        work on it still. A task for later counts from when a worker takes it, not from when it runs
        (https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout).
        """
        countdown = self._seconds(demand.raw, "longest_countdown", problems) or LONGEST_COUNTDOWN
        least = demand.held + countdown + VISIBILITY_MARGIN
        given = self._seconds(demand.raw, "visibility_timeout", problems)
        if given and given < least:
            problems.append(
                Problem(
                    "celery_visibility_timeout",
                    f"{given} s is too short: a worker may hold a message for {demand.held} s (prefetch times the "
                    f"longest hard limit) after a countdown of {countdown} s; with a margin of {VISIBILITY_MARGIN} s "
                    f"that is {least} s. Tasks would run twice",
                    f"Raise it to {least}, remove it, or lower celery_longest_countdown, time_limit or "
                    "prefetch_multiplier",
                )
            )
        for queue in demand.queues:
            if queue.transient:
                advice.append(
                    f"celery_queues[{queue.name}].transient: Redis keeps all of its queues in the same way, so it has "
                    "no effect"
                )
            elif queue.type == "classic":
                advice.append(f"celery_queues[{queue.name}].type: Redis has one kind of queue, so it has no effect")
            if queue.max_priority:
                problems.append(
                    Problem(
                        f"celery_queues[{queue.name}].max_priority",
                        "queues of Redis have priorities without it, 0 the most urgent",
                        "Remove it",
                    )
                )
            if queue.must_not_lose:
                advice.append(
                    f"celery_queues[{queue.name}].must_not_lose: Redis can lose a message: one that is on its way to "
                    "a worker when their connection breaks, and with appendfsync everysec those of the last second "
                    "when its host fails. RabbitMQ's quorum queues do not"
                )
        return {
            "database": 0,
            "result_database": 1,
            "key_prefix": str(demand.raw.get("key_prefix") or f"{demand.app_name}:"),
            "visibility_timeout": given or least,
        }

    @staticmethod
    def _seconds(raw: Mapping[str, Any], key: str, problems: list[Problem]) -> int | None:
        given = raw.get(key)
        if given in (None, "", 0):
            return None
        seconds = as_integer(given)
        if seconds is None or seconds < 1:
            problems.append(Problem(f"celery_{key}", f"{given!r} is no number of seconds", "Give a whole number"))
            return None
        return seconds


BROKERS: dict[str, RabbitMQ | Redis] = {each.flavor: each for each in (RabbitMQ(), Redis(), Redis("valkey"))}
