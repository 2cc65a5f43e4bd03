"""The release check: compare its report with the fleet's declaration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

#: The module that writes the report, as ``python -m`` takes it.
CHECK = "celery_fleet_runtime.check"
MIB = 1024 * 1024
# The check itself needs memory, too.
MEMORY_TOLERANCE = 1.2


def release_problems(report: Mapping[str, Any], app: str, child_caps: Mapping[str, int]) -> list[str]:
    """Return why a release can't run on the fleet, a message with the fix each.

    Args:
        report: of celery_fleet_runtime.check.
        app: the application as ``celery -A`` takes it.
        child_caps: for each program, bytes above which a child is replaced; 0 for no cap.
    """
    problems = []
    if not report["applies_settings"]:
        problems.append(
            f"{app} does not take the fleet's settings, because it has a loader of its own. "
            "Remove loader= where the application is created, and CELERY_LOADER from its environment"
        )
    problems += celery_problems(report["celery"], report["quorum_queues"])
    problems += priority_problems(report["priorities"])
    problems += limit_problems(report["time_limits"])
    problems += [
        f"{app} sets {name} to {serializer}, with which a message runs code, whoever has signed it. With "
        "celery_signed_messages, use json or msgpack"
        for name, serializer in sorted(report["unsafe_serializers"].items())
    ]
    problems += cap_problems(report["memory"], child_caps)
    problems += [
        f"{app}: {where} sends tasks to the queue {queue}, which celery_queues does not declare. "
        "Declare it there, or change it in the application"
        for queue, where in sorted(report["undeclared"].items())
    ]
    problems += [
        f"{app}: {where} sends tasks to the exchange {exchange}, which is not the fleet's. "
        "Remove exchange there: the fleet's declaration sets the exchange of each queue"
        for exchange, where in sorted(report["exchanges"].items())
    ]
    for name in report["unknown"]:
        close = get_close_matches(name, report["known"], n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        problems.append(f"celery_settings.{name}: the release's Celery has no such setting.{hint}")
    if not report["tasks"]:
        problems.append(f"{app} has no tasks. Add their modules to its include=, or call app.autodiscover_tasks()")
    return problems


def release_findings(report: Mapping[str, Any], planned_memory: int) -> list[str]:
    """Return remarks on a release that can run, a sentence each.

    Args:
        report: of celery_fleet_runtime.check.
        planned_memory: bytes that the plan counts for a process with the application; 0 to skip the comparison.
    """
    return [
        *celery_report(report["celery"]),
        *settings_report(report["differences"], report["left_out"]),
        *memory_report(report["memory"], planned_memory),
    ]


def settings_report(differences: Iterable[Mapping[str, str]], left_out: Iterable[str]) -> list[str]:
    """Return a sentence for each setting that application and fleet set differently, and one for those left out.

    Args:
        differences: name, both values as text, and whose value applies, for each setting.
        left_out: settings of the fleet that the release's Celery does not have.
    """
    sentences = []
    for found in differences:
        name, own, fleets = found["name"], found["application"], found["fleet"]
        if found["applies"] == "application":
            sentences.append(f"{name}: the application's {own} applies, not the fleet's {fleets}")
        elif found["applies"] == "hosts":
            sentences.append(
                f"{name}: the application's {own} applies, because the fleet has none. Hosts must reach it"
            )
        elif found["applies"] == "workers":
            sentences.append(f"{name}: the options of each worker in celery_workers apply, not the application's {own}")
        elif found["applies"] == "fleet":
            sentences.append(f"{name}: the fleet's {fleets} applies, not the application's {own}")
        else:
            sentences.append(f"{name}: the fleet's apply first, then the application's {own}")
    if names := ", ".join(left_out):
        sentences.append(
            f"The release's Celery does not have these settings of the fleet, so they are left out: {names}"
        )
    return sentences


# Since 5.5, Celery sets the prefetch count per consumer. Quorum queues refuse a global one:
# https://docs.celeryq.dev/en/stable/history/whatsnew-5.5.html
QUORUM_QUEUES_SINCE = (5, 5)
TESTED_UNTIL = (5, 7)


def celery_problems(version: str, quorum_queues: Iterable[str]) -> list[str]:
    """Return why the release's Celery can't consume the fleet's queues.

    Args:
        version: version of Celery, such as 5.4.0.
        quorum_queues: names of the fleet's quorum queues.
    """
    names = ", ".join(quorum_queues)
    if not names or _minor(version) >= QUORUM_QUEUES_SINCE:
        return []
    return [
        f"Celery {version} can't consume quorum queues ({names}). Require celery>=5.5 of the application, or set "
        "celery_queue_defaults: {type: classic}, or celery_broker: redis"
    ]


def celery_report(version: str) -> list[str]:
    """Return a remark if the release's Celery is newer than the latest tested version."""
    if _minor(version) <= TESTED_UNTIL:
        return []
    return [f"Celery {version} is newer than {'.'.join(map(str, TESTED_UNTIL))}, the latest tested version"]


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def priority_problems(priorities: Mapping[str, int]) -> list[str]:
    """Return why tasks would not have the priorities of the application.

    Args:
        priorities: the highest priority, by where the application sets it.
    """
    return [
        f"The application sets {where} to a highest priority of {highest}, but the fleet's queues have no such "
        f"priority. Set {{type: classic, max_priority: {highest}}} for the queues in celery_queues that need it"
        for where, highest in sorted(priorities.items())
    ]


def limit_problems(limits: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return why the time limits of tasks are too long for the workers of their queue.

    Args:
        limits: name, queue, and the time limits of task and workers in seconds, for each such task.
    """
    return [
        f"The task {found['name']} sets time_limit={found['task']}, but a stop of the workers of its queue "
        f"{found['queue']} waits for {found['worker']} s only. Set time_limit: {found['task']} for the queue "
        f"{found['queue']} in celery_queues, or lower the time limit of the task"
        for found in limits
    ]


def cap_problems(memory: int, caps: Mapping[str, int]) -> list[str]:
    """Return which caps on children are smaller than the application alone.

    Args:
        memory: bytes of a process that has imported the application.
        caps: bytes above which a child is replaced, by program; 0 for no cap.
    """
    return [
        f"{name} replaces each child above {cap // MIB} MiB after its task, but the application alone needs "
        f"{memory // MIB} MiB. Raise max_memory_per_child of the worker, or set celery_app_memory to {memory // MIB}MB"
        for name, cap in sorted(caps.items())
        if 0 < cap <= memory
    ]


def memory_report(memory: int, planned: int) -> list[str]:
    """Return a remark if the application needs more memory than planned.

    Args:
        memory: bytes of a process that has imported the application.
        planned: bytes that the plan counts for such a process; 0 without a plan.
    """
    if not planned or memory <= planned * MEMORY_TOLERANCE:
        return []
    return [
        f"a process that has imported the application needs {memory // MIB} MiB; the plan counts {planned // MIB} MiB."
        f" Set celery_app_memory to {memory // MIB}MB"
    ]
