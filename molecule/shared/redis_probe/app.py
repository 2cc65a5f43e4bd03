"""An application. Its broker, result backend and key prefix are in the environment."""

# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from kombu.common import Broadcast
from kombu.entity import Exchange, Queue

QUEUES = ("shop.default", "customers")
UNUSED = "by.hand"  # no worker consumes it
PREFIX = os.environ.get("KEY_PREFIX", "")

app = Celery("probe", broker=os.environ["BROKER_URL"], backend=os.environ["RESULT_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_default_queue="shop.default",
    task_default_exchange="shop",
    task_default_routing_key="shop.default",
    task_queues=[
        *[Queue(name, Exchange("shop"), routing_key=name) for name in (*QUEUES, UNUSED)],
        Broadcast("notices"),
    ],
    task_create_missing_queues=False,
    task_queue_max_priority=10,
    task_send_sent_event=True,
    task_track_started=True,
    worker_send_task_events=True,
    worker_prefetch_multiplier=1,
    result_expires=600,
    result_extended=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "global_keyprefix": PREFIX,
        "visibility_timeout": 5,
        # Look every second for what a dead worker has left.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "queue_order_strategy": "priority",
        "health_check_interval": 5,
        "client_name": "probe",
        "socket_timeout": 10,
        "socket_keepalive": True,
    },
    result_backend_transport_options={
        "global_keyprefix": PREFIX,
        "result_chord_ordered": os.environ.get("CHORD_ORDERED", "1") == "1",
    },
)


@app.task(name="add")
def add(left: int, right: int) -> int:
    return left + right


@app.task(name="total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="fail")
def fail() -> None:
    raise ValueError("as asked")


@app.task(name="once_more", bind=True)
def once_more(self: Any) -> str:
    if not self.request.retries:
        raise self.retry(countdown=1)
    return "retried"


@app.task(name="grow", bind=True)
def grow(self: Any) -> int:
    """Add a task to the chord that this one is part of."""
    self.add_to_chord(add.s(2, 2))
    return 1


@app.task(name="refused", bind=True)
def refused(self: Any) -> str:
    if self.request.delivery_info.get("redelivered"):
        return "redelivered"
    raise Reject("for another worker", requeue=True)


@app.task(name="noted", bind=True)
def noted(self: Any, key: str) -> None:
    """Store the worker's name as the result of another task, because this one runs more than once."""
    app.backend.store_result(key, self.request.hostname, "SUCCESS")
