"""The tasks that a sweep does not requeue."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[3] / "playbooks" / "files" / "celery_sweep.py"


def test_tasks_in_replies_of_workers_are_held() -> None:
    spec = importlib.util.spec_from_file_location("celery_sweep", PATH)
    assert spec
    assert spec.loader
    sweep = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sweep)
    active = {"a@one": [{"id": "1", "name": "x"}], "b@one": []}
    reserved = {"a@one": [{"id": "2"}]}
    scheduled = {"b@one": [{"eta": "2026-01-01T00:00:00", "priority": 6, "request": {"id": "3"}}]}
    assert sweep.held([active, reserved, scheduled, {}]) == {"1", "2", "3"}
