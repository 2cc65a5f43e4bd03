"""One rollout at a time: who holds the lock of a fleet, and whether they are still at it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# A rollout is heard of at least every slice of time; making a release on a slow host takes longest.
STALE_SECONDS = 900.0


@dataclass(frozen=True)
class Holder:
    """Who holds the lock.

    Attributes:
        run: tells one run from another.
        owner: for people: who, and from where.
        machine: the controller.
        process: the run's on it; empty if not known.
        since: seconds since the epoch.
        heard: when the run was last heard of.
    """

    run: str
    owner: str
    machine: str = ""
    process: str = ""
    since: float = 0.0
    heard: float = 0.0


def take(holder: Holder | None, mine: Holder, processes: Iterable[str]) -> tuple[Holder | None, str]:
    """Return the lock as this run then holds it, or why it can't; and what is worth telling.

    Args:
        holder: who has it now.
        mine: this run, since and heard of now.
        processes: the runs on this run's machine that are alive.
    """
    if holder is None:
        return mine, ""
    if holder.run == mine.run:
        return Holder(mine.run, mine.owner, mine.machine, mine.process, holder.since, mine.heard), ""
    silent = mine.heard - holder.heard
    told = f"{holder.owner}, since {mine.heard - holder.since:.0f} s, last heard of {silent:.0f} s ago"
    killed = holder.process and holder.machine == mine.machine and holder.process not in processes
    if silent < STALE_SECONDS and not killed:
        return None, (
            f"Another rollout is under way: {told}. Wait for it. If it is dead, it is taken for that after "
            f"{STALE_SECONDS:.0f} s of silence; at once with -e celery_rollout_take_over=true"
        )
    return mine, f"A rollout that is dead held the lock: {told}. It is taken over"
