"""What to do next, so that a program of a host comes to run on what is on disk: pure, from what is seen of it.

Nothing is remembered from one look to the next but when a start was tried, so an activation that was broken off goes on
where it was. Two ways: warm (end the old worker, start the new one) and handover (start the new one beside it, in the
other of two slots, and end the old one once the new one is at work).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# A worker that does not stay up shows it within so many seconds; one start may fail for another reason.
DIES_SECONDS = 10.0
_UP = frozenset({"STARTING", "RUNNING"})
DOWN = frozenset({"STOPPED", "EXITED", "FATAL", "BACKOFF", "UNKNOWN"})

SLICE_LEAST_SECONDS, SLICE_MOST_SECONDS = 15.0, 300.0


def slice_seconds(waited: float) -> float:
    """Return for how long a call waits, so that who looks on sees what is waited for.

    Each call is a task of Ansible's within the one before, of which it can't take many hundreds: so the longer it has
    waited, the longer it waits. A day is some 350 calls.

    Args:
        waited: seconds that earlier calls have waited.
    """
    return min(max(waited / 20, SLICE_LEAST_SECONDS), SLICE_MOST_SECONDS)


@dataclass(frozen=True)
class Wanted:
    """A program as it should be.

    Attributes:
        slots: the names that it may have in Supervisor: its own, or with handover two.
        queues: that it must consume.
        start_timeout: seconds until it must be at work.
    """

    name: str
    slots: tuple[str, ...]
    queues: frozenset[str]
    start_timeout: float

    @property
    def handover(self) -> bool:
        return len(self.slots) > 1


@dataclass(frozen=True)
class Seen:
    """A program of Supervisor at one moment.

    Attributes:
        state: as Supervisor calls it.
        current: it was started from the release and the files that are on disk now.
        answers: it answered a ping by its node's name.
        queues: that it said it consumes.
        tried: seconds since this activation started it, or first saw that it was started on what is on disk; None if
            neither happened.
        idle: this activation started it, or an earlier one that failed, and it never was at work: it has no tasks.
        log: the end of its log, for a message.
    """

    state: str = "STOPPED"
    current: bool = False
    answers: bool = False
    queues: frozenset[str] = field(default_factory=frozenset)
    tried: float | None = None
    idle: bool = False
    log: str = ""

    @property
    def up(self) -> bool:
        return self.state in _UP

    @property
    def down(self) -> bool:
        return self.state in DOWN


@dataclass(frozen=True)
class Step:
    """What to do now, and what is waited for.

    Attributes:
        start: the slot to start.
        stop: the slot to end warm; it is not waited for.
        kill: the slot to end at once: it never was at work, so it has no tasks.
        live: the slot that is to start with the host from now on.
        waits: for what; empty once the program is as it should be.
        failure: why it can't become so.
    """

    start: str = ""
    stop: str = ""
    kill: str = ""
    live: str = ""
    waits: str = ""
    failure: str = ""

    @property
    def done(self) -> bool:
        return not (self.waits or self.failure)


def next_step(wanted: Wanted, seen: Mapping[str, Seen], live: str) -> Step:
    """Return what brings a program nearer to running on what is on disk.

    Args:
        seen: each of its slots that Supervisor knows.
        live: the slot that starts with the host.
    """
    mine = seen.get(live, Seen())
    other = next((slot for slot in wanted.slots if slot != live), "")
    beside = seen.get(other, Seen())
    if (step := _cleared(live, mine, stop=not wanted.handover)) is not None:
        return step
    if mine.up and not mine.current:
        return _hand_over(wanted, (live, other), beside)
    if mine.down and mine.tried is None:
        return Step(start=live, waits=f"{live} starts")
    step = _come_up(wanted, live, mine)
    if step.done and beside.up:
        # What a handover that was broken off has left.
        return Step(stop=other, waits=f"{other} is told to end")
    return step


def _cleared(slot: str, seen: Seen, *, stop: bool) -> Step | None:
    """Return what frees a slot of a worker that is not to run there; None if there is none.

    Args:
        stop: whether one that is at work is to be ended.
    """
    if seen.idle and not seen.current and not seen.down:
        return Step(kill=slot, waits=f"{slot}, which never came up, is ended")
    if seen.state == "STOPPING":
        return Step(waits=f"{slot} ends its tasks")
    if stop and seen.up and not seen.current:
        return Step(stop=slot, waits=f"{slot} is told to end")
    return None


def _hand_over(wanted: Wanted, slots: tuple[str, str], beside: Seen) -> Step:
    live, other = slots
    if (step := _cleared(other, beside, stop=True)) is not None:
        return step
    if not beside.current and beside.tried is None:
        return Step(start=other, waits=f"{other} starts")
    step = _come_up(wanted, other, beside)
    if step.done:
        return Step(live=other, stop=live, waits=f"{live} is told to end")
    if step.failure:
        return Step(kill=other if beside.up else "", failure=f"{step.failure}\n{live} goes on as before")
    return step


def _come_up(wanted: Wanted, slot: str, seen: Seen) -> Step:
    """Return what is still missing of a program that was started on what is on disk."""
    tried = seen.tried or 0.0
    if seen.down:
        if tried >= min(DIES_SECONDS, wanted.start_timeout):
            return Step(failure=f"{slot} does not stay up; the end of its log:\n{seen.log}")
        return Step(start=slot if seen.state != "BACKOFF" else "", waits=f"{slot} starts")
    missing = wanted.queues - seen.queues
    if seen.answers and not missing:
        return Step()
    what = f"does not consume {', '.join(sorted(missing))}" if seen.answers else "does not answer"
    if tried >= wanted.start_timeout:
        return Step(failure=f"{slot} {what} after {tried:.0f} s; the end of its log:\n{seen.log}")
    return Step(waits=f"{slot} {what} yet")
