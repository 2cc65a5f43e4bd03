"""Do what Flower does, as Flower's user, whose URL is in FLOWER_URL; print a line of JSON for each."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from celery import Celery
from redis.asyncio import Redis
from shared.features import events_arrive, try_out
from shared.redis_probe.app import PREFIX, QUEUES, add

WAIT = 120
URL = os.environ["FLOWER_URL"]

flower = Celery("flower", broker=URL, set_as_current=False)
# Ten years, so that Flower does not try to return the tasks of killed workers to their queues.
flower.conf.broker_transport_options = {"global_keyprefix": PREFIX, "visibility_timeout": 315360000}


async def lengths() -> list[int]:
    """Return the lengths of queues, as Flower asks for them."""
    async with Redis.from_url(URL) as client, client.pipeline() as pipeline:
        for queue in QUEUES:
            pipeline.llen(PREFIX + queue)
        return list(await pipeline.execute())


FEATURES: dict[str, tuple[Callable[[], Any], Any]] = {
    "ping": (lambda: list(flower.control.ping(timeout=WAIT, limit=1)[0].values()), [{"ok": "pong"}]),
    # The time-out has it look for messages of lost workers.
    "inspect": (lambda: len(flower.control.inspect(timeout=5).stats()), 1),
    "events": (lambda: events_arrive(flower, lambda: add.apply_async((1, 1), countdown=1), WAIT), True),
    "lengths": (lambda: asyncio.run(lengths()), [0] * len(QUEUES)),
}


if __name__ == "__main__":
    try_out(FEATURES)
