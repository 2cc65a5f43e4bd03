"""The decisions of the watchdog to restart a worker."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.alive import Alive
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services import watchdog
from hypothesis import given
from hypothesis import strategies as st

PATIENCE = 40.0
CONFIG = {"patience": PATIENCE, "workers": [{"program": "shop-email", "queues": ["email", "rest"]}]}


def samples(**changes: Any) -> list[Any]:
    """Return a minute of samples, one each ten seconds."""
    sample = {"pid": 7, "answered": True, "done": 5, "active": 0, "waiting": 3} | changes
    return [watchdog.Sample(at=float(at), **sample) for at in range(0, 61, 10)]


def test_idle_worker_with_a_backlog_is_stuck() -> None:
    assert (
        watchdog.stuck(samples(), PATIENCE) == "it has received no task for 60 s, while 3 messages wait in its queues"
    )


def test_worker_without_heartbeat_is_stuck() -> None:
    assert watchdog.stuck(samples(answered=False), PATIENCE) == "it has not answered for 60 s"


@pytest.mark.parametrize("changes", [{"active": 1}, {"held": 1}, {"waiting": 0}])
def test_busy_worker_or_empty_queue_is_not_stuck(changes: dict[str, int]) -> None:
    assert not watchdog.stuck(samples(**changes), PATIENCE)


def test_worker_with_a_new_task_heartbeat_or_process_is_not_stuck() -> None:
    for number, changes in ((3, {"done": 6}), (6, {"pid": 8}), (0, {"active": 1})):
        seen = samples()
        seen[number] = samples(**changes)[number]
        assert not watchdog.stuck(seen, PATIENCE)
    seen = samples(answered=False)
    seen[2] = samples()[2]
    assert not watchdog.stuck(seen, PATIENCE)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_no_restart_before_the_patience_is_over(answers: list[bool]) -> None:
    history = watchdog.History(PATIENCE)
    silent, patience = 0, PATIENCE
    for number, answered in enumerate(answers):
        silent = 0 if answered else silent + 1
        reason = history.add("a", watchdog.Sample(number * 10.0, 1, answered))
        if reason:
            assert silent * 10 > patience
            silent, patience = 0, patience * 2
        elif silent:
            assert (silent - 1) * 10 < patience


def test_restarts_without_effect_back_off() -> None:
    history, restarts = watchdog.History(PATIENCE), []
    for poll in range(0, 40_000, 10):
        if history.add("a", watchdog.Sample(float(poll), 1, answered=False)):
            restarts.append(poll)
    gaps = [after - before for before, after in pairwise(restarts)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 2 * PATIENCE
    assert gaps[-1] == pytest.approx(64 * PATIENCE, abs=20)
    # A task resets the back-off.
    assert not history.add("a", watchdog.Sample(40_000.0, 1, answered=True, done=1))
    silent = [history.add("a", watchdog.Sample(40_010.0 + poll, 1, answered=False)) for poll in range(0, 60, 10)]
    assert any(silent)


def report(*queues: str) -> Alive:
    return Alive(pid=7, at=0.0, queues=queues, active=0, held=0, done=1)


def judged(
    monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any], polls: int, life: float = 100.0, **reports: Alive
) -> dict[str, str]:
    history = watchdog.History(PATIENCE)
    found: dict[str, str] = {}
    for poll in range(polls):
        monkeypatch.setattr(time, "monotonic", lambda poll=poll: poll * 10.0)
        alive = {f"shop-{name}": each for name, each in reports.items()}
        found |= watchdog.judge(seen, CONFIG, {"shop-email": (7, life)}, alive, history)
    return found


def test_backlogs_of_a_workers_queues_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, email = {"broker": True, "waiting": {"email": 0, "rest": 2}}, report("email", "rest")
    assert "while 2 messages wait" in judged(monkeypatch, seen, polls=6, email=email)["shop-email"]
    assert judged(monkeypatch, {**seen, "waiting": {"other": 9}}, polls=6, email=email) == {}


def test_backlog_of_a_cancelled_consumer_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"broker": True, "waiting": {"email": 0, "rest": 2}}
    assert judged(monkeypatch, seen, polls=20, email=report("email")) == {}
    assert "while 2 messages wait" in judged(monkeypatch, seen, polls=6, email=report("email", "rest"))["shop-email"]


def test_output_of_the_application_is_skipped() -> None:
    program = "print('loading', flush=True); print('{}'); print('celery-fleet {\"broker\": true}', flush=True); input()"
    observations = watchdog.observations([sys.executable, "-c", program], silence=60)
    assert next(observations) == {"broker": True}
    observations.close()


def test_no_restart_while_the_broker_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, {"broker": False, "error": "refused"}, polls=20) == {}


def test_no_restart_of_a_starting_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = {"broker": True, "waiting": {}}
    assert judged(monkeypatch, silent, polls=20, life=30.0) == {}
    # A large application starts in more than half a minute.
    assert judged(monkeypatch, silent, polls=20, life=170.0) == {}
    assert judged(monkeypatch, silent, polls=20, life=190.0)
    # A worker that has answered once has started.
    history = watchdog.History(PATIENCE)
    for poll in range(20):
        monkeypatch.setattr(time, "monotonic", lambda poll=poll: poll * 10.0)
        alive = {} if poll else {"shop-email": report("email")}
        if reasons := watchdog.judge(silent, CONFIG, {"shop-email": (7, 60.0 + 10 * poll)}, alive, history):
            break
    assert reasons == {"shop-email": "it has not answered for 40 s"}
    assert poll < 10
