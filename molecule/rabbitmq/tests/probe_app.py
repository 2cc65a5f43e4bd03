"""An application with the settings that a fleet renders; the broker's URL is in BROKER_URL."""

# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import os
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._settings import celery_settings
from celery import Celery
from celery.exceptions import Reject
from kombu.entity import Exchange, Queue

QUEUES = {"shop.default": "quorum", "customers": "quorum", "ticks": "classic"}

app = Celery("probe")
rendered = celery_settings(broker={"kind": "rabbitmq"}, app_name="shop", default_queue="shop.default")
app.conf.update({name: setting.value for name, setting in rendered.items()})
app.conf.update(
    broker_url=os.environ["BROKER_URL"],
    result_backend="rpc://",
    task_queues=[
        Queue(
            name,
            Exchange("shop", type="topic"),
            routing_key=name,
            durable=kind == "quorum",
            queue_arguments={"x-queue-type": "quorum"} if kind == "quorum" else {},
        )
        for name, kind in QUEUES.items()
    ],
)


@app.task(name="add", ignore_result=False)
def add(left: int, right: int) -> int:
    return left + right


@app.task(name="once_more", bind=True, ignore_result=False)
def once_more(self: Any) -> str:
    if not self.request.retries:
        raise self.retry(countdown=1)
    return "retried"


@app.task(name="refused")
def refused() -> None:
    raise Reject("by the task", requeue=False)


@app.task(name="put_back")
def put_back() -> None:
    raise Reject("for another worker", requeue=True)
