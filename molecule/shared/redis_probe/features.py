"""Try features of Celery on Redis, as the application's user, and print a line of JSON for each."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.result import GroupResult
from kombu.entity import Exchange, Queue
from shared.features import events_arrive, try_out
from shared.redis_probe.app import QUEUES, UNUSED, add, app, fail, grow, noted, once_more, refused, total

WAIT = 120
control = app.control


def by_hand() -> list[Any]:
    """Return the messages that are read, counted and purged in a queue without consumers that expires."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        queue = Queue(UNUSED, Exchange("shop"), routing_key=UNUSED, expires=60)(channel)
        queue.declare()
        for priority in (9, 6, 3, 0):
            connection.Producer(channel).publish({}, exchange="shop", routing_key=UNUSED, priority=priority)
        message = queue.get(no_ack=True)
        return [message.properties["priority"], channel._size(UNUSED), queue.purge()]


def saved_group() -> list[int]:
    """Return the results of a group that was saved and restored by its id."""
    result = group(add.s(number, 1) for number in range(3)).apply_async()
    result.save()
    found: Any = GroupResult.restore(result.id, app=app)
    numbers: list[int] = found.get(timeout=WAIT)
    found.delete()
    found.forget()
    return numbers


def failed_chord() -> bool:
    """Return whether a chord raises the exception of one of its tasks."""
    try:
        chord([add.s(1, 1), fail.s()])(total.s()).get(timeout=WAIT)
    except (ValueError, ChordError) as error:  # the part's, or the chord's if that is there first
        return "as asked" in str(error)
    return False


def notice() -> bool:
    """Return whether a task of a fanout exchange arrives."""
    key = str(uuid.uuid4())
    # Undeclared, kombu's Redis transport takes the exchange for a direct one.
    noted.apply_async((key,), queue="notices", declare=[Exchange("notices", type="fanout")], ignore_result=True)
    return bool(app.AsyncResult(key).get(timeout=WAIT))


def on_queue(name: str) -> Any:
    return add.apply_async((1, 2), queue=name).get(WAIT)


def by_priority() -> int:
    return sum(add.apply_async((1, 2), priority=priority).get(WAIT) for priority in range(10))


FEATURES: dict[str, tuple[Callable[[], Any], Any]] = {
    **{f"a task on {name}": (partial(on_queue, name), 3) for name in QUEUES},
    "countdown": (lambda: add.apply_async((1, 2), countdown=2).get(WAIT), 3),
    "retry": (lambda: once_more.apply_async().get(WAIT), "retried"),
    "reject and requeue": (lambda: refused.apply_async().get(WAIT), "redelivered"),
    "priorities": (by_priority, 30),
    "expires": (lambda: add.apply_async((1, 2), expires=WAIT).get(WAIT), 3),
    "group": (lambda: group(add.s(number, 1) for number in range(3))().get(WAIT), [1, 2, 3]),
    "saved group": (saved_group, [1, 2, 3]),
    "chain": (lambda: chain(add.s(1, 1), add.s(2))().get(WAIT), 4),
    "chord": (lambda: chord(add.s(number, 1) for number in range(3))(total.s()).get(WAIT), 6),
    "chord of groups": (lambda: chord([group(add.s(1, 1), add.s(2, 2)), add.s(3, 3)])(total.s()).get(WAIT), 12),
    "chord that grows": (lambda: chord([add.s(3, 3), grow.s()])(total.s()).get(WAIT), 11),
    "failed chord": (failed_chord, True),
    "forget": (lambda: add.delay(1, 2).forget(), None),
    "ping": (lambda: list(control.ping(timeout=WAIT, limit=1)[0].values()), [{"ok": "pong"}]),
    "inspect": (
        lambda: sorted(
            queue["name"]
            for answer in control.inspect(timeout=WAIT, limit=1).active_queues().values()
            for queue in answer
            if queue["name"] in QUEUES
        ),
        sorted(QUEUES),
    ),
    "revoke": (
        lambda: next(iter(control.revoke("x", reply=True, timeout=WAIT, limit=1)[0].values()))["ok"],
        "tasks {'x'} flagged as revoked",
    ),
    "events": (lambda: events_arrive(app, lambda: add.apply_async((1, 1), countdown=1), WAIT), True),
    "by hand": (by_hand, [0, 3, 3]),
    "fan-out": (notice, True),
}


if __name__ == "__main__":
    try_out(FEATURES)
