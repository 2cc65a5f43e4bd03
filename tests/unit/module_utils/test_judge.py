"""When a batch counts as failed."""

from __future__ import annotations

from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._judge import Margins, batch_failures, depth_limits


def status(release: str, done: int = 100, failed: int = 0, state: str = "RUNNING", **more: Any) -> dict[str, Any]:
    programs = [{"name": "shop-email", "state": state, "release": release}]
    return {"programs": programs, "counts": {release: {"done": done, "failed": failed}}, **more}


BEFORE = {"w1": status("1.0", 980, 20), "w2": status("1.0", 980, 20)}


def failures(after: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]] | None = None) -> list[str]:
    return batch_failures(dict.fromkeys(after, "1.1"), before or BEFORE, after, Margins())


def test_a_batch_as_healthy_as_the_baseline_passes() -> None:
    assert failures({"w1": status("1.1", 98, 2)}) == []
    assert failures({"w1": status("1.1", 0, 0)}) == []


def test_one_host_with_failing_tasks_fails_the_batch() -> None:
    (reason,) = failures({"w1": status("1.1", 1000, 0), "w2": status("1.1", 2, 18)})
    assert reason == "on w2, 18 of 20 tasks failed (90%; baseline: 2%)"


def test_every_host_and_program_is_judged() -> None:
    bad = status("1.1", 0, 20, "BACKOFF")
    bad["programs"].insert(0, {"name": "shop-video", "state": "STOPPING", "release": "1.0"})
    assert failures({"w1": {"unreachable": True}, "w2": bad}) == [
        "w1 is unreachable",
        "shop-email on w2 is BACKOFF",
        "on w2, 20 of 20 tasks failed (100%; baseline: 2%)",
    ]


def test_fewer_failures_than_the_least_are_ignored() -> None:
    assert failures({"w1": status("1.1", 0, 2)}) == []
    assert failures({"w1": status("1.1", 0, 3)}) == ["on w1, 3 of 3 tasks failed (100%; baseline: 2%)"]


def test_the_share_of_failed_tasks_may_rise_by_the_margin_and_not_more() -> None:
    before = {"w1": status("1.0", 985, 15)}
    assert failures({"w1": status("1.1", 935, 65)}, before) == []
    assert failures({"w1": status("1.1", 9349, 651)}, before) == ["on w1, 651 of 10000 tasks failed (7%; baseline: 2%)"]
    half = {"w1": status("1.0", 15, 15)}
    assert failures({"w1": status("1.1", 30, 70)}, half) == ["on w1, 70 of 100 tasks failed (70%; baseline: 50%)"]


def test_what_chance_explains_is_no_regression() -> None:
    assert failures({"w1": status("1.1", 36, 3)}) == []
    assert failures({"w1": status("1.1", 35, 4)}) == ["on w1, 4 of 39 tasks failed (10%; baseline: 2%)"]
    half = {"w1": status("1.0", 15, 15)}
    assert failures({"w1": status("1.1", 40, 60)}, half) == []


def test_a_host_is_compared_with_itself_if_its_tasks_fail_more_often_than_others() -> None:
    before = {"w1": status("1.0", 10_000, 0), "w2": status("1.0", 80, 20)}
    assert failures({"w2": status("1.1", 75, 25)}, before) == []
    assert failures({"w1": status("1.1", 75, 25)}, before) == ["on w1, 25 of 100 tasks failed (25%; baseline: 0%)"]
    # Fewer tasks say too little.
    before["w2"] = status("1.0", 79, 20)
    assert failures({"w2": status("1.1", 75, 25)}, before) == ["on w2, 25 of 100 tasks failed (25%; baseline: 0%)"]


def test_failures_of_an_earlier_attempt_of_the_same_release_are_ignored() -> None:
    before = {"w1": status("1.0", 980, 20)}
    before["w1"]["counts"]["1.1"] = {"done": 0, "failed": 50}
    assert failures({"w1": status("1.1", 100, 50)}, before) == []


def test_a_worker_that_is_down_or_on_another_release_fails_the_batch_and_a_draining_one_does_not() -> None:
    assert failures({"w1": status("1.1", state="BACKOFF")}) == ["shop-email on w1 is BACKOFF"]
    assert failures({"w1": status("1.0")}) == ["shop-email on w1 runs on 1.0"]
    assert failures({"w1": status("1.2")}) == ["shop-email on w1 runs on 1.2"]
    assert failures({"w1": status("1.0", state="STOPPING")}) == []
    assert failures({"w1": status("1.1", state="STARTING")}) == []


def test_an_unreachable_host_fails_the_batch() -> None:
    assert failures({"w1": {"unreachable": True}}) == ["w1 is unreachable"]


def test_a_queue_that_grew_fails_the_batch() -> None:
    before = {"w1": status("1.0", depths={"email": 50, "video": 10})}
    after = {"w1": status("1.1", depths={"email": 151, "video": 100})}
    assert failures(after, before) == ["151 tasks are queued in email (baseline: 50)"]


def test_a_queue_that_grew_within_its_margin_passes() -> None:
    before = {"w1": status("1.0", depths={"email": 50})}
    after = {"w1": status("1.1", depths={"email": 149}, first_depths={"email": 10})}
    assert failures(after, before) == []


def test_a_backlog_that_shrinks_passes() -> None:
    first = {"email": 300, "video": 200}
    after = {"w1": status("1.1", depths={"email": 299, "video": 200}, first_depths=first)}
    assert failures(after) == ["200 tasks are queued in video (baseline: 0)"]


def test_the_margins_limit_the_depth_of_a_queue() -> None:
    before = {"w1": status("1.0", depths={"email": 50, "video": 10}), "w2": status("1.0", depths={})}
    assert depth_limits(before, Margins()) == {"email": 150, "video": 100}


def test_the_baseline_of_a_restart_is_its_own_release() -> None:
    before = {"w1": status("1.1", 900, 100)}
    assert failures({"w1": status("1.1", 990, 110)}, before) == []
    assert failures({"w1": status("1.1", 1000, 150)}, before) == ["on w1, 50 of 150 tasks failed (33%; baseline: 10%)"]
