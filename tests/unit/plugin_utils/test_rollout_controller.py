"""Whole rollouts on a simulated fleet."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._lock import Holder
from ansible_collections.fleet.celery.plugins.plugin_utils._drain import Drain
from ansible_collections.fleet.celery.plugins.plugin_utils._rollout import Hooks, Order, Part, Rollout
from ansible_collections.fleet.celery.plugins.plugin_utils._rollout_lock import LOCK, Lock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_fleet import LOCK_HOST, KilledError, SimulatedFleet, SimulatedHost, dump

APP = {
    "name": "shop", "module": "shop.celery:app", "user": "shop", "root": "/srv/shop", "config_dir": "/etc/shop",
    "state_dir": "/var/lib/shop",
}  # fmt: skip
HOOKS = Hooks(
    after_activate=[{"argv": ["warm-up"], "hosts": "each", "timeout": 60}],
    after_rollback=[{"argv": ["apologize"], "hosts": "one", "timeout": 60}],
    after_success=[{"argv": ["celebrate"], "hosts": "one", "timeout": 60}],
)


def rollout_of(fleet: SimulatedFleet, run: str = "run1", version: str = "1.1", **changes: Any) -> Rollout:
    """Acquire the rollout lock and return a rollout to all hosts of a fleet."""
    ordered = order(fleet, run, version, **changes)
    controller = ordered.lock.controller
    options = {"path": "/run/lock", "run": run, "owner": "ann@control", "controller": controller}
    assert not fleet.run(LOCK, {LOCK_HOST: options})[LOCK_HOST].get("failed")
    return Rollout(ordered, fleet)


def order(fleet: SimulatedFleet, run: str = "run1", version: str = "1.1", **changes: Any) -> Order:
    """Return the order of a rollout to all hosts of a fleet."""
    fleet.controllers.add(f"{run}.1")
    defaults: dict[str, Any] = {
        "label": f"Release {version}",
        "app": APP,
        "lock": Lock(
            (LOCK_HOST,),
            "/run/shop.lock",
            run,
            {"user": "ann", "machine": "control", "process": f"{run}.1", "processes": []},
        ),
        "parts": {name: Part(version, host.programs()) for name, host in fleet.hosts.items()},
        "workers": {
            name: [
                {"worker": worker, "queues": sorted(host.slots[live].queues)}
                for worker, live in host.live.items()
                if host.slots[live].queues
            ]
            for name, host in fleet.hosts.items()
        },
        "report_dir": "/reports",
        "observe_seconds": 10,
        "start_timeout": 60,
    }
    return Order(**defaults | changes)


def fleet_of(hosts: int = 3, **changes: Any) -> SimulatedFleet:
    """Return a fleet of hosts with a worker that restarts warm and one that is handed over, and a host with beat."""
    fleet = SimulatedFleet({f"w{number}": SimulatedHost(**changes) for number in range(1, hosts + 1)})
    for host in fleet.hosts.values():
        host.add("shop-email", ["email"])
        host.add("shop-reports", ["reports"], slots=2)
    fleet.hosts["control"] = SimulatedHost()
    fleet.hosts["control"].add("shop-beat", [])
    return fleet


def releases(fleet: SimulatedFleet) -> dict[str, set[str]]:
    """Return for each host the releases that it points to and that its programs run on. Draining ones don't count."""
    return {
        name: {host.current, *(slot.release for slot in host.slots.values() if slot.state in {"STARTING", "RUNNING"})}
        for name, host in fleet.hosts.items()
    }


