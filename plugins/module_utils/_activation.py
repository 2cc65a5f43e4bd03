"""The next step of an activation: pure, from the observed state of a worker's programs.

No state is kept between two polls except the time of the first start, so an interrupted activation continues where it
was. There are two ways: a warm restart (stop the old program, then start the new one), and a handover (start the new
program in the other of two slots, and stop the old one once the new one consumes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.fleet.celery.plugins.module_utils._tls import certificate_fix

# Seconds after which a program that exits again and again has failed. A single start may fail for another reason.
CRASH_SECONDS = 10.0
_UP = frozenset({"STARTING", "RUNNING"})
DOWN = frozenset({"STOPPED", "EXITED", "FATAL", "BACKOFF", "UNKNOWN"})


@dataclass(frozen=True)
class Wanted:
    """The desired state of a worker.

    Attributes:
        slots: the names of its programs in Supervisor: one, or two for a handover.
        queues: queues that it must consume.
        start_timeout: seconds within which it must be ready after its start.
    """

    name: str
    slots: tuple[str, ...]
    queues: frozenset[str]
    start_timeout: float

    @property
    def handover(self) -> bool:
        return len(self.slots) > 1


@dataclass(frozen=True)
class Observed:
    """The observed state of a program.

    Attributes:
        state: its state in Supervisor.
        current: whether it was started from the release, the environment and the settings that are on disk.
        answers: whether its heartbeat is fresh, or it answered by remote control.
        queues: queues that it consumes, by its own answer.
        tried: seconds since this activation started it, or first observed that it is current; None if neither.
        idle: whether this activation, or one that failed, started it and it was never ready. It has no tasks then.
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
    """The next step of a worker.

    Attributes:
        start: slot to start.
        stop: slot to stop warm. The activation does not wait for it.
        kill: slot to kill. It was never ready, so it has no tasks.
        live: slot that starts at boot from now on.
        waits: what the worker waits for; empty once it is ready.
        failure: why it can't become ready.
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


def next_step(wanted: Wanted, observed: Mapping[str, Observed], live: str) -> Step:
    """Return the next step towards a worker that runs on what is on disk.

    Args:
        observed: the state of each of its slots that Supervisor has.
        live: the slot that starts at boot.
    """
    mine = observed.get(live, Observed())
    other = next((slot for slot in wanted.slots if slot != live), "")
    beside = observed.get(other, Observed())
    if (step := _cleared(live, mine, stop=not wanted.handover)) is not None:
        return step
    if mine.up and not mine.current:
        return _hand_over(wanted, (live, other), beside)
    if mine.down and mine.tried is None:
        return Step(start=live, waits=f"{live} is starting")
    step = _come_up(wanted, live, mine)
    if step.done and beside.up:
        # Left by an interrupted handover.
        return Step(stop=other, waits=f"{other} is stopping")
    return step


def _cleared(slot: str, observed: Observed, *, stop: bool) -> Step | None:
    """Return the step that frees a slot of an outdated program; None if the slot is free.

    Args:
        stop: whether to stop a program that is ready.
    """
    if observed.idle and not observed.current and not observed.down:
        return Step(kill=slot, waits=f"{slot}, which was never ready, is being killed")
    if observed.state == "STOPPING":
        return Step(waits=f"{slot} is finishing its tasks")
    if stop and observed.up and not observed.current:
        return Step(stop=slot, waits=f"{slot} is stopping")
    return None


def _hand_over(wanted: Wanted, slots: tuple[str, str], beside: Observed) -> Step:
    live, other = slots
    if (step := _cleared(other, beside, stop=True)) is not None:
        return step
    if not beside.current and beside.tried is None:
        return Step(start=other, waits=f"{other} is starting")
    step = _come_up(wanted, other, beside)
    if step.done:
        return Step(live=other, stop=live, waits=f"{live} is stopping")
    if step.failure:
        return Step(kill=other if beside.up else "", failure=f"{step.failure}\n{live} keeps running on its release")
    return step


def _come_up(wanted: Wanted, slot: str, observed: Observed) -> Step:
    """Return the step that waits until a current program is ready, and restarts it if it exits."""
    tried = observed.tried or 0.0
    if observed.down:
        if tried >= min(CRASH_SECONDS, wanted.start_timeout):
            return Step(failure=_with_log(f"{slot} exits again and again", observed.log))
        return Step(start=slot if observed.state != "BACKOFF" else "", waits=f"{slot} is starting")
    missing = wanted.queues - observed.queues
    if observed.answers and not missing:
        return Step()
    what = f"does not consume {', '.join(sorted(missing))}" if observed.answers else "does not answer"
    if tried >= wanted.start_timeout:
        return Step(failure=_with_log(f"{slot} {what} after {tried:.0f} s", observed.log))
    return Step(waits=f"{slot} {what} yet")


def _with_log(failure: str, log: str) -> str:
    """Return why a program can't become ready, with the end of its log and what to do about a refused certificate."""
    return "\n".join(filter(None, [f"{failure}. The end of its log:\n{log}", certificate_fix(log)]))
