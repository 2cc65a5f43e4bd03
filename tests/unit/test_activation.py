"""How a program comes from one release to the next, step by step, with a Supervisor that is made up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._activation import (
    Seen,
    Step,
    Wanted,
    next_step,
    slice_seconds,
)
from ansible_collections.fleet.celery.plugins.module_utils._lock import STALE_SECONDS
from hypothesis import given
from hypothesis import strategies as st

QUEUES = frozenset({"email"})
WARM = Wanted("shop-email", ("shop-email",), QUEUES, start_timeout=60)
HANDOVER = Wanted("shop-email", ("shop-email-a", "shop-email-b"), QUEUES, start_timeout=60)
STATES = ["STARTING", "RUNNING", "STOPPING", "STOPPED", "EXITED", "FATAL", "BACKOFF"]
AT_WORK = Seen("RUNNING", current=True, answers=True, queues=QUEUES)
OLD = replace(AT_WORK, current=False)


@dataclass
class Host:
    """Supervisor and its workers. A worker comes up so many ticks after its start, and ends so many after its stop."""

    wanted: Wanted
    live: str
    programs: dict[str, Seen]
    comes_up: int = 2
    drains: int = 3
    dies: bool = False
    ticks: dict[str, int] = field(default_factory=dict)
    at_work: list[int] = field(default_factory=list)

    def tick(self, step: Step) -> None:
        if step.live:
            self.live = step.live
        if step.start:
            self.programs[step.start] = Seen("STARTING", current=True, tried=0.0)
            self.ticks[step.start] = self.comes_up
        if step.stop:
            self.programs[step.stop] = replace(self.programs[step.stop], state="STOPPING", answers=False)
            self.ticks[step.stop] = self.drains
        if step.kill:
            self.programs[step.kill] = Seen()
        for name, seen in list(self.programs.items()):
            left = self.ticks[name] = self.ticks.get(name, 0) - 1
            tried = (seen.tried or 0.0) + 5 if seen.current else None
            if seen.state == "STOPPING" and left <= 0:
                self.programs[name] = Seen()
            elif seen.state == "STARTING" and left <= 0:
                self.programs[name] = replace(AT_WORK, tried=tried) if not self.dies else Seen("BACKOFF", tried=tried)
            else:
                self.programs[name] = replace(seen, tried=tried)
        self.at_work.append(sum(seen.answers for seen in self.programs.values()))

    def run(self, limit: int = 60) -> Step:
        for _ in range(limit):
            step = next_step(self.wanted, self.programs, self.live)
            if step.done or step.failure:
                self.tick(step)
                return step
            self.tick(step)
        raise AssertionError(f"it goes on for ever: {step}")


def test_warm_ends_the_old_one_before_it_starts_the_new_one() -> None:
    host = Host(WARM, "shop-email", {"shop-email": OLD})
    assert host.run().done
    assert host.programs["shop-email"].current
    assert 0 in host.at_work


def test_a_handover_never_is_without_a_worker() -> None:
    host = Host(HANDOVER, "shop-email-a", {"shop-email-a": OLD}, drains=1000)
    assert host.run().done
    assert host.live == "shop-email-b"
    assert host.programs["shop-email-b"].current
    assert host.programs["shop-email-a"].state == "STOPPING", "it waited for the old one"
    assert min(host.at_work) == 1


def test_a_handover_waits_until_its_slot_is_free() -> None:
    programs = {"shop-email-a": OLD, "shop-email-b": Seen("STOPPING")}
    host = Host(HANDOVER, "shop-email-a", programs, ticks={"shop-email-b": 10})
    assert host.run().done
    assert host.live == "shop-email-b"
    assert min(host.at_work) == 1


@pytest.mark.parametrize("wanted", [WARM, HANDOVER])
def test_a_worker_that_dies_at_its_start_is_a_failure(wanted: Wanted) -> None:
    live = wanted.slots[0]
    host = Host(wanted, live, {live: OLD}, dies=True)
    step = host.run()
    assert "does not stay up" in step.failure
    if wanted.handover:
        assert host.programs[live] == OLD
        assert "goes on as before" in step.failure


@pytest.mark.parametrize("wanted", [WARM, HANDOVER])
def test_a_worker_that_hangs_at_its_start_is_a_failure(wanted: Wanted) -> None:
    live = wanted.slots[0]
    host = Host(wanted, live, {live: OLD}, comes_up=1000)
    step = host.run()
    assert "does not answer after 60 s" in step.failure
    if wanted.handover:
        assert host.programs[HANDOVER.slots[1]].down, "the one that hangs is left"


@pytest.mark.parametrize("state", ["RUNNING", "STOPPING"])
def test_what_an_activation_that_failed_has_left_is_not_waited_for(state: str) -> None:
    hung = Seen(state, idle=True)
    assert next_step(WARM, {"shop-email": hung}, "shop-email").kill == "shop-email"
    programs = {"shop-email-a": OLD, "shop-email-b": hung}
    assert next_step(HANDOVER, programs, "shop-email-a").kill == "shop-email-b"


def test_a_worker_that_does_not_consume_its_queues_is_a_failure() -> None:
    deaf = replace(AT_WORK, queues=frozenset(), tried=61.0)
    assert "does not consume email" in next_step(WARM, {"shop-email": deaf}, "shop-email").failure


@pytest.mark.parametrize("wanted", [WARM, HANDOVER])
def test_what_is_at_work_on_what_is_on_disk_is_left_alone(wanted: Wanted) -> None:
    assert next_step(wanted, {wanted.slots[0]: AT_WORK}, wanted.slots[0]) == Step()


states = st.builds(
    Seen,
    state=st.sampled_from(STATES),
    current=st.booleans(),
    answers=st.booleans(),
    queues=st.sampled_from([QUEUES, frozenset()]),
    tried=st.none() | st.floats(0, 100),
    idle=st.booleans(),
)


@given(states, st.none() | states, st.sampled_from([WARM, HANDOVER]))
def test_from_whatever_was_left_it_comes_to_an_end(mine: Seen, beside: Seen | None, wanted: Wanted) -> None:
    programs = {wanted.slots[0]: mine}
    if beside and wanted.handover:
        programs[wanted.slots[1]] = beside
    host = Host(wanted, wanted.slots[0], programs)
    step = host.run()
    if step.done:
        assert host.programs[host.live].answers
        assert host.programs[host.live].current
        assert sum(seen.up for seen in host.programs.values()) == 1


@given(st.sampled_from([replace(OLD, queues=QUEUES)]), st.none() | states)
def test_no_handover_ends_a_worker_before_another_is_at_work(mine: Seen, beside: Seen | None) -> None:
    programs = {"shop-email-a": mine} | ({"shop-email-b": beside} if beside else {})
    step = next_step(HANDOVER, programs, "shop-email-a")
    if step.stop == "shop-email-a":
        assert programs["shop-email-b"].answers
        assert programs["shop-email-b"].current


def test_a_day_of_waiting_takes_fewer_calls_than_ansible_can_nest() -> None:
    waited, calls = 0.0, 0
    while waited < 86400:
        waited += slice_seconds(waited)
        calls += 1
    assert calls < 400
    assert slice_seconds(0) == slice_seconds(299) == 15
    # A lock that nobody renews for a quarter of an hour is taken for dead.
    assert slice_seconds(10**6) < STALE_SECONDS / 2
