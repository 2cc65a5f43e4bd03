"""A rollout as its hosts tell of it: who is there, who is waited for, and what stands against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Look:
    """What the hosts of a batch told after a slice of time.

    Attributes:
        waiting: hosts that are not there yet.
        progress: a line for each of them: what it waits for.
        failures: for each host that can't get there, why.
    """

    waiting: list[str] = field(default_factory=list)
    progress: list[str] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=dict)


def look(results: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> Look:
    """Return where the hosts are.

    Args:
        results: for each host, the latest result of celery_activate.
    """
    found = Look()
    for host in hosts:
        result = results.get(host, {})
        if result.get("unreachable"):
            found.failures[host] = ["it can't be reached any more"]
        elif result.get("failed"):
            found.failures[host] = [str(result.get("msg", "celery_activate failed"))]
        elif result.get("failures"):
            found.failures[host] = list(result["failures"])
        elif not result.get("done"):
            found.waiting.append(host)
            found.progress += [f"{host}: {text}" for text in result.get("waits", [])]
    return found


def release_before(status: Mapping[str, Any], version: str) -> str:
    """Return the release that a host goes back to.

    Args:
        status: what celery_status told before; a rollout that was broken off may have pointed the host to the new one.
        version: the new release.
    """
    current, previous = str(status.get("current", "")), str(status.get("previous", ""))
    return previous if current == version else current
