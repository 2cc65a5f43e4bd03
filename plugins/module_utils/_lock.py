"""The rollout lock: its holder, and whether it is stale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# A rollout renews the lock between its steps and with each poll. Staging a release on a slow host takes longest.
STALE_SECONDS = 900.0


@dataclass(frozen=True)
class Holder:
    """The holder of the lock.

    Attributes:
        run: identifier of the run.
        owner: the user and the controller, for messages.
        machine: the controller's host name.
        process: the run's process on the controller; empty if it is not known.
        since: when the lock was acquired, in seconds since the epoch.
        heard: when the lock was last renewed, in seconds since the epoch.
    """

    run: str
    owner: str
    machine: str = ""
    process: str = ""
    since: float = 0.0
    heard: float = 0.0


def acquire(holder: Holder | None, mine: Holder, processes: Iterable[str]) -> tuple[Holder | None, str]:
    """Acquire or renew the lock. Return its new holder, None if another run holds it, and a message.

    Args:
        holder: the present holder.
        mine: this run, with the present time as since and heard.
        processes: processes of the runs that are alive on this run's controller.
    """
    if holder is None:
        return mine, ""
    if holder.run == mine.run:
        return Holder(mine.run, mine.owner, mine.machine, mine.process, holder.since, mine.heard), ""
    silent = mine.heard - holder.heard
    who = f"{holder.owner}, for {mine.heard - holder.since:.0f} s, renewed {silent:.0f} s ago"
    killed = holder.process and holder.machine == mine.machine and holder.process not in processes
    if silent < STALE_SECONDS and not killed:
        return None, (
            f"Another rollout holds the lock: {who}. Wait until it has ended. A lock that is not renewed for "
            f"{STALE_SECONDS:.0f} s is taken over. To take it over now, set -e celery_rollout_take_over=true"
        )
    return mine, f"Took over the stale lock of another rollout: {who}"
