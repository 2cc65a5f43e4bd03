"""The workers in the watchdog's configuration."""

from __future__ import annotations

from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._plan import make_plan
from fleet import FACTS, GROUPS, with_worker
from role import Role


def workers(**worker: Any) -> Any:
    values = make_plan(with_worker(**worker), GROUPS, FACTS).values
    role = Role(
        "celery_watchdog",
        celery_watchdog_identity=values["app"],
        celery_watchdog_programs=values["hosts"]["worker1"]["programs"],
    )
    return role.value("__celery_watchdog_workers")


def test_each_slot_of_a_worker_is_watched() -> None:
    assert workers(activation="handover") == [
        {"program": "shop-customers", "queues": ["customers"]},
        {"program": "shop-video-a", "queues": ["video"]},
        {"program": "shop-video-b", "queues": ["video"]},
    ]


def test_a_worker_of_the_solo_pool_is_not_watched() -> None:
    assert workers(pool="solo", concurrency=None) == [{"program": "shop-customers", "queues": ["customers"]}]
