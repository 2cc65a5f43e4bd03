"""The evaluation of the release check's report."""

from __future__ import annotations

from ansible_collections.fleet.celery.plugins.module_utils._release_check import (
    MIB,
    cap_problems,
    celery_problems,
    celery_report,
    limit_problems,
    memory_report,
    priority_problems,
    settings_report,
)


def test_cap_below_the_memory_of_the_application_is_a_problem() -> None:
    caps = {"shop-mail": 200 * MIB, "shop-video": 400 * MIB, "shop-chat": 0}
    (problem,) = cap_problems(258 * MIB, caps)
    assert problem.startswith("shop-mail replaces each child above 200 MiB after its task, but the application alone")
    assert "set celery_app_memory to 258MB" in problem


def test_memory_above_the_plan_is_reported() -> None:
    (remark,) = memory_report(258 * MIB, 96 * MIB)
    assert remark.endswith("the plan counts 96 MiB. Set celery_app_memory to 258MB")
    assert memory_report(110 * MIB, 96 * MIB) == memory_report(258 * MIB, 0) == []


def test_celery_without_quorum_queues_is_refused() -> None:
    (problem,) = celery_problems("5.4.0", ["customers", "video"])
    assert problem.startswith("Celery 5.4.0 can't consume quorum queues (customers, video). Require celery>=5.5")
    assert celery_problems("5.5.0rc1", ["customers"]) == celery_problems("5.4.0", []) == []


def test_untested_version_of_celery_is_reported() -> None:
    (remark,) = celery_report("5.8.1")
    assert remark == "Celery 5.8.1 is newer than 5.7, the latest tested version"
    assert celery_report("5.7.3") == []


def test_settings_that_celery_does_not_have_are_reported_in_one_sentence() -> None:
    (sentence,) = settings_report([], ["event_queue_durable", "worker_detect_quorum_queues"])
    assert sentence.endswith("so they are left out: event_queue_durable, worker_detect_quorum_queues")
    assert settings_report([], []) == []


def test_limits_and_priorities_beyond_the_fleets_are_refused() -> None:
    (problem,) = limit_problems([{"name": "video.long", "queue": "video", "task": 7200, "worker": 1200}])
    assert problem.endswith(
        "Set time_limit: 7200 for the queue video in celery_queues, or lower the time limit of the task"
    )
    (problem,) = priority_problems({"task_queue_max_priority": 10})
    assert "Set {type: classic, max_priority: 10} for the queues in celery_queues" in problem
