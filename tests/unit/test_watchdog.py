"""When the watchdog restarts a worker, and when it must not."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils import _alive
from ansible_collections.fleet.celery.plugins.module_utils._alive import Alive
from hypothesis import given
from hypothesis import strategies as st

PATH = Path(__file__).parents[2] / "roles" / "celery_watchdog" / "files" / "celery_watchdog.py"
sys.modules["celery_fleet_alive"] = _alive
_spec = importlib.util.spec_from_file_location("celery_watchdog", PATH)
assert _spec
assert _spec.loader
watchdog: Any = importlib.util.module_from_spec(_spec)
sys.modules["celery_watchdog"] = watchdog
_spec.loader.exec_module(watchdog)

PATIENCE = 40.0
CONFIG = {"patience": PATIENCE, "workers": [{"program": "shop-email", "queues": ["email", "rest"]}]}


def sights(**changes: Any) -> list[Any]:
    """Return a minute of a worker, a look each ten seconds."""
    sight = {"pid": 7, "answered": True, "done": 5, "active": 0, "waiting": 3} | changes
    return [watchdog.Sight(at=float(at), **sight) for at in range(0, 61, 10)]


def test_a_worker_that_takes_nothing_from_a_full_queue_is_stuck() -> None:
    assert watchdog.stuck(sights(), PATIENCE) == "it has taken no task for 60 s, while 3 wait in its queues"


def test_a_worker_that_does_not_answer_is_stuck() -> None:
    assert watchdog.stuck(sights(answered=False), PATIENCE) == "it has not answered for 60 s"


@pytest.mark.parametrize("changes", [{"active": 1}, {"held": 1}, {"waiting": 0}])
def test_a_worker_that_is_busy_or_has_nothing_to_do_is_not(changes: dict[str, int]) -> None:
    assert not watchdog.stuck(sights(**changes), PATIENCE)


def test_one_that_took_a_task_or_answered_once_or_was_restarted_is_not() -> None:
    for number, changes in ((3, {"done": 6}), (6, {"pid": 8}), (0, {"active": 1})):
        seen = sights()
        seen[number] = sights(**changes)[number]
        assert not watchdog.stuck(seen, PATIENCE)
    seen = sights(answered=False)
    seen[2] = sights()[2]
    assert not watchdog.stuck(seen, PATIENCE)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_none_is_restarted_before_its_patience_is_over(answers: list[bool]) -> None:
    memory = watchdog.Memory(PATIENCE)
    silent, patience = 0, PATIENCE
    for number, answered in enumerate(answers):
        silent = 0 if answered else silent + 1
        reason = memory.add("a", watchdog.Sight(number * 10.0, 1, answered))
        if reason:
            assert silent * 10 > patience
            silent, patience = 0, patience * 2
        elif silent:
            assert (silent - 1) * 10 < patience


def test_one_that_a_restart_does_not_mend_is_restarted_less_and_less() -> None:
    memory, restarts = watchdog.Memory(PATIENCE), []
    for look in range(0, 40_000, 10):
        if memory.add("a", watchdog.Sight(float(look), 1, answered=False)):
            restarts.append(look)
    gaps = [after - before for before, after in pairwise(restarts)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 2 * PATIENCE
    assert gaps[-1] == pytest.approx(64 * PATIENCE, abs=20)
    # One that did a task since begins anew.
    assert not memory.add("a", watchdog.Sight(40_000.0, 1, answered=True, done=1))
    silent = [memory.add("a", watchdog.Sight(40_010.0 + look, 1, answered=False)) for look in range(0, 60, 10)]
    assert any(silent)


def report(*queues: str) -> Alive:
    return Alive(pid=7, at=0.0, queues=queues, active=0, held=0, done=1)


def judged(
    monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any], looks: int, life: float = 100.0, **reports: Alive
) -> dict[str, str]:
    memory = watchdog.Memory(PATIENCE)
    found: dict[str, str] = {}
    for look in range(looks):
        monkeypatch.setattr(watchdog.time, "monotonic", lambda look=look: look * 10.0)
        alive = {f"shop-{name}": each for name, each in reports.items()}
        found |= watchdog.judge(seen, CONFIG, {"shop-email": (7, life)}, alive, memory)
    return found


def test_the_queues_of_a_worker_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, email = {"broker": True, "waiting": {"email": 0, "rest": 2}}, report("email", "rest")
    assert "while 2 wait" in judged(monkeypatch, seen, looks=6, email=email)["shop-email"]
    assert judged(monkeypatch, {**seen, "waiting": {"other": 9}}, looks=6, email=email) == {}


def test_a_queue_that_it_was_told_to_leave_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"broker": True, "waiting": {"email": 0, "rest": 2}}
    assert judged(monkeypatch, seen, looks=20, email=report("email")) == {}
    assert "while 2 wait" in judged(monkeypatch, seen, looks=6, email=report("email", "rest"))["shop-email"]


def test_what_the_application_prints_is_passed_over() -> None:
    program = "print('loading', flush=True); print('{}'); print('celery-fleet {\"broker\": true}', flush=True); input()"
    told = watchdog.observations([sys.executable, "-c", program], silence=60)
    assert next(told) == {"broker": True}
    told.close()


def test_nothing_is_restarted_while_the_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, {"broker": False, "error": "refused"}, looks=20) == {}


def test_a_worker_that_has_just_started_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {"broker": True, "waiting": {}}
    assert judged(monkeypatch, silent, looks=20, life=30.0) == {}
    # A large application is not there after half a minute.
    assert judged(monkeypatch, silent, looks=20, life=170.0) == {}
    assert judged(monkeypatch, silent, looks=20, life=190.0)
    # One that has answered since it started is there.
    memory = watchdog.Memory(PATIENCE)
    for look in range(20):
        monkeypatch.setattr(watchdog.time, "monotonic", lambda look=look: look * 10.0)
        alive = {} if look else {"shop-email": report("email")}
        if reasons := watchdog.judge(silent, CONFIG, {"shop-email": (7, 60.0 + 10 * look)}, alive, memory):
            break
    assert reasons == {"shop-email": "it has not answered for 40 s"}
    assert look < 10
