"""Do what Flower does, as Flower's user, whose URL is in FLOWER_URL; print a line of JSON for each."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.events.event import event_exchange
from rabbitmq.tests.celery_fleet_settings import FIRM
from rabbitmq.tests.probe_app import add
from shared.features import events_arrive, try_out

WAIT = 120

flower = Celery("flower", broker=os.environ["FLOWER_URL"], set_as_current=False, loader="default")
flower.conf.update({name: value for name, value in FIRM.items() if name.startswith(("control_", "event_"))})
event_exchange.no_declare = True

FEATURES: dict[str, tuple[Callable[[], Any], Any]] = {
    "ping": (lambda: list(flower.control.ping(timeout=WAIT, limit=1)[0].values()), [{"ok": "pong"}]),
    "inspect": (lambda: len(flower.control.inspect(timeout=WAIT, limit=1).stats()), 1),
    "events": (lambda: events_arrive(flower, lambda: add.apply_async((1, 1), countdown=1), WAIT), True),
}


if __name__ == "__main__":
    try_out(FEATURES)
