"""When a batch of hosts counts as bad."""

from __future__ import annotations

from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._judge import Margins, depth_limits, judge


def status(release: str, done: int = 100, failed: int = 0, state: str = "RUNNING", **more: Any) -> dict[str, Any]:
    programs = [{"name": "shop-email", "state": state, "release": release}]
    return {"programs": programs, "counts": {release: {"done": done, "failed": failed}}, **more}


BEFORE = {"w1": status("1.0", 980, 20), "w2": status("1.0", 980, 20)}


def judged(after: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]] | None = None) -> list[str]:
    return judge(dict.fromkeys(after, "1.1"), before or BEFORE, after, Margins())


def test_a_batch_that_does_as_well_as_before_is_good() -> None:
    assert judged({"w1": status("1.1", 98, 2)}) == []
    assert judged({"w1": status("1.1", 0, 0)}) == []


def test_one_host_that_fails_its_tasks_is_enough() -> None:
    (reason,) = judged({"w1": status("1.1", 1000, 0), "w2": status("1.1", 2, 18)})
    assert reason == "on w2, 18 of 20 tasks failed (90%; before: 2%)"


def test_a_single_failure_proves_nothing() -> None:
    assert judged({"w1": status("1.1", 0, 2)}) == []


def test_failures_of_an_earlier_try_of_the_same_release_do_not_count() -> None:
    before = {"w1": status("1.0", 980, 20)}
    before["w1"]["counts"]["1.1"] = {"done": 0, "failed": 50}
    assert judged({"w1": status("1.1", 100, 50)}, before) == []


def test_a_worker_that_is_down_or_on_another_release_is_bad_and_one_that_drains_is_not() -> None:
    assert judged({"w1": status("1.1", state="BACKOFF")}) == ["shop-email on w1 is BACKOFF"]
    assert judged({"w1": status("1.0")}) == ["shop-email on w1 runs on 1.0"]
    assert judged({"w1": status("1.0", state="STOPPING")}) == []
    assert judged({"w1": status("1.1", state="STARTING")}) == []


def test_a_host_that_went_away_is_bad() -> None:
    assert judged({"w1": {"unreachable": True}}) == ["w1 can't be reached any more"]


def test_a_queue_that_grew_is_bad() -> None:
    before = {"w1": status("1.0", depths={"email": 50, "video": 10})}
    after = {"w1": status("1.1", depths={"email": 151, "video": 100})}
    assert judged(after, before) == ["151 tasks wait in email (before: 50)"]


def test_a_queue_that_workers_get_through_is_good() -> None:
    first = {"email": 300, "video": 200}
    after = {"w1": status("1.1", depths={"email": 299, "video": 200}, first_depths=first)}
    assert judged(after) == ["200 tasks wait in video (before: 0)"]


def test_a_queue_may_be_as_deep_as_the_margins_say() -> None:
    before = {"w1": status("1.0", depths={"email": 50, "video": 10}), "w2": status("1.0", depths={})}
    assert depth_limits(before, Margins()) == {"email": 150, "video": 100}


def test_a_restart_is_judged_by_what_its_own_release_did_before() -> None:
    before = {"w1": status("1.1", 900, 100)}
    assert judged({"w1": status("1.1", 990, 110)}, before) == []
    assert judged({"w1": status("1.1", 950, 150)}, before) == ["on w1, 50 of 100 tasks failed (50%; before: 10%)"]
