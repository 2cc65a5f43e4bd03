"""Where the hosts of a batch are."""

from __future__ import annotations

from typing import Any

from ansible_collections.fleet.celery.plugins.filter.fleet import FilterModule
from ansible_collections.fleet.celery.plugins.module_utils._rollout import (
    look,
    release_before,
    staging_failures,
    verdict,
)


def test_hosts_that_are_not_there_yet_say_what_they_wait_for() -> None:
    results: dict[str, dict[str, Any]] = {
        "w1": {"done": True},
        "w2": {"done": False, "waits": ["shop-video ends its tasks: 2"], "failures": []},
        "w3": {},
    }
    found = look(results, ["w1", "w2", "w3"])
    assert found.waiting == ["w2", "w3"]
    assert found.progress == ["w2: shop-video ends its tasks: 2"]
    assert not found.failures


def test_hosts_that_can_not_get_there_say_why() -> None:
    results: dict[str, dict[str, Any]] = {
        "w1": {"unreachable": True, "msg": "timed out"},
        "w2": {"failed": True, "msg": "Supervisor does not answer"},
        "w3": {"done": False, "failures": ["shop-video does not stay up"]},
    }
    found = look(results, ["w1", "w2", "w3"])
    assert found.failures == {
        "w1": ["it can't be reached any more"],
        "w2": ["Supervisor does not answer"],
        "w3": ["shop-video does not stay up"],
    }
    assert not found.waiting


def test_a_host_goes_back_to_what_it_had_also_after_a_rollout_that_was_broken_off() -> None:
    assert release_before({"current": "1.0", "previous": "0.9"}, "1.1") == "1.0"
    assert release_before({"current": "1.1", "previous": "1.0"}, "1.1") == "1.0"
    assert release_before({}, "1.1") == ""


def test_what_keeps_a_release_from_being_activated_is_told_once_for_all_hosts_with_it() -> None:
    told = staging_failures({"w1": "it does not import", "w2": "it does not import", "w3": "no space"}, ["w4"])
    assert told == ["w1, w2: it does not import", "w3: no space", "w4: it can't be reached any more"]


def test_a_verdict_says_why_and_where_each_host_is() -> None:
    slices: dict[str, dict[str, Any]] = {"w1": {"done": True, "version": "1.0"}, "w2": {"unreachable": True}}
    slices["w3"] = {"done": False, "version": "1.0", "waits": ["shop-email ends its tasks"]}
    assert verdict("Release 1.1", ["on w1, 9 of 9 tasks failed"], slices).splitlines() == [
        "Release 1.1 is bad:",
        "  on w1, 9 of 9 tasks failed",
        "The hosts that it had come to:",
        "  w1: runs on 1.0",
        "  w2: it can't be reached any more",
        "  w3: is not done; shop-email ends its tasks",
    ]


def test_a_verdict_names_hosts_that_are_away_as_a_queue_may_be_deep_for_want_of_them() -> None:
    slices: dict[str, dict[str, Any]] = {"w1": {"done": True, "version": "1.0"}, "w2": {"unreachable": True}}
    told = verdict("Release 1.1", ["118 tasks wait in video (before: 0)"], slices, away=["w2", "w3"])
    assert told.splitlines()[-2:] == ["Of the others, which it may be due to:", "  w3: it can't be reached any more"]


def test_each_process_has_a_line_also_one_of_no_supervisor_and_a_host_that_went_away_has_one() -> None:
    at_work = {"name": "shop-email", "release": "1.1", "state": "RUNNING"}
    stray = {"program": "shop-email", "pid": 4711}
    well = {"current": "1.1", "drained": False, "programs": [at_work], "strays": [stray]}
    hostvars = {"w1": {"told": well}, "w2": {"told": {"unreachable": True}}}
    table = FilterModule().filters()["status_table"](hostvars, ["w1", "w2"], "told")
    assert [line.split() for line in table[2:]] == [
        ["w1", "1.1", "shop-email", "1.1", "RUNNING"],
        ["w1", "1.1", "shop-email", "-", "of", "no", "Supervisor"],
        ["w2", "-", "-", "-", "unreachable"],
    ]
