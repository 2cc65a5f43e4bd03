"""The actions that bring programs to the desired state, and their order."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._supervisor import Actions, carry_out, decide
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import (
    Process,
    Reread,
    SupervisorError,
)


def process(name: str, state: str = "RUNNING", reason: str = "") -> Process:
    return Process(name, state, 100 if state == "RUNNING" else 0, reason, "/nonexistent")


def decided(
    desired: Iterable[str],
    running: Iterable[Process] = (),
    *,
    added: Iterable[str] = (),
    changed: Iterable[str] = (),
    removed: Iterable[str] = (),
    stale: Iterable[str] = (),
) -> Actions:
    reread = Reread(frozenset(added), frozenset(changed), frozenset(removed))
    return decide(desired, lambda name: name.startswith("shop-"), reread, {item.name: item for item in running}, stale)


def test_a_host_in_the_desired_state_has_no_actions() -> None:
    assert not decided(["shop-a"], [process("shop-a")]).any


def test_a_new_program_is_added_without_touching_the_others() -> None:
    assert decided(["shop-a", "shop-b"], [process("shop-a")], added=["shop-b"]) == Actions(add=("shop-b",))


def test_a_changed_program_is_stopped_before_it_is_replaced() -> None:
    actions = decided(["shop-a", "shop-b"], [process("shop-a"), process("shop-b")], changed=["shop-a"])
    assert actions == Actions(stop=("shop-a",), remove=("shop-a",), add=("shop-a",))


def test_only_the_stale_program_restarts() -> None:
    actions = decided(["shop-a", "shop-b"], [process("shop-a"), process("shop-b")], stale=["shop-b"])
    assert actions == Actions(stop=("shop-b",), start=("shop-b",))


def test_a_program_without_a_file_is_removed_unless_another_application_owns_it() -> None:
    actions = decided(["shop-a"], [process("shop-a"), process("shop-b"), process("web")], removed=["shop-b", "web"])
    assert actions == Actions(stop=("shop-b",), remove=("shop-b",))


@pytest.mark.parametrize("state", ["STOPPED", "EXITED", "FATAL"])
def test_a_program_that_is_down_is_started(state: str) -> None:
    assert decided(["shop-a"], [process("shop-a", state)]) == Actions(start=("shop-a",))


def test_changes_of_another_application_are_left_alone() -> None:
    assert not decided(["shop-a"], [process("shop-a"), process("web")], changed=["web"], added=["other"]).any


class Fake:
    """A simulated Supervisor. Its programs need two polls to stop and one to run."""

    def __init__(self, names: Iterable[str], *, dies: str = "", never_stops: str = "") -> None:
        self.states = dict.fromkeys(names, "RUNNING")
        self.calls: list[str] = []
        self.dies, self.never_stops = dies, never_stops
        self._polls = 0

    def reread(self) -> Reread:
        raise AssertionError

    def processes(self) -> dict[str, Process]:
        self._polls += 1
        for name, state in self.states.items():
            if state == "STOPPING" and self._polls >= 2 and name != self.never_stops:
                self.states[name] = "STOPPED"
                self.calls.append(f"{name} stopped")
            if state == "STARTING":
                self.states[name] = "BACKOFF" if name == self.dies else "RUNNING"
        return {name: process(name, state, "exited too quickly") for name, state in self.states.items()}

    def stop(self, name: str) -> None:
        self.calls.append(f"stop {name}")
        self.states[name] = "STOPPING"

    def start(self, name: str) -> None:
        self.calls.append(f"start {name}")
        self.states[name] = "STARTING"

    def add(self, name: str) -> None:
        self.calls.append(f"add {name}")
        self.states[name] = "STARTING"

    def remove(self, name: str) -> None:
        assert self.states.pop(name) == "STOPPED"
        self.calls.append(f"remove {name}")


def test_all_programs_stop_at_once_and_none_starts_before_the_last_has_stopped() -> None:
    server = Fake(["a", "b"])
    carry_out(
        server,
        Actions(stop=("a", "b"), remove=("a",), add=("a",), start=("b",)),
        stop_timeout=5,
        start_timeout=5,
    )
    assert server.calls[:2] == ["stop a", "stop b"]
    assert server.calls[2:] == ["a stopped", "b stopped", "remove a", "add a", "start b"]


def test_a_program_that_exits_at_its_start_is_reported_with_supervisors_reason() -> None:
    with pytest.raises(SupervisorError, match="a is BACKOFF exited too quickly"):
        carry_out(Fake(["a"], dies="a"), Actions(stop=("a",), start=("a",)), stop_timeout=5, start_timeout=0.3)


def test_a_program_that_does_not_stop_is_reported_and_not_started_twice() -> None:
    server = Fake(["a"], never_stops="a")
    with pytest.raises(SupervisorError, match="still finishing their tasks: a"):
        carry_out(server, Actions(stop=("a",), start=("a",)), stop_timeout=0.3, start_timeout=1)
    assert "start a" not in server.calls
