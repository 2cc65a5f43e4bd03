"""The progress of a rollout, evaluated from the results of its modules on each host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._table import listed, some_lines, told_together

UNREACHABLE = "unreachable"
#: Phases of a program that comes to another release.
CHANGES = ("draining", "killed", "down", "starting", "up")
# Of these, each line is read.
FEW_HOSTS = 4


@dataclass
class Progress:
    """The state of a batch's hosts.

    Attributes:
        waiting: hosts on which a program is not done.
        progress: lines for people; what is waited for, or in check mode what would change.
        failures: for each host that failed, the reasons.
    """

    waiting: list[str] = field(default_factory=list)
    progress: list[str] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=dict)


def activation_progress(results: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> Progress:
    """Return the state of hosts.

    Args:
        results: for each host, the latest result of celery_activate.
    """
    progress = Progress()
    for host in hosts:
        result = results.get(host, {})
        if result.get("unreachable"):
            progress.failures[host] = [UNREACHABLE]
        elif result.get("failed"):
            progress.failures[host] = [str(result.get("msg", "celery_activate failed"))]
        elif result.get("failures"):
            progress.failures[host] = list(result["failures"])
        else:
            if not result.get("done"):
                progress.waiting.append(host)
            progress.progress += [f"{host}: {text}" for text in result.get("waits", [])]
    return progress


def changeover(programs: Iterable[Sequence[Sequence[Any]]]) -> float:
    """Return the seconds from the first phase of a host's programs until all of them were up; 0 if none was started.

    Args:
        programs: for each, the start and the name of each phase.
    """
    phases = [(float(moment), name) for program in programs for moment, name in program if name in CHANGES]
    ups = [moment for moment, name in phases if name == "up"]
    return max(ups) - min(moment for moment, _ in phases) if ups else 0.0


def batch_summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how long the hosts of a batch took, for people; empty if they are few.

    Args:
        results: for each host, the latest result of celery_activate.
    """
    times = sorted((changeover(result.get("programs", {}).values()), host) for host, result in results.items())
    if len(times) < FEW_HOSTS or not times[-1][0]:
        return ""
    median, most = (times[ceil(len(times) * share) - 1][0] for share in (0.5, 0.95))
    slowest = ", ".join(f"{host} ({seconds:.0f} s)" for seconds, host in times[:-FEW_HOSTS:-1])
    return f"{len(times)} hosts: half of them took {median:.0f} s, 95% {most:.0f} s; the slowest: {slowest}"


def rollback_release(status: Mapping[str, Any], version: str) -> str:
    """Return the release that a rollback activates on a host.

    Args:
        status: result of celery_status_info before the rollout. An interrupted rollout may already have pointed current
            to the new release.
        version: the new release.
    """
    current, previous = str(status.get("current", "")), str(status.get("previous", ""))
    return previous if current == version else current


def staging_failures(failures: Mapping[str, str], unreachable: Iterable[str]) -> list[str]:
    """Return why a release can't be activated: each reason once, with its hosts.

    Args:
        failures: for each host on which staging failed, the reason.
        unreachable: hosts that became unreachable during staging.
    """
    reasons: dict[str, list[str]] = {}
    for host, reason in failures.items():
        reasons.setdefault(reason, []).append(host)
    for host in unreachable:
        reasons.setdefault(UNREACHABLE, []).append(host)
    return [f"{listed(hosts)}: {reason}" for reason, hosts in reasons.items()]


def verdict(
    label: str, reasons: Iterable[str], slices: Mapping[str, Mapping[str, Any]], unreachable: Iterable[str] = ()
) -> str:
    """Return the report of a failed rollout: its reasons, and the release of each host that it had reached.

    Args:
        label: what was rolled out.
        slices: for each of these hosts, the latest result of celery_activate.
        unreachable: hosts of the whole fleet that are unreachable. A queue that only they consume grows.
    """
    lines = [f"{label} failed:", *(f"  {reason}" for reason in reasons)]
    if slices:
        lines.append("Hosts that it was activated on:")
    progress = activation_progress(slices, slices)
    states: dict[str, str] = {}
    for host, result in slices.items():
        waits = "; ".join(["not done", *result.get("waits", [])]) if host in progress.waiting else ""
        states[host] = "; ".join(progress.failures.get(host, [])) or waits or f"runs on {result['version']}"
    lines += [f"  {hosts}: {state}" for hosts, state in told_together(states)]
    others = [host for host in unreachable if host not in slices]
    if others:
        lines += ["Other hosts, a possible cause:", *some_lines([f"  {host}: {UNREACHABLE}" for host in others])]
    return "\n".join(lines)
