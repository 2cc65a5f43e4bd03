"""The release check: evaluates what celery_fleet_check reports on an application, against the fleet's declaration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

#: The program that reports, as ``python -m`` takes it.
CHECK = "celery_fleet_check"
MIB = 1024 * 1024
# The check itself takes memory too.
MEMORY_TOLERANCE = 1.2


def release_problems(report: Mapping[str, Any], app: str, child_caps: Mapping[str, int]) -> list[str]:
    """Return why a release can't run on the fleet, each with the fix.

    Args:
        report: of celery_fleet_check.
        app: what ``celery -A`` takes.
        child_caps: by the names of programs, bytes above which a child is replaced; 0 for none.
    """
    problems = []
    if not report["applies_settings"]:
        problems.append(
            f"{app} does not take the fleet's settings, because it has a loader of its own. "
            "Leave out loader= where it is created, and CELERY_LOADER in its environment"
        )
    problems += celery_problems(report["celery"], report["quorum_queues"])
    problems += priority_problems(report["priorities"])
    problems += limit_problems(report["time_limits"])
    problems += cap_problems(report["memory"], child_caps)
    problems += [
        f"{app}: {where} sends tasks to the queue {queue}, which celery_queues does not declare. "
        "Declare it there, or change it in the application"
        for queue, where in sorted(report["undeclared"].items())
    ]
    problems += [
        f"{app}: {where} sends tasks to the exchange {exchange}, which is not the fleet's. "
        "Leave out exchange there: a queue has one"
        for exchange, where in sorted(report["exchanges"].items())
    ]
    for name in report["unknown"]:
        close = get_close_matches(name, report["known"], n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        problems.append(f"celery_settings.{name}: the release's Celery knows no such setting.{hint}")
    if not report["tasks"]:
        problems.append(f"{app} has no tasks. Name their modules in its include=, or call app.autodiscover_tasks()")
    return problems


def release_findings(report: Mapping[str, Any], planned_memory: int) -> list[str]:
    """Return what users should know of a release that can run, a sentence each.

    Args:
        report: of celery_fleet_check.
        planned_memory: bytes that the plan counts for a process that has imported the application; 0 for none.
    """
    return [
        *celery_report(report["celery"]),
        *settings_report(report["differences"], report["left_out"]),
        *memory_report(report["memory"], planned_memory),
    ]


def settings_report(differences: Iterable[Mapping[str, str]], left_out: Iterable[str]) -> list[str]:
    """Return a sentence for each setting that application and fleet set differently.

    Args:
        differences: of each, its name, both values as text, and whose value applies.
        left_out: settings of the fleet that the release's Celery does not know.
    """
    told = []
    for found in differences:
        name, own, fleets = found["name"], found["application"], found["fleet"]
        if found["applies"] == "application":
            told.append(f"{name}: the application's {own} applies, not the fleet's {fleets}")
        elif found["applies"] == "fleet":
            told.append(f"{name}: the fleet's {fleets} applies, not the application's {own}")
        else:
            told.append(f"{name}: the fleet's apply first, then the application's {own}")
    told += [f"{name}: left out, because the release's Celery does not know it" for name in left_out]
    return told


# Since then, a worker sets the prefetch count of each consumer in place of one for all, which quorum queues refuse:
# https://docs.celeryq.dev/en/stable/history/whatsnew-5.5.html
QUORUM_QUEUES_SINCE = (5, 5)
TRIED_UNTIL = (5, 7)


def celery_problems(version: str, quorum_queues: Iterable[str]) -> list[str]:
    """Return why the release's Celery can't consume the fleet's queues.

    Args:
        version: of Celery, such as 5.4.0.
        quorum_queues: names of those queues that are.
    """
    names = ", ".join(quorum_queues)
    if not names or _minor(version) >= QUORUM_QUEUES_SINCE:
        return []
    return [
        f"Celery {version} can't consume quorum queues ({names}). Require celery>=5.5 of the application, or set "
        "celery_queue_defaults: {type: classic}, or celery_broker: redis"
    ]


def celery_report(version: str) -> list[str]:
    """Return what to know of the release's Celery: that it is newer than what was tried, if it is."""
    if _minor(version) <= TRIED_UNTIL:
        return []
    return [f"Celery {version} is newer than {'.'.join(map(str, TRIED_UNTIL))}, the latest version that was tried"]


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def priority_problems(priorities: Mapping[str, int]) -> list[str]:
    """Return why tasks would not have the priorities that the application wants.

    Args:
        priorities: the highest ones, by where the application says so.
    """
    return [
        f"The application sets {where} to a highest priority of {highest}, but queues have none on this fleet. Set "
        f"{{type: classic, max_priority: {highest}}} of those queues in celery_queues that need it"
        for where, highest in sorted(priorities.items())
    ]


def limit_problems(limits: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return why tasks' own time limits don't fit the workers of their queue.

    Args:
        limits: of each such task its name, its queue, and the seconds that task and worker grant.
    """
    return [
        f"The task {found['name']} sets time_limit={found['task']}, but a stop of the workers of its queue "
        f"{found['queue']} waits for {found['worker']} s only. Set time_limit: {found['task']} of the queue "
        f"{found['queue']} in celery_queues, or lower that of the task"
        for found in limits
    ]


def cap_problems(memory: int, caps: Mapping[str, int]) -> list[str]:
    """Return why caps on children are too small: a child begins with all that the application takes.

    Args:
        memory: bytes that a process takes once it has imported the application.
        caps: by the names of programs, in bytes; 0 for none.
    """
    return [
        f"{name} replaces each child above {cap // MIB} MiB after its task, but the application alone takes "
        f"{memory // MIB} MiB. Raise max_memory_per_child of the worker, or set celery_app_memory to {memory // MIB}MB"
        for name, cap in sorted(caps.items())
        if 0 < cap <= memory
    ]


def memory_report(memory: int, planned: int) -> list[str]:
    """Return what to know of memory: that the application takes more than the plan counts, if it does.

    Args:
        memory: bytes that a process takes once it has imported the application.
        planned: bytes that the plan counts for that; 0 if there is no plan.
    """
    if not planned or memory <= planned * MEMORY_TOLERANCE:
        return []
    return [
        f"a process that has imported the application takes {memory // MIB} MiB; the plan counts {planned // MIB} MiB."
        f" Set celery_app_memory to {memory // MIB}MB"
    ]
