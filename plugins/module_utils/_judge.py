"""Whether a batch is healthy on a new release, compared with the fleet's baseline before the rollout.

Pure: results of celery_status_info go in, reasons come out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

# Tasks after which the share of failures of a host says something about its workers.
OWN_BASELINE_TASKS = 100


@dataclass(frozen=True)
class Margins:
    """Allowed regression against the baseline.

    Attributes:
        failures: percentage points by which the share of failed tasks may rise.
        min_failures: number of failed tasks below which their share is not evaluated.
        depth_factor: factor by which the depth of a queue may rise.
        min_depth: depth up to which a queue is healthy in any case.
    """

    failures: float = 5.0
    min_failures: int = 3
    depth_factor: float = 3.0
    min_depth: int = 100

    def depth(self, baseline: int) -> float:
        """Return the depth that a queue with this baseline may have."""
        return max(self.min_depth, baseline * self.depth_factor)


def ended(counts: Iterable[Mapping[str, int]]) -> tuple[int, int]:
    """Return how many tasks were done and how many failed."""
    counts = list(counts)
    return sum(each.get("done", 0) for each in counts), sum(each.get("failed", 0) for each in counts)


def batch_failures(
    versions: Mapping[str, str],
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    margins: Margins,
) -> list[str]:
    """Return why a batch is unhealthy; empty if it is healthy.

    Args:
        versions: for each host, its new release.
        before: for each host of the fleet, the result of celery_status_info before the first batch (the baseline).
        after: for each host of the batch, the result of celery_status_info after the activation.
        margins: allowed regression.
    """
    reasons = []
    for host, status in after.items():
        if status.get("unreachable"):
            reasons.append(f"{host} is unreachable")
            continue
        for program in status["programs"]:
            if program["state"] == "STOPPING":
                continue
            # Supervisor reports STARTING for startsecs, while the worker already consumes.
            up = program["state"] in {"RUNNING", "STARTING"}
            if not up or program["release"] != versions[host]:
                state = f"runs on {program['release']}" if up else f"is {program['state']}"
                reasons.append(f"{program['name']} on {host} {state}")
    return reasons + _failed_tasks(versions, before, after, margins) + _depths(before, after, margins)


def _failed_tasks(
    versions: Mapping[str, str],
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    margins: Margins,
) -> list[str]:
    new = set(versions.values())
    fleet = _baseline(before.values(), new)
    reasons = []
    # Each host by itself: one that fails all of its tasks would not show among many healthy ones.
    for host, status in after.items():
        if status.get("unreachable"):
            continue
        done, failed = ended([status["counts"].get(versions[host], {})])
        earlier_done, earlier_failed = ended([before.get(host, {}).get("counts", {}).get(versions[host], {})])
        done, failed = done - earlier_done, failed - earlier_failed
        own = _baseline([before[host]] if host in before else [], new, least=OWN_BASELINE_TASKS)
        baseline = max(fleet, own)
        share = failed / (done + failed) if failed else 0.0
        worse = share > baseline + margins.failures / 100
        if failed >= margins.min_failures and worse and failed > _chance(done + failed, baseline):
            reasons.append(
                f"on {host}, {failed} of {done + failed} tasks failed ({share:.0%}; baseline: {baseline:.0%})"
            )
    return reasons


def _baseline(statuses: Iterable[Mapping[str, Any]], new: Collection[str], *, least: int = 1) -> float:
    """Return the share of failed tasks before the rollout; 0 if fewer tasks than least have ended.

    An earlier attempt of the new release is no baseline. A restart has no other release to compare with.
    """
    counted = [(release, counts) for status in statuses for release, counts in status["counts"].items()]
    old = [counts for release, counts in counted if release not in new]
    done, failed = ended(old or [counts for _, counts in counted])
    return failed / (done + failed) if failed and done + failed >= least else 0.0


def _chance(tasks: int, share: float) -> float:
    """Return the number of failures that chance explains: three standard deviations above the expected one."""
    return tasks * share + 3 * sqrt(tasks * share * (1 - share))


def _depths(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], margins: Margins
) -> list[str]:
    baselines = _baseline_depths(before)
    reasons = {}
    for status in after.values():
        first = status.get("first_depths") or {}
        for queue, depth in (status.get("depths") or {}).items():
            baseline = baselines.get(queue, 0)
            # A backlog from the restart is no regression while it shrinks.
            if depth > margins.depth(baseline) and depth >= first.get(queue, 0):
                reasons[queue] = f"{depth} tasks are queued in {queue} (baseline: {baseline})"
    return list(reasons.values())


def depth_limits(before: Mapping[str, Mapping[str, Any]], margins: Margins) -> dict[str, float]:
    """Return the depth that each queue may have.

    Args:
        before: for each host, the result of celery_status_info before the first batch (the baseline).
    """
    return {queue: margins.depth(depth) for queue, depth in _baseline_depths(before).items()}


def _baseline_depths(before: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for status in before.values():
        depths = status.get("depths") or depths
    return depths
