"""One rollout at a time: who holds the lock of a fleet, and whether they are still at it."""

from __future__ import annotations

from dataclasses import dataclass

# A rollout is heard of at least every slice of time; making a release on a slow host takes longest.
STALE_SECONDS = 900.0


@dataclass(frozen=True)
class Holder:
    """Who holds the lock.

    Attributes:
        run: tells one run from another.
        owner: for people: who, and from where.
        since: seconds since the epoch.
        heard: when the run was last heard of.
    """

    run: str
    owner: str
    since: float
    heard: float


def take(holder: Holder | None, run: str, owner: str, now: float) -> tuple[Holder | None, str]:
    """Return the lock as this run then holds it, or why it can't; and what is worth telling.

    Args:
        holder: who has it now.
    """
    if holder is None:
        return Holder(run, owner, now, now), ""
    if holder.run == run:
        return Holder(run, owner, holder.since, now), ""
    silent = now - holder.heard
    told = f"{holder.owner}, since {now - holder.since:.0f} s, last heard of {silent:.0f} s ago"
    if silent < STALE_SECONDS:
        return None, (
            f"Another rollout is under way: {told}. Wait for it. If it is dead, it is taken for that after "
            f"{STALE_SECONDS:.0f} s of silence; at once with -e celery_rollout_take_over=true"
        )
    return Holder(run, owner, now, now), f"A rollout that is dead held the lock: {told}. It is taken over"
