"""The steps of an activation, with a simulated Supervisor."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._activation import (
    Observed,
    Step,
    Wanted,
    next_step,
)
from hypothesis import given
from hypothesis import strategies as st

QUEUES = frozenset({"email"})
WARM = Wanted("shop-email", ("shop-email",), QUEUES, start_timeout=60)
HANDOVER = Wanted("shop-email", ("shop-email-a", "shop-email-b"), QUEUES, start_timeout=60)
STATES = ["STARTING", "RUNNING", "STOPPING", "STOPPED", "EXITED", "FATAL", "BACKOFF"]
AT_WORK = Observed("RUNNING", current=True, answers=True, queues=QUEUES)
OLD = replace(AT_WORK, current=False)


@dataclass
class Host:
    """A simulated host. A worker is ready `comes_up` ticks after its start, and exits `drains` ticks after its stop."""

    wanted: Wanted
    live: str
    programs: dict[str, Observed]
    comes_up: int = 2
    drains: int = 3
    dies: bool = False
    ticks: dict[str, int] = field(default_factory=dict)
    at_work: list[int] = field(default_factory=list)

    def tick(self, step: Step) -> None:
        if step.live:
            self.live = step.live
        if step.start:
            self.programs[step.start] = Observed("STARTING", current=True, tried=0.0)
            self.ticks[step.start] = self.comes_up
        if step.stop:
            self.programs[step.stop] = replace(self.programs[step.stop], state="STOPPING", answers=False)
            self.ticks[step.stop] = self.drains
        if step.kill:
            self.programs[step.kill] = Observed()
        for name, observed in list(self.programs.items()):
            left = self.ticks[name] = self.ticks.get(name, 0) - 1
            tried = (observed.tried or 0.0) + 5 if observed.current else None
            if observed.state == "STOPPING" and left <= 0:
                self.programs[name] = Observed()
            elif observed.state == "STARTING" and left <= 0:
                self.programs[name] = (
                    replace(AT_WORK, tried=tried) if not self.dies else Observed("BACKOFF", tried=tried)
                )
            else:
                self.programs[name] = replace(observed, tried=tried)
        self.at_work.append(sum(each.answers for each in self.programs.values()))

    def run(self, limit: int = 60) -> Step:
        for _ in range(limit):
            step = next_step(self.wanted, self.programs, self.live)
            if step.done or step.failure:
                self.tick(step)
                return step
            self.tick(step)
        raise AssertionError(f"the activation does not end: {step}")


def test_a_warm_restart_stops_the_old_worker_before_it_starts_the_new_one() -> None:
    host = Host(WARM, "shop-email", {"shop-email": OLD})
    assert host.run().done
    assert host.programs["shop-email"].current
    assert 0 in host.at_work


def test_a_handover_always_has_a_worker_that_consumes() -> None:
    host = Host(HANDOVER, "shop-email-a", {"shop-email-a": OLD}, drains=1000)
    assert host.run().done
    assert host.live == "shop-email-b"
    assert host.programs["shop-email-b"].current
    assert host.programs["shop-email-a"].state == "STOPPING", "the activation waited for the old worker"
    assert min(host.at_work) == 1


def test_a_handover_waits_for_a_free_slot() -> None:
    programs = {"shop-email-a": OLD, "shop-email-b": Observed("STOPPING")}
    host = Host(HANDOVER, "shop-email-a", programs, ticks={"shop-email-b": 10})
    assert host.run().done
    assert host.live == "shop-email-b"
    assert min(host.at_work) == 1


@pytest.mark.parametrize("wanted", [WARM, HANDOVER])
def test_a_worker_that_exits_at_its_start_fails_the_activation(wanted: Wanted) -> None:
    live = wanted.slots[0]
    host = Host(wanted, live, {live: OLD}, dies=True)
    step = host.run()
    assert "exits again and again" in step.failure
    if wanted.handover:
        assert host.programs[live] == OLD
        assert "keeps running on its release" in step.failure


@pytest.mark.parametrize("wanted", [WARM, HANDOVER])
def test_a_worker_that_hangs_at_its_start_fails_the_activation(wanted: Wanted) -> None:
    live = wanted.slots[0]
    host = Host(wanted, live, {live: OLD}, comes_up=1000)
    step = host.run()
    assert "does not answer after 60 s" in step.failure
    if wanted.handover:
        assert host.programs[HANDOVER.slots[1]].down, "the worker that hangs is still running"


@pytest.mark.parametrize("state", ["RUNNING", "STOPPING"])
def test_a_worker_that_a_failed_activation_left_is_killed(state: str) -> None:
    hung = Observed(state, idle=True)
    assert next_step(WARM, {"shop-email": hung}, "shop-email").kill == "shop-email"
    programs = {"shop-email-a": OLD, "shop-email-b": hung}
    assert next_step(HANDOVER, programs, "shop-email-a").kill == "shop-email-b"


def test_a_worker_that_does_not_consume_its_queues_fails_the_activation() -> None:
    deaf = replace(AT_WORK, queues=frozenset(), tried=61.0)
    assert "does not consume email" in next_step(WARM, {"shop-email": deaf}, "shop-email").failure


@pytest.mark.parametrize("wanted", [WARM, HANDOVER])
def test_a_worker_that_is_ready_and_current_is_left_alone(wanted: Wanted) -> None:
    assert next_step(wanted, {wanted.slots[0]: AT_WORK}, wanted.slots[0]) == Step()


states = st.builds(
    Observed,
    state=st.sampled_from(STATES),
    current=st.booleans(),
    answers=st.booleans(),
    queues=st.sampled_from([QUEUES, frozenset()]),
    tried=st.none() | st.floats(0, 100),
    idle=st.booleans(),
)


@given(states, st.none() | states, st.sampled_from([WARM, HANDOVER]))
def test_an_activation_ends_from_any_state(mine: Observed, beside: Observed | None, wanted: Wanted) -> None:
    programs = {wanted.slots[0]: mine}
    if beside and wanted.handover:
        programs[wanted.slots[1]] = beside
    host = Host(wanted, wanted.slots[0], programs)
    step = host.run()
    if step.done:
        assert host.programs[host.live].answers
        assert host.programs[host.live].current
        assert sum(each.up for each in host.programs.values()) == 1


@given(st.sampled_from([replace(OLD, queues=QUEUES)]), st.none() | states)
def test_a_handover_stops_no_worker_before_the_other_is_ready(mine: Observed, beside: Observed | None) -> None:
    programs = {"shop-email-a": mine} | ({"shop-email-b": beside} if beside else {})
    step = next_step(HANDOVER, programs, "shop-email-a")
    if step.stop == "shop-email-a":
        assert programs["shop-email-b"].answers
        assert programs["shop-email-b"].current


@pytest.mark.parametrize(("state", "start"), [("EXITED", "shop-email"), ("FATAL", "shop-email"), ("BACKOFF", "")])
def test_a_worker_that_exits_is_started_again_unless_supervisor_does_so(state: str, start: str) -> None:
    crashed = Observed(state, current=True, tried=1.0)
    assert next_step(WARM, {"shop-email": crashed}, "shop-email") == Step(start=start, waits="shop-email is starting")


def test_a_handover_goes_from_either_slot_to_the_other() -> None:
    first, second = HANDOVER.slots
    assert next_step(HANDOVER, {first: OLD}, first).start == second
    assert next_step(HANDOVER, {second: OLD}, second).start == first


def test_what_an_interrupted_handover_left_is_stopped_first() -> None:
    live, other = HANDOVER.slots
    assert next_step(HANDOVER, {live: OLD, other: OLD}, live) == Step(stop=other, waits=f"{other} is stopping")
    ready = {live: AT_WORK, other: AT_WORK}
    assert next_step(HANDOVER, ready, live) == Step(stop=other, waits=f"{other} is stopping")
    silent = replace(AT_WORK, answers=False, tried=1.0)
    assert next_step(HANDOVER, {live: silent, other: AT_WORK}, live).stop == ""


def test_the_other_slot_is_started_once() -> None:
    live, other = HANDOVER.slots
    starting = Observed("STARTING", current=True, tried=1.0)
    assert next_step(HANDOVER, {live: OLD, other: starting}, live).start == ""


def test_a_worker_may_consume_more_queues_than_its_own() -> None:
    assert next_step(WARM, {"shop-email": replace(AT_WORK, queues=QUEUES | {"reply"})}, "shop-email") == Step()


@pytest.mark.parametrize("answers", [True, False])
def test_a_refused_certificate_is_named(answers: bool) -> None:
    log = "    Cannot connect to amqps://shop@b1: [SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"
    observed = Observed("RUNNING", current=True, answers=answers, tried=61.0, log=log)
    failure = next_step(WARM, {"shop-email": observed}, "shop-email").failure
    assert "certificate has expired" in failure
    assert "Run playbooks/renew.yml" in failure
    without = next_step(WARM, {"shop-email": replace(observed, log="    killed")}, "shop-email").failure
    assert "renew.yml" not in without
