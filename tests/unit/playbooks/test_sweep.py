"""The tasks that a sweep does not requeue."""

from __future__ import annotations

from program import load


def test_tasks_in_replies_of_workers_are_held() -> None:
    sweep = load("playbooks/files/celery_sweep.py")
    active = {"a@one": [{"id": "1", "name": "x"}], "b@one": []}
    reserved = {"a@one": [{"id": "2"}]}
    scheduled = {"b@one": [{"eta": "2026-01-01T00:00:00", "priority": 6, "request": {"id": "3"}}]}
    assert sweep.held([active, reserved, scheduled, {}]) == {"1", "2", "3"}
