"""A rollout as its hosts tell of it: who is there, who is waited for, and what stands against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

AWAY = "it can't be reached any more"


@dataclass
class Look:
    """What the hosts of a batch told after a slice of time.

    Attributes:
        waiting: hosts that are not there yet.
        progress: what they wait for, or would do.
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
            found.failures[host] = [AWAY]
        elif result.get("failed"):
            found.failures[host] = [str(result.get("msg", "celery_activate failed"))]
        elif result.get("failures"):
            found.failures[host] = list(result["failures"])
        else:
            if not result.get("done"):
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


def staging_failures(failures: Mapping[str, str], unreachable: Iterable[str]) -> list[str]:
    """Return why a release can't be activated: each reason once, with the hosts that gave it.

    Args:
        failures: for each host on which it could not be made, why.
        unreachable: hosts that went away meanwhile.
    """
    reasons: dict[str, list[str]] = {}
    for host, reason in failures.items():
        reasons.setdefault(reason, []).append(host)
    for host in unreachable:
        reasons.setdefault(AWAY, []).append(host)
    return [f"{', '.join(hosts)}: {reason}" for reason, hosts in reasons.items()]


def verdict(
    label: str, reasons: Iterable[str], slices: Mapping[str, Mapping[str, Any]], away: Iterable[str] = ()
) -> str:
    """Return how a bad rollout ended: why it was bad, and where each host that it had come to is now.

    Args:
        label: what was rolled out.
        slices: for each of these hosts, the latest result of celery_activate.
        away: hosts that can't be reached, which may be why: nobody consumes what only they did.
    """
    lines = [f"{label} is bad:", *(f"  {reason}" for reason in reasons), "The hosts that it had come to:"]
    found = look(slices, slices)
    for host, result in slices.items():
        waits = "; ".join(["is not done", *result.get("waits", [])]) if host in found.waiting else ""
        where = "; ".join(found.failures.get(host, [])) or waits or f"runs on {result['version']}"
        lines.append(f"  {host}: {where}")
    others = [host for host in away if host not in slices]
    if others:
        lines += ["Of the others, which it may be due to:", *(f"  {host}: {AWAY}" for host in others)]
    return "\n".join(lines)