def test_a_good_release_reaches_all_hosts_batch_by_batch() -> None:
    fleet = fleet_of()
    assert rollout_of(fleet, hooks=HOOKS).run() == ""
    assert set().union(*releases(fleet).values()) == {"1.1"}
    assert fleet.lines[:4] == ["Batch 1: w1", "Batch 2: w2", "Batch 3: w3", "Batch 4: control"]
    assert fleet.holder is None
    assert fleet.hooks == [*((name, "warm-up") for name in fleet.hosts), ("w1", "celebrate")]
    (name,) = fleet.pages
    assert name.endswith("-Release-1.1.html")
    assert fleet.lines[-2:] == ["", f"/reports/{name}"] or fleet.lines[-1] == "w1: celebrate"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("dies", "exits again and again"),
        ("hangs", "does not answer after 60 s"),
        ("fails", r"on w1, \d+ of \d+ tasks failed \(100%; baseline: 0%\)"),
    ],
)
def test_a_bad_canary_is_rolled_back_and_nobody_else_is_touched(how: str, reason: str) -> None:
    fleet = fleet_of(bad={"1.1": how})
    for host in fleet.hosts.values():
        host.counts = {"1.0": {"done": 100, "failed": 0}}
    before = {name: slot.since for name in ("w2", "w3") for slot in fleet.hosts[name].slots.values()}
    verdict = rollout_of(fleet).run()
    assert_matches(reason, verdict)
    assert "w1: runs on 1.0" in verdict
    assert "w2" not in verdict
    assert "Release 1.1 failed, and is rolled back:" in fleet.lines
    assert set().union(*releases(fleet).values()) == {"1.0"}
    assert {name: slot.since for name in ("w2", "w3") for slot in fleet.hosts[name].slots.values()} == before
    assert fleet.hosts["w1"].previous == "", "a later rollback would lead to the bad release"
    assert fleet.holder is None


def test_a_bad_release_stays_where_rollbacks_are_off() -> None:
    fleet = fleet_of(bad={"1.1": "fails"})
    verdict = rollout_of(fleet, auto_rollback=False).run()
    assert "w1: runs on 1.1" in verdict
    assert releases(fleet)["w1"] == {"1.1"}
    assert releases(fleet)["w2"] == {"1.0"}
    assert "Release 1.1 failed:" in fleet.lines


def test_a_host_that_is_lost_in_the_middle_stops_the_rollout() -> None:
    fleet = fleet_of()
    fleet.events[fleet.clock + 20] = [partial(fleet.lose, "w2", power=True)]
    verdict = rollout_of(fleet, hooks=HOOKS).run()
    assert "w2: unreachable" in verdict
    assert "w1: runs on 1.0" in verdict
    assert {name: found for name, found in releases(fleet).items() if name != "w2"} == {
        "w1": {"1.0"}, "w3": {"1.0"}, "control": {"1.0"},
    }  # fmt: skip
    assert fleet.hooks == [("w1", "warm-up"), ("w1", "apologize")]
    assert fleet.holder is None
    # It comes back on its old release, and the next attempt succeeds.
    fleet.find_again("w2")
    assert rollout_of(fleet, "run2").run() == ""


def test_an_unreachable_host_of_another_batch_is_named_as_a_possible_cause() -> None:
    fleet = fleet_of(bad={"1.1": "fails"})
    fleet.events[fleet.clock + 15] = [partial(fleet.lose, "w3", power=True)]
    verdict = rollout_of(fleet).run()
    assert verdict.splitlines()[-2:] == ["Other hosts, a possible cause:", "  w3: unreachable"]


def test_no_worker_is_touched_without_a_baseline() -> None:
    fleet = fleet_of()
    fleet.lose("w3", power=False)
    verdict = rollout_of(fleet).run()
    assert verdict.splitlines() == [
        "Release 1.1 failed:",
        "  No worker was touched. The baseline could not be collected:",
        "  w3: unreachable",
        "Other hosts, a possible cause:",
        "  w3: unreachable",
    ]
    assert all(found == {"1.0"} for found in releases(fleet).values())
    assert fleet.holder is None


def test_a_hook_that_fails_fails_its_batch() -> None:
    fleet = fleet_of()
    fleet.failing_hooks = {"w2"}
    verdict = rollout_of(fleet, hooks=HOOKS).run()
    assert "w2: The hook warm-up failed with exit code 1: no such table" in verdict
    assert set().union(*releases(fleet).values()) == {"1.0"}


def test_a_hook_that_fails_after_the_rollout_leaves_the_release() -> None:
    fleet = fleet_of()
    fleet.failing_hooks = {"w1"}
    hooks = Hooks(after_success=HOOKS.after_success)
    assert rollout_of(fleet, hooks=hooks).run() == ("w1: The hook celebrate failed with exit code 1: no such table")
    assert set().union(*releases(fleet).values()) == {"1.1"}
    assert fleet.holder is None


