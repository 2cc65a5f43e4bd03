"""Does what an application can do with Celery on RabbitMQ, as the application's user; prints a JSON line a feature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery import chain, group
from rabbitmq.tests.celery_fleet_settings import QUEUES
from rabbitmq.tests.probe_app import add, app, retry_after
from shared.deployed import wait_until
from shared.features import events_arrive, try_out

WAIT = 120
control = app.control


def purge() -> int:
    """Return how many messages went from a queue that nobody consumes at the moment."""
    control.cancel_consumer("customers", reply=True, timeout=WAIT, limit=1)
    for _ in range(3):
        add.apply_async((1, 2), queue="customers", ignore_result=True)
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        # Nobody confirms to Celery that they have come.
        declared = partial(channel.queue_declare, "customers", passive=True)
        wait_until(lambda: declared().message_count == 3, "they do not come", timeout=WAIT, interval=0.1)
        gone = channel.queue_purge("customers")
    control.add_consumer("customers", reply=True, timeout=WAIT, limit=1)
    return int(gone)


def on_queue(name: str) -> Any:
    return add.apply_async((1, 2), queue=name).get(WAIT)


def retry(queue: str, *countdowns: int) -> Any:
    return retry_after.apply_async(countdowns, queue=queue).get(WAIT)


FEATURES: dict[str, tuple[Callable[[], Any], Any]] = {
    **{f"a task on {name}": (partial(on_queue, name), 3) for name in QUEUES},
    "countdown on a transient queue": (lambda: add.apply_async((1, 2), countdown=2, queue="ticks").get(WAIT), 3),
    "countdown": (lambda: add.apply_async((1, 2), countdown=2).get(WAIT), 3),
    # A jitter makes any of them 0.
    **{
        f"retries after {countdowns} s on {queue}": (partial(retry, queue, *countdowns), "retried")
        for countdowns in ((1,), (0,), (1, 0, 1))
        for queue in ("shop.default", "customers")
    },
    "priority": (lambda: add.apply_async((1, 2), priority=5).get(WAIT), 3),
    "expires": (lambda: add.apply_async((1, 2), expires=WAIT).get(WAIT), 3),
    "group": (lambda: group(add.s(number, 1) for number in range(3))().get(WAIT), [1, 2, 3]),
    "chain": (lambda: chain(add.s(1, 1), add.s(2))().get(WAIT), 4),
    "ping": (lambda: list(control.ping(timeout=WAIT, limit=1)[0].values()), [{"ok": "pong"}]),
    "inspect": (
        lambda: sorted(
            queue["name"]
            for answer in control.inspect(timeout=WAIT, limit=1).active_queues().values()
            for queue in answer
        ),
        sorted(QUEUES),
    ),
    "revoke": (
        lambda: next(iter(control.revoke("x", reply=True, timeout=WAIT, limit=1)[0].values()))["ok"],
        "tasks {'x'} flagged as revoked",
    ),
    "events": (lambda: events_arrive(app, lambda: add.apply_async((1, 1), countdown=1), WAIT), True),
    "purge": (purge, 3),
}


if __name__ == "__main__":
    try_out(FEATURES)
