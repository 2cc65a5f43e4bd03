"""A sweep, which requeues the tasks that no worker holds: which workers must answer, and which can't.

Pure. A status is the result of celery_status_info in a loop over hosts, with the host's name as item.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def draining_workers(statuses: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the workers that finish their tasks and no longer report them, for people."""
    found = []
    for status in statuses:
        host = status["item"]
        found += [f"{each['name']} on {host} is draining" for each in status["programs"] if each["state"] == "STOPPING"]
        found += [
            f"{stray['program']} on {host} (process {stray['pid']}, of no Supervisor) ends its tasks"
            for stray in status["strays"]
        ]
    return found


def running_nodes(statuses: Iterable[Mapping[str, Any]], hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the node names of the running workers.

    Args:
        hosts: of the plan. Those beyond --limit have no facts, so the status has the host's name.
    """
    return [
        slot["node"].replace("%h", status["nodename"])
        for status in statuses
        for program in hosts[status["item"]]["programs"]
        for slot in program["slots"]
        if slot["name"] in _running(status)
    ]


def _running(status: Mapping[str, Any]) -> set[str]:
    return {program["name"] for program in status["programs"] if program["state"] in {"STARTING", "RUNNING"}}
