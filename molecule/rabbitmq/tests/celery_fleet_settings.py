"""The settings module that the fleet's loader reads, as a fleet renders it; the broker's URL is in BROKER_URL."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import os

from ansible_collections.fleet.celery.plugins.module_utils._settings import celery_settings
from kombu.entity import Exchange, Queue

QUEUES = {"shop.default": "quorum", "customers": "quorum", "ticks": "classic"}
PRODUCER = False
DEFAULTS: dict[str, object] = {}
rendered = celery_settings(broker={"kind": "rabbitmq"}, app_name="shop", default_queue="shop.default")
FIRM = {
    **{name: setting.value for name, setting in rendered.items()},
    "broker_url": os.environ["BROKER_URL"],
    "task_routes": {},
    "task_queues": [
        Queue(
            name,
            Exchange("shop", type="topic"),
            routing_key=name,
            durable=kind == "quorum",
            queue_arguments={"x-queue-type": "quorum"} if kind == "quorum" else {},
        )
        for name, kind in QUEUES.items()
    ],
}
