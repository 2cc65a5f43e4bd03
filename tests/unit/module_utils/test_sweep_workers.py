"""Which workers a sweep asks, and which prevent it."""

from __future__ import annotations

from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._plan import make_plan
from ansible_collections.fleet.celery.plugins.module_utils._sweep import draining_workers, running_nodes
from fleet import FACTS, GROUPS, with_worker


def status(host: str, strays: tuple[dict[str, Any], ...] = (), **states: str) -> dict[str, Any]:
    programs = [{"name": f"shop-{name.replace('_', '-')}", "state": state} for name, state in states.items()]
    return {"item": host, "nodename": f"{host}.lan", "programs": programs, "strays": list(strays)}


def test_draining_workers_are_reported_with_their_host() -> None:
    stray = {"program": "shop-video-a", "pid": 71}
    statuses = [
        status("worker1", (stray,), customers="STOPPING", video_b="RUNNING"),
        status("worker2", customers="RUNNING", video_a="STOPPED"),
    ]
    assert draining_workers(statuses) == [
        "shop-customers on worker1 is draining",
        "shop-video-a on worker1 (process 71, of no Supervisor) ends its tasks",
    ]
    assert draining_workers(statuses[1:]) == []


def test_running_workers_must_answer_by_their_node_names() -> None:
    hosts = make_plan(with_worker(activation="handover"), GROUPS, FACTS).values["hosts"]
    statuses = [
        status("worker2", customers="STARTING", video_a="STOPPED", video_b="RUNNING"),
        status("worker1", customers="FATAL", video_a="RUNNING", removed="RUNNING"),
    ]
    assert running_nodes(statuses, hosts) == ["customers@worker2.lan", "video-b@worker2.lan", "video-a@worker1.lan"]
