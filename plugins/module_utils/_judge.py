"""Whether a batch of hosts is as well on the new release as the fleet was before: pure, from what was counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Margins:
    """How much worse than before is still well.

    Attributes:
        failures: of a hundred tasks, so many more may fail.
        least_failures: fewer than that prove nothing.
        depth_factor: a queue may be so many times as deep.
        depth_least: a queue that is no deeper than that is well.
    """

    failures: float = 5.0
    least_failures: int = 3
    depth_factor: float = 3.0
    depth_least: int = 100

    def depth(self, before: int) -> float:
        """Return how deep a queue may be that had so many messages before."""
        return max(self.depth_least, before * self.depth_factor)


def ended(counts: Iterable[Mapping[str, int]]) -> tuple[int, int]:
    """Return how many tasks were done and how many failed."""
    counts = list(counts)
    return sum(each.get("done", 0) for each in counts), sum(each.get("failed", 0) for each in counts)


def judge(
    versions: Mapping[str, str],
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    margins: Margins,
) -> list[str]:
    """Return why a batch is bad; nothing if it is not.

    Args:
        versions: the release that each host is to be on.
        before: for each host of the fleet, what celery_status told before the first batch.
        after: the same for the hosts of the batch, once they run the release.
        margins: how much worse is still well.
    """
    reasons = []
    for host, status in after.items():
        if status.get("unreachable"):
            reasons.append(f"{host} can't be reached any more")
            continue
        for program in status["programs"]:
            if program["state"] == "STOPPING":
                continue
            # One that has just come up is STARTING for some seconds, though it is at work.
            up = program["state"] in {"RUNNING", "STARTING"}
            if not up or program["release"] != versions[host]:
                what = f"runs on {program['release']}" if up else f"is {program['state']}"
                reasons.append(f"{program['name']} on {host} {what}")
    return reasons + _failures(versions, before, after, margins) + _depths(before, after, margins)


def _failures(
    versions: Mapping[str, str],
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    margins: Margins,
) -> list[str]:
    told = [(release, counts) for status in before.values() for release, counts in status["counts"].items()]
    # What an earlier try of the new release did is no measure; of a restart, there is nothing else.
    old = [counts for release, counts in told if release not in versions.values()]
    was_done, was_failed = ended(old or [counts for _, counts in told])
    was = 100 * was_failed / (was_done + was_failed) if was_failed else 0.0
    reasons = []
    # Each host by itself: among many that are well, one that fails all of its tasks would not show.
    for host, status in after.items():
        if status.get("unreachable"):
            continue
        done, failed = ended([status["counts"].get(versions[host], {})])
        old_done, old_failed = ended([before.get(host, {}).get("counts", {}).get(versions[host], {})])
        done, failed = done - old_done, failed - old_failed
        now = 100 * failed / (done + failed) if failed else 0.0
        if failed >= margins.least_failures and now > was + margins.failures:
            reasons.append(f"on {host}, {failed} of {done + failed} tasks failed ({now:.0f}%; before: {was:.0f}%)")
    return reasons


def _depths(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], margins: Margins
) -> list[str]:
    were = _told_depths(before)
    reasons = {}
    for status in after.values():
        first = status.get("first_depths") or {}
        for queue, depth in (status.get("depths") or {}).items():
            was = were.get(queue, 0)
            # What came while workers were restarted is no fault of the release if they get through it.
            if depth > margins.depth(was) and depth >= first.get(queue, 0):
                reasons[queue] = f"{depth} tasks wait in {queue} (before: {was})"
    return list(reasons.values())


def depth_limits(before: Mapping[str, Mapping[str, Any]], margins: Margins) -> dict[str, float]:
    """Return how deep each queue may be, from what celery_status told before the first batch."""
    return {queue: margins.depth(depth) for queue, depth in _told_depths(before).items()}


def _told_depths(before: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for status in before.values():
        found = status.get("depths") or found
    return found
