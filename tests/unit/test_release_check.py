"""How a release check's report is evaluated."""

from __future__ import annotations

from ansible_collections.fleet.celery.plugins.module_utils._release_check import (
    MIB,
    cap_problems,
    celery_problems,
    celery_report,
    limit_problems,
    memory_report,
    priority_problems,
)


def test_a_cap_below_what_a_child_begins_with_is_a_problem() -> None:
    caps = {"shop-mail": 200 * MIB, "shop-video": 400 * MIB, "shop-chat": 0}
    (problem,) = cap_problems(258 * MIB, caps)
    assert problem.startswith("shop-mail replaces each child above 200 MiB after its task, but the application alone")
    assert "set celery_app_memory to 258MB" in problem


def test_what_the_plan_counts_too_little_is_told() -> None:
    (told,) = memory_report(258 * MIB, 96 * MIB)
    assert told.endswith("the plan counts 96 MiB. Set celery_app_memory to 258MB")
    assert memory_report(110 * MIB, 96 * MIB) == memory_report(258 * MIB, 0) == []


def test_a_celery_that_can_not_consume_quorum_queues_is_refused() -> None:
    (problem,) = celery_problems("5.4.0", ["customers", "video"])
    assert problem.startswith("Celery 5.4.0 can't consume quorum queues (customers, video). Require celery>=5.5")
    assert celery_problems("5.5.0rc1", ["customers"]) == celery_problems("5.4.0", []) == []


def test_a_celery_that_was_not_tried_is_reported() -> None:
    (told,) = celery_report("5.8.1")
    assert told == "Celery 5.8.1 is newer than 5.7, the latest version that was tried"
    assert celery_report("5.7.3") == []


def test_limits_and_priorities_that_the_fleet_does_not_have_are_refused() -> None:
    (problem,) = limit_problems([{"name": "video.long", "queue": "video", "task": 7200, "worker": 1200}])
    assert problem.endswith("Set time_limit: 7200 of the queue video in celery_queues, or lower that of the task")
    (problem,) = priority_problems({"task_queue_max_priority": 10})
    assert "Set {type: classic, max_priority: 10} of those queues" in problem
