"""A small valid fleet, to be changed by tests."""

from __future__ import annotations

import copy
from typing import Any

MIB = 1024 * 1024

GROUPS = {
    "all": ["broker1", "worker1", "worker2", "control1"],
    "ungrouped": [],
    "broker": ["broker1"],
    "workers": ["worker1", "worker2"],
    "beat": ["control1"],
    "flower": ["control1"],
    "empty": [],
}
FACTS = {
    name: {"memory_mb": 4096, "processors": 2, "address": f"10.0.0.{number}", "declared_memory": None}
    for number, name in enumerate(GROUPS["all"], 1)
}
_DECLARATION: dict[str, Any] = {
    "app_name": "shop",
    "app_module": "shop.celery:app",
    "queues": [
        {"name": "customers", "tasks": ["customers.*"], "time_limit": 60},
        {"name": "video", "tasks": ["video.*"], "time_limit": 1200},
    ],
    "workers": [
        {"name": "customers", "group": "workers", "queues": ["customers"], "autoscale": {"min": 1, "max": 4}},
        {"name": "video", "group": "workers", "queues": ["video"], "concurrency": 2},
    ],
    "broker": "rabbitmq",
}


def declaration(**changes: Any) -> dict[str, Any]:
    """Return the declaration with some of its keys replaced."""
    return {**copy.deepcopy(_DECLARATION), **changes}


def with_worker(**changes: Any) -> dict[str, Any]:
    """Return the declaration with the video worker changed; None removes a key."""
    raw = declaration()
    worker = {**raw["workers"][1], **changes}
    raw["workers"][1] = {key: value for key, value in worker.items() if value is not None}
    return raw


def with_queue(**changes: Any) -> dict[str, Any]:
    """Return the declaration with the video queue changed."""
    raw = declaration()
    raw["queues"][1] |= changes
    return raw
