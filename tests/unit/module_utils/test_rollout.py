"""The progress and the verdict of a rollout."""

from __future__ import annotations

from typing import Any

from ansible_collections.fleet.celery.plugins.filter.fleet import FilterModule
from ansible_collections.fleet.celery.plugins.module_utils._rollout import (
    activation_progress,
    batch_summary,
    rollback_release,
    staging_failures,
    verdict,
)
from ansible_collections.fleet.celery.plugins.module_utils._table import status_table

MANY = [f"w{number}" for number in range(1, 501)]


def test_what_many_hosts_have_in_common_is_told_once() -> None:
    slices: dict[str, dict[str, Any]] = {host: {"done": True, "version": "1.0"} for host in MANY}
    slices["w7"] = {"unreachable": True}
    assert verdict("Release 2.0", ["too many failed"], slices).splitlines()[2:] == [
        "Hosts that it was activated on:",
        "  w1, w2, w3, w4, w5 and 494 more: runs on 1.0",
        "  w7: unreachable",
    ]


def test_the_state_of_many_hosts_is_a_line_for_each_difference() -> None:
    program = {"name": "shop-email", "state": "RUNNING", "release": "2.0"}
    status = {"current": "2.0", "drained": False, "programs": [program]}
    stopped = status | {"programs": [program | {"state": "FATAL", "release": ""}]}
    lines = status_table(dict.fromkeys(MANY, status) | {"w7": stopped})
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "2.0 shop-email 2.0 RUNNING 499: w1, w2, w3, w4, w5 and 494 more",
        "2.0 shop-email - FATAL 1: w7",
    ]


def test_a_batch_tells_how_long_its_hosts_took_and_which_was_the_slowest() -> None:
    def result(seconds: float) -> dict[str, Any]:
        phases = [[100.0, "draining"], [100.0 + seconds / 2, "starting"], [100.0 + seconds, "up"]]
        return {"programs": {"shop-email": phases, "shop-video": [[101.0, "starting"], [102.0, "up"]]}}

    results = {f"w{number}": result(number) for number in range(1, 101)}
    assert batch_summary(results) == (
        "100 hosts: half of them took 50 s, 95% 95 s; the slowest: w100 (100 s), w99 (99 s), w98 (98 s)"
    )
    assert batch_summary({"w1": result(3)}) == ""
    assert batch_summary({host: {"done": True} for host in MANY}) == ""


def test_hosts_that_are_not_done_are_waited_for() -> None:
    results: dict[str, dict[str, Any]] = {
        "w1": {"done": True},
        "w2": {"done": False, "waits": ["shop-video ends its tasks: 2"], "failures": []},
        "w3": {},
    }
    progress = activation_progress(results, ["w1", "w2", "w3"])
    assert progress.waiting == ["w2", "w3"]
    assert progress.progress == ["w2: shop-video ends its tasks: 2"]
    assert not progress.failures


def test_hosts_that_failed_have_reasons() -> None:
    results: dict[str, dict[str, Any]] = {
        "w1": {"unreachable": True, "msg": "timed out"},
        "w2": {"failed": True, "msg": "Supervisor does not answer"},
        "w3": {"done": False, "failures": ["shop-video does not stay up"]},
    }
    progress = activation_progress(results, ["w1", "w2", "w3"])
    assert progress.failures == {
        "w1": ["unreachable"],
        "w2": ["Supervisor does not answer"],
        "w3": ["shop-video does not stay up"],
    }
    assert not progress.waiting


def test_a_rollback_activates_the_release_before_also_after_an_interrupted_rollout() -> None:
    assert rollback_release({"current": "1.0", "previous": "0.9"}, "1.1") == "1.0"
    assert rollback_release({"current": "1.1", "previous": "1.0"}, "1.1") == "1.0"
    assert rollback_release({}, "1.1") == ""


def test_each_reason_of_a_failed_staging_is_named_once_with_its_hosts() -> None:
    failures = staging_failures({"w1": "it does not import", "w2": "it does not import", "w3": "no space"}, ["w4"])
    assert failures == ["w1, w2: it does not import", "w3: no space", "w4: unreachable"]


def test_the_verdict_has_the_reasons_and_the_release_of_each_host() -> None:
    slices: dict[str, dict[str, Any]] = {"w1": {"done": True, "version": "1.0"}, "w2": {"unreachable": True}}
    slices["w3"] = {"done": False, "version": "1.0", "waits": ["shop-email ends its tasks"]}
    assert verdict("Release 1.1", ["on w1, 9 of 9 tasks failed"], slices).splitlines() == [
        "Release 1.1 failed:",
        "  on w1, 9 of 9 tasks failed",
        "Hosts that it was activated on:",
        "  w1: runs on 1.0",
        "  w2: unreachable",
        "  w3: not done; shop-email ends its tasks",
    ]


def test_the_verdict_names_unreachable_hosts_as_a_possible_cause_of_a_deep_queue() -> None:
    slices: dict[str, dict[str, Any]] = {"w1": {"done": True, "version": "1.0"}, "w2": {"unreachable": True}}
    report = verdict("Release 1.1", ["118 tasks are queued in video (baseline: 0)"], slices, unreachable=["w2", "w3"])
    assert report.splitlines()[-2:] == ["Other hosts, a possible cause:", "  w3: unreachable"]


def test_the_table_has_a_line_for_each_process_stray_and_unreachable_host() -> None:
    at_work = {"name": "shop-email", "release": "1.1", "state": "RUNNING"}
    stray = {"program": "shop-email", "pid": 4711}
    status: dict[str, Any] = {"current": "1.1", "drained": False, "programs": [at_work], "strays": [stray]}
    failed = {"failed": True, "msg": "Supervisor does not answer"}
    cut_off = {"name": "shop-video", "release": "1.1", "state": "RUNNING", "silent": 40, "connected": False}
    status["programs"].append(cut_off)
    # A host that could not even be asked for its facts has no result.
    hostvars: dict[str, Any] = {"w1": {"status": status}, "w2": {"status": {"unreachable": True}}}
    hostvars |= {"w3": {}, "w4": {"status": failed}}
    table = FilterModule().filters()["status_table"](hostvars, [*hostvars], "status")
    assert [line.split() for line in table[2:]] == [
        ["w1", "1.1", "shop-email", "1.1", "RUNNING"],
        ["w1", "1.1", "shop-video", "1.1", "RUNNING,", *["no", "connection", "to", "the", "broker", "for", "40", "s"]],
        ["w1", "1.1", "shop-email", "-", "of", "no", "Supervisor"],
        ["w2", "-", "-", "-", "unreachable"],
        ["w3", "-", "-", "-", "unreachable"],
        ["w4", "-", "-", "-", "can't", "be", "read"],
    ]
    values = FilterModule().filters()["host_statuses"](hostvars, ["w2", "w3"], "status")
    assert values == {"w2": {"unreachable": True}, "w3": {"unreachable": True}}
