"""Differences between the kinds of broker: declarations of queues, and timeouts that depend on the longest task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._declaration import BrokerOptions, Queue
from ansible_collections.fleet.celery.plugins.module_utils._fleet_plan import BrokerQueue, Keyspace, TaskQueue, Vhost
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, as_integer
from ansible_collections.fleet.celery.plugins.module_utils._sizing import Clients, Costs
from ansible_collections.fleet.celery.plugins.module_utils._topology import LIMITS
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, format_size

DELIVERY_LIMIT = 50
# Minimum (RabbitMQ's default), and margin after the longest time to an acknowledgement. Both in seconds.
CONSUMER_TIMEOUT_LEAST = 1800
CONSUMER_TIMEOUT_MARGIN = 600
# Seconds. After the visibility timeout, kombu redelivers an unacknowledged message, up to 100 s late.
VISIBILITY_MARGIN = 300
# RabbitMQ 4's max_message_size.
_LARGEST_MESSAGE = 16 * MIB


@dataclass(frozen=True)
class Demand:
    """A fleet's requirements on its broker.

    Attributes:
        held: seconds until a worker acknowledges a message at the latest: the sum of a full prefetch.
    """

    app_name: str
    queues: tuple[Queue, ...]
    held: int
    options: BrokerOptions


class RabbitMQ:
    """RabbitMQ: queues on a topic exchange, a delivery limit for quorum queues, and a dead-letter queue.

    Attributes:
        sizes: numbers of hosts that a broker may have.
    """

    kind = flavor = "rabbitmq"
    sizes: tuple[int, ...] = (1, 3, 5)
    port, tls_port = 5672, 5671
    costs = Costs(
        base=160 * MIB, connection=MIB // 4, result=0, clients=Clients(worker=3, child=1, sender=1, monitor=4)
    )

    def queue(self, demand: Demand, queue: Queue, longest_task: int = 0) -> TaskQueue:
        """Return a queue as Celery declares it."""
        arguments: dict[str, Any] = {} if queue.transient else {"x-queue-type": queue.type}
        if queue.max_priority:
            arguments["x-max-priority"] = queue.max_priority
        if demand.options.own:
            arguments |= _limits(demand, queue)
        name, durable = demand.app_name, not queue.transient
        return TaskQueue(queue.name, name, "topic", queue.name, durable, queue.type, arguments, longest_task)

    def holds(self, demand: Demand, problems: list[Problem], advice: list[str]) -> Vhost:
        """Return what a fleet has in the broker.

        A message in a worker's prefetch is unacknowledged, too. A worker ends if a message exceeds consumer_timeout
        (celery/celery#6760).
        """
        for queue in demand.queues:
            where = f"celery_queues[{queue.name}]"
            if queue.message_size > _LARGEST_MESSAGE:
                largest = format_size(_LARGEST_MESSAGE)
                what = f"{format_size(queue.message_size)} is above RabbitMQ 4's maximum of {largest}"
                problems.append(Problem(f"{where}.message_size", what, "Send a reference to large data instead"))
            if queue.max_priority and queue.type == "quorum":
                problems.append(
                    Problem(
                        f"{where}.max_priority", "a quorum queue has no such priorities", "Set type: classic as well"
                    )
                )
            if queue.type == "classic" and not queue.transient:
                advice.append(
                    f"{where}.type: a classic queue has no delivery limit, so a task that kills its worker each time "
                    "is redelivered without end"
                )
        app = demand.app_name
        queues = [(queue, self.queue(demand, queue)) for queue in demand.queues]
        own = demand.options.own
        return Vhost(
            vhost=own.space if own else app,
            consumer_timeout=_consumer_timeout(demand),
            exchange=app,
            dead_letter_exchange=f"{app}.dead",
            dead_letter_queue=f"{app}.dead",
            delivery_limit=DELIVERY_LIMIT,
            queues=tuple(
                BrokerQueue(made.name, made.durable, made.arguments, queue.max_length, queue.max_length_bytes)
                for queue, made in queues
            ),
        )


def _consumer_timeout(demand: Demand) -> int:
    """Return the milliseconds for which a message may be unacknowledged."""
    return max(CONSUMER_TIMEOUT_LEAST, demand.held + CONSUMER_TIMEOUT_MARGIN) * 1000


def _limits(demand: Demand, queue: Queue) -> dict[str, Any]:
    """Return the arguments of a queue for what policies and the configuration say on a broker of the fleet.

    Setting those takes more permissions than a broker of the user's own may grant.
    """
    arguments: dict[str, Any] = {"x-dead-letter-exchange": f"{demand.app_name}.dead", "x-overflow": "reject-publish"}
    if queue.type == "quorum":
        arguments |= {"x-delivery-limit": DELIVERY_LIMIT, "x-dead-letter-strategy": "at-least-once"}
    for limit in LIMITS:
        if value := getattr(queue, limit):
            arguments[f"x-{limit.replace('_', '-')}"] = value
    # Arguments can't be changed, so it is left out where RabbitMQ's default will do.
    if (timeout := _consumer_timeout(demand)) > CONSUMER_TIMEOUT_LEAST * 1000:
        arguments["x-consumer-timeout"] = timeout
    return arguments


class Redis:
    """Redis: queues in one database, results in another. All keys have the application's prefix.

    Attributes:
        flavor: "redis", or "valkey", which has the same protocol.
        sizes: numbers of hosts that a broker may have.
    """

    kind = "redis"
    sizes: tuple[int, ...] = (1, 3, 5)
    port, tls_port = 6379, 6380
    costs = Costs(
        base=16 * MIB, connection=MIB // 16, result=1024, clients=Clients(worker=8, child=3, sender=3, monitor=10)
    )

    def __init__(self, flavor: str = "redis") -> None:
        self.flavor = flavor

    def queue(self, demand: Demand, queue: Queue, longest_task: int = 0) -> TaskQueue:
        """Return a queue as Celery declares it."""
        return TaskQueue(queue.name, demand.app_name, "direct", queue.name, True, "list", {}, longest_task)

    def holds(self, demand: Demand, problems: list[Problem], advice: list[str]) -> Keyspace:
        """Return what a fleet has in the broker.

        After the visibility timeout, an unacknowledged task is redelivered, even if the first worker still runs it. The
        timeout of a task with a countdown begins when a worker receives it, not when it runs
        (https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout).
        """
        countdown = demand.options.longest_countdown
        least = demand.held + countdown + VISIBILITY_MARGIN
        given = demand.options.visibility_timeout
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
                    f"celery_queues[{queue.name}].transient: it has no effect, because Redis has one kind of queue. "
                    "Remove it"
                )
            elif queue.type == "classic":
                advice.append(
                    f"celery_queues[{queue.name}].type: it has no effect, because Redis has one kind of queue. "
                    "Remove it"
                )
            if queue.max_priority:
                problems.append(
                    Problem(
                        f"celery_queues[{queue.name}].max_priority",
                        "queues of Redis have priorities without it; 0 is the highest",
                        "Remove it",
                    )
                )
            for limit in LIMITS:
                if getattr(queue, limit):
                    what = "Redis can't limit a queue. Its memory is limited for all queues together"
                    problems.append(Problem(f"celery_queues[{queue.name}].{limit}", what, "Remove it, or use RabbitMQ"))
            if queue.must_not_lose:
                advice.append(
                    f"celery_queues[{queue.name}].must_not_lose: Redis can lose messages: one that is in transit to a "
                    "worker when the connection breaks, and, with appendfsync everysec, those of the last second when "
                    "its host fails. Quorum queues of RabbitMQ don't lose them"
                )
        # Some providers have a single database. The keys of results and of queues differ.
        own = demand.options.own
        database, results = (as_integer(own.space) or 0,) * 2 if own else (0, 1)
        return Keyspace(
            database=database,
            result_database=results,
            key_prefix=demand.options.key_prefix or f"{demand.app_name}:",
            visibility_timeout=given or least,
        )


BROKERS: dict[str, RabbitMQ | Redis] = {each.flavor: each for each in (RabbitMQ(), Redis(), Redis("valkey"))}