def test_a_drain_of_hours_is_waited_for_and_the_lock_renewed() -> None:
    fleet = fleet_of(hosts=1, drain_seconds=3 * 3600.0)
    assert rollout_of(fleet).run() == ""
    # The longer it waits, the less often it says so.
    assert 40 < fleet.lines.count("w1: shop-email is finishing its tasks") < 100
    gaps = [later - earlier for earlier, later in zip(fleet.renewals, fleet.renewals[1:], strict=False)]
    assert len(gaps) > 700
    assert max(gaps) <= 60
    # The one that is handed over was not waited for.
    assert releases(fleet)["w1"] == {"1.1"}


def test_a_rollout_that_lost_its_lock_touches_nothing_more() -> None:
    fleet = fleet_of()

    def take_over() -> None:
        fleet.holder = Holder("other", "bob@laptop", "laptop", "7.7", fleet.clock, fleet.clock)

    fleet.events[fleet.clock + 25] = [take_over]
    verdict = rollout_of(fleet).run()
    assert "The rollout lock could not be renewed on broker: Another rollout holds the lock: bob@laptop" in verdict
    assert releases(fleet)["w3"] == {"1.0"}
    assert fleet.holder
    assert fleet.holder.run == "other"


def test_a_restart_takes_the_programs_that_it_names_and_no_others() -> None:
    fleet = fleet_of()
    began = {name: Part("1.0", host.programs(), float(fleet.clock)) for name, host in fleet.hosts.items()}
    assert rollout_of(fleet, parts=began, only=["shop-email"], label="The restart").run() == ""
    for name in ("w1", "w2", "w3"):
        restarted = {slot.worker for slot in fleet.hosts[name].slots.values() if slot.since}
        assert restarted == {"shop-email"}


def test_a_killed_controller_leaves_the_lock_to_the_next_run() -> None:
    fleet = fleet_of()
    fleet.kill_at = fleet.clock + 25
    with pytest.raises(KilledError):
        rollout_of(fleet).run()
    assert fleet.holder
    fleet.next_controller()
    assert rollout_of(fleet, "run2").run() == ""
    assert set().union(*releases(fleet).values()) == {"1.1"}
    assert fleet.holder is None


def programs_of(fleet: SimulatedFleet) -> dict[str, list[dict[str, Any]]]:
    """Return the programs of two hosts as the plan has them."""
    return {
        host: [{"slots": [{"name": slot}], "cold_shutdown": True} for slot in fleet.hosts[host].slots]
        for host in ("w1", "w2")
    }


def test_a_drain_interrupts_tasks_at_its_deadline_and_names_the_programs() -> None:
    fleet = fleet_of(hosts=2)
    fleet.hosts["w2"].drain_seconds = 10**6
    drain = Drain(APP, programs_of(fleet), 7200, fleet)
    drain.run()
    assert drain.interrupted == {"w1": [], "w2": ["shop-email", "shop-reports-a"]}
    assert not drain.failures
    assert "w2: shop-email is finishing its tasks" in fleet.lines
    assert {slot.state for name in ("w1", "w2") for slot in fleet.hosts[name].slots.values()} == {"STOPPED"}


def test_a_host_that_is_lost_does_not_end_the_drain_of_the_others() -> None:
    fleet = fleet_of(hosts=2, drain_seconds=600)
    fleet.events[fleet.clock + 100] = [partial(fleet.lose, "w1", power=False)]
    drain = Drain(APP, programs_of(fleet), 0, fleet)
    drain.run()
    assert drain.failures == {"w1": "unreachable"}
    assert {slot.state for slot in fleet.hosts["w2"].slots.values()} == {"STOPPED"}


# ---- Random fleets ----

WORKERS = {"shop-email": ["email"], "shop-video": ["video"], "shop-reports": ["reports", "email"]}


@st.composite
def fleets(draw: st.DrawFn) -> SimulatedFleet:
    """Return a fleet to which things happen."""
    fleet = SimulatedFleet({})
    slots = {worker: draw(st.integers(1, 2)) for worker in WORKERS}
    bad = draw(st.sampled_from(["", "", "", "dies", "hangs", "fails"]))
    for number in range(1, draw(st.integers(1, 6)) + 1):
        host = SimulatedHost(drain_seconds=draw(st.sampled_from([0, 3, 20, 400])))
        for worker in draw(st.sets(st.sampled_from(sorted(WORKERS)))):
            host.add(worker, WORKERS[worker], slots[worker])
        if bad and draw(st.booleans()):
            host.bad = {"1.1": bad}
        host.counts = {"1.0": {"done": 100, "failed": 0}}
        fleet.hosts[f"w{number}"] = host
    fleet.hosts[draw(st.sampled_from(sorted(fleet.hosts)))].add("shop-beat", [])
    for name in draw(st.sets(st.sampled_from(sorted(fleet.hosts)), max_size=2)):
        second, power = fleet.clock + draw(st.integers(0, 300)), draw(st.booleans())
        fleet.events.setdefault(second, []).append(partial(fleet.lose, name, power=power))
        if draw(st.booleans()):
            back = second + draw(st.integers(1, 120))
            fleet.events.setdefault(back, []).append(partial(fleet.find_again, name))
    fleet.failing_hooks = draw(st.sets(st.sampled_from(sorted(fleet.hosts)), max_size=1))
    if draw(st.integers(0, 3)) == 0:
        fleet.kill_at = fleet.clock + draw(st.integers(1, 200))
    return fleet


def watch(fleet: SimulatedFleet) -> None:
    """Fail at the second in which a queue loses all its consumers, or beat runs twice."""
    consumers: dict[str, list[SimulatedHost]] = {}
    for host in fleet.hosts.values():
        for slot in host.slots.values():
            for queue in slot.queues:
                if host not in consumers.setdefault(queue, []):
                    consumers[queue].append(host)
    lossy = {name for name, host in fleet.hosts.items() if host.lost}
    lost_before: set[str] = set()

    def check() -> None:
        lossy.update(name for name, host in fleet.hosts.items() if host.lost)
        lost_before.update(lossy)
        beats = [
            slot
            for host in fleet.hosts.values()
            for slot in host.slots.values()
            if slot.worker == "shop-beat" and slot.state in {"STARTING", "RUNNING", "STOPPING"}
        ]
        assert len(beats) <= 1
        # A rollback is made at once.
        if any(line.startswith("Rolling back") for line in fleet.lines):
            return
        for queue, hosts in consumers.items():
            if len(hosts) > 1 and not any(fleet.hosts[name] in hosts for name in lost_before):
                assert any(
                    host.consumes(slot) for host in hosts for slot in host.slots.values() if queue in slot.queues
                ), f"nobody consumes {queue}\n{dump(fleet)}"

    fleet.watch = check


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    fleets(),
    st.sampled_from([["1", "25%", "100%"], ["100%"], ["1"], ["50%"], [2, "100%"]]),
    st.sampled_from([Hooks(), HOOKS]),
    st.booleans(),
)
def test_whatever_happens_the_fleet_is_on_one_release_or_each_state_is_named(
    fleet: SimulatedFleet, sizes: list[object], hooks: Hooks, auto_rollback: bool
) -> None:
    watch(fleet)
    hosts = fleet.hosts
    changes: Mapping[str, Any] = {"sizes": sizes, "hooks": hooks, "auto_rollback": auto_rollback}
    try:
        rollout = rollout_of(fleet, **changes)
        verdict = rollout.run()
    except KilledError:
        fleet.next_controller()
        rollout = rollout_of(fleet, "run2", **changes)
        verdict = rollout.run()
    assert fleet.holder is None, "the lock is held"
    found = releases(fleet)
    if not rollout.reasons:
        reachable = {name for name, host in hosts.items() if not host.lost}
        assert all(found[name] == {"1.1"} for name in reachable), dump(fleet)
        return
    for host in rollout.reached:
        assert f"\n  {host.name}: " in verdict, (verdict, dump(fleet))
    never_lost = not any("unreachable" in line for line in verdict.splitlines()) and not fleet.events
    if auto_rollback and never_lost and not any(host.lost for host in hosts.values()):
        assert all(each == {"1.0"} for each in found.values()), (verdict, dump(fleet))
    # Hosts that the rollout had not reached are as they were.
    for host in rollout.hosts.values():
        if host not in rollout.reached and "current" in host.baseline:
            assert hosts[host.name].current == host.baseline["current"]


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(AssertionError, match=pattern):
        raise AssertionError(text)
