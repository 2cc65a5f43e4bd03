"""The benchmark of faults: what it makes of what it saw."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.fleet.celery.plugins.module_utils._alerts import read_alerts
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.module_utils._variables import OF_PLAYBOOKS

from bench.faults import keep
from bench.faults_figures import (
    Outcome,
    Result,
    alerts_since,
    consume,
    done_by,
    events_of,
    findings_since,
    outcome,
    result_of,
    running,
    status_says,
    table,
    takers,
)
from bench.faults_fleet import Hosts, Load, Started, descendants, fleet_of, inventory, wait_until
from bench.faults_injected import FAULTS

ROLES = Path(__file__).parents[3] / "roles"
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC).timestamp()


def line(seconds: float, event: str, task: str, **more: Any) -> str:
    """Return a line of a ledger."""
    at = datetime.fromtimestamp(NOW + seconds, UTC).isoformat()
    return json.dumps({"time": at, "event": event, "id": task, "queue": "reports", "host": "worker1", "pid": 7} | more)


def result(fault: str = "main", broker: str = "rabbitmq", **more: Any) -> Result:
    values: dict[str, Any] = {
        "outcome": Outcome(100, 3, 98, 0, 2, 1, 4, 5, 1, {"reports started on worker1": 2}),
        "seconds": 20.4,
        "held": 0,
        "alerts": {"CeleryWorkerGone": 11.0, "CeleryTasksKilled": 6.2},
        "doctor": ["processes that were killed: shop-reports-a on worker1: …", "consumers: shop-email on worker1: …"],
        "status": [],
        "watchdog": ["worker1: Restarting shop-email-a, warm: it has not answered for 30 s"],
    }
    return Result(fault=fault, broker=broker, **values | more)


def test_each_task_is_counted_once_by_what_became_of_it() -> None:
    lines = [
        line(0, "sent", "done"), line(1, "started", "done"), line(2, "done", "done"),
        line(0, "sent", "again"), line(1, "started", "again"), line(5, "started", "again"), line(6, "done", "again"),
        line(0, "sent", "twice"), line(1, "done", "twice"), line(6, "done", "twice", host="worker2"),
        line(0, "sent", "failed"), line(1, "failed", "failed"),
        line(0, "sent", "waits"),
        line(0, "sent", "begun"), line(1, "started", "begun"),
        line(1, "done", "refused"),
        line(1, "done", "another's"),
    ]  # fmt: skip
    sent = ["done", "again", "twice", "failed", "waits", "begun"]
    found = outcome(events_of(lines), sent, ["refused", "never"])
    assert found == Outcome(
        sent=6,
        refused=2,
        done=3,
        failed=1,
        lost=2,
        lost_begun=1,
        repeated=1,
        begun_again=1,
        refused_done=1,
        lost_at={"reports sent on worker1": 1, "reports started on worker1": 1},
    )


def test_a_line_that_was_cut_short_is_none_and_the_others_are_in_order() -> None:
    lines = [line(2, "done", "a"), line(1, "started", "a")[:40], line(0, "sent", "a"), "[]"]
    assert [entry["event"] for entry in events_of(lines)] == ["sent", "done"]


def test_the_last_end_of_what_was_sent_until_then() -> None:
    lines = [
        line(0, "sent", "early"), line(5, "done", "early"), line(9, "done", "early"),
        line(4, "sent", "late"), line(6, "done", "late"),
    ]  # fmt: skip
    assert done_by(events_of(lines), NOW + 2) == NOW + 5
    assert done_by(events_of(lines), NOW + 4) == NOW + 6
    assert done_by([], NOW) == 0


def test_a_worker_takes_tasks_again_once_it_begins_one_that_was_sent_since() -> None:
    lines = [
        line(0, "sent", "old"), line(3, "started", "old", host="worker2"),
        line(2, "sent", "new"), line(4, "started", "new"),
    ]  # fmt: skip
    assert takers(events_of(lines), NOW + 1) == {("reports", "worker1"): NOW + 4}


def test_what_runs_is_what_has_begun_and_not_ended() -> None:
    lines = [
        line(0, "started", "ended", pid=1), line(1, "done", "ended", pid=1),
        line(2, "started", "runs", pid=2),
        line(2, "started", "elsewhere", pid=3, host="worker2"),
        line(2, "started", "other", pid=4, queue="email"),
    ]  # fmt: skip
    assert running(events_of(lines), "reports", "worker1") == {2: NOW + 2}


@pytest.mark.parametrize(
    ("seen", "well"),
    [
        ({"email@w1": ["email"], "reports-b@w1": ["reports", "video"]}, True),
        # An old worker that ends its tasks beside the new one.
        ({"email@w1": ["email"], "reports-a@w1": [], "reports-b@w1": ["reports", "video"]}, True),
        ({"email@w1": ["email"], "reports-b@w1": ["reports"]}, False),
        ({"email@w1": ["email"], "reports-b@w2": ["reports", "video"]}, False),
        ({}, False),
    ],
)
def test_workers_consume_when_each_answers_with_all_of_its_queues(seen: dict[str, list[str]], well: bool) -> None:
    assert consume(seen, {("email", "w1"): ["email"], ("reports", "w1"): ["reports", "video"]}) == well


def test_alerts_that_fired_before_do_not_count() -> None:
    alerts = [
        {"labels": {"alertname": "CeleryWorkerGone"}, "startsAt": "2026-11-29T12:00:09.5Z"},
        {"labels": {"alertname": "CeleryWorkerGone"}, "startsAt": "2026-11-29T12:00:07Z"},
        {"labels": {"alertname": "CeleryQueueOld"}, "startsAt": "2026-11-29T11:59:00.123Z"},
    ]
    assert alerts_since(alerts, NOW) == {"CeleryWorkerGone": NOW + 7}


def test_processes_that_were_killed_before_do_not_count() -> None:
    what = "a child process was killed by SIGKILL 1 times in the last 24 hours, last at {} UTC"
    checks = {
        "processes that were killed": [
            {"where": "shop-email on worker1", "what": what.format("2026-11-29 11:59:00")},
            {"where": "shop-reports on worker1", "what": what.format("2026-11-29 12:00:05")},
        ],
        "hosts": [],
        "consumers": [{"where": "shop-email on worker2", "what": "the worker does not answer"}],
    }
    found = findings_since(checks, NOW)
    assert [finding.split(": ")[:2] for finding in found] == [
        ["processes that were killed", "shop-reports on worker1"],
        ["consumers", "shop-email on worker2"],
    ]


def test_status_tells_of_what_is_away_stands_still_or_is_on_another_release() -> None:
    runs = {"name": "shop-email-a", "state": "RUNNING"}
    statuses: dict[str, dict[str, Any]] = {
        "worker1": {"current": "1.0.0", "programs": [runs, {"name": "shop-reports-a", "state": "BACKOFF"}]},
        "worker2": {"current": "1.1.0", "programs": [runs, {"name": "shop-email-b", "state": "STOPPING"}]},
        "worker3": {},
    }
    statuses["worker2"]["strays"] = [{"program": "shop-reports-a", "pid": 7}]
    assert status_says(statuses, ["worker1", "worker2", "worker3", "worker4"]) == [
        "worker4 is not there",
        "shop-reports-a on worker1 is BACKOFF",
        "shop-reports-a on worker2 is no Supervisor's",
        "worker3 can't be examined",
        "releases: 1.0.0: worker1; 1.1.0: worker2",
    ]
    assert status_says({"worker1": {"current": "1.0.0", "programs": [runs]}}, ["worker1"]) == []
    assert status_says({}, ["worker1"]) == ["it does not come to its end"]


def test_the_table_tells_who_reported_a_fault_the_first_first() -> None:
    *_, row = table([result()])
    assert row == (
        "| main | 100 | 98 | 2 | 4 | 3 | 20 s | CeleryTasksKilled (6 s), CeleryWorkerGone (11 s) "
        "| consumers, processes that were killed |"
    )
    *_, row = table([result(seconds=None, alerts={}, doctor=[], watchdog=[])], {"main": "a worker is killed"})
    assert row.startswith("| a worker is killed | 100 |")
    assert row.endswith("| never | none | nothing |")


def test_what_another_run_found_of_other_faults_stays(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    keep(path, [result("stopped"), result("main", "redis")])
    keep(path, [result("main"), result("main", "redis", seconds=99.0)])
    found = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert [(each["broker"], each["fault"], each["seconds"]) for each in found] == [
        ("rabbitmq", "main", 20.4),
        ("rabbitmq", "stopped", 20.4),
        ("redis", "main", 99.0),
    ]
    assert result_of(found[1]) == result("stopped")


def test_what_the_program_on_the_host_prints() -> None:
    load = Load(0.0)
    load.read('{"at": 5.0, "queues": {"email@w1": ["email"]}}')
    load.read('{"sent": ["a", "b"], "refused": {"c": "OperationalError: OOM"}}')
    assert load.seen == (5.0, {"email@w1": ["email"]})
    assert (load.sent, load.refused) == ({"a", "b"}, {"c": "OperationalError: OOM"})


def test_the_processes_that_a_playbook_has_started_are_known_also_in_sessions_of_their_own() -> None:
    nested = "setsid sh -c 'sleep 60; true' & echo started; wait"
    with subprocess.Popen(["sh", "-c", nested], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout
            process.stdout.readline()

            def both() -> bool:
                return len(descendants(process.pid)) == 2

            assert wait_until(both, 20, 0.1)
        finally:
            Started(process, Path()).kill()
    assert descendants(process.pid) == []


def test_each_fault_has_a_name_and_each_that_is_held_is_taken_back() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {fault.name for fault in FAULTS if bool(fault.hold) != (fault.undo.__name__ != "nothing")} == set()


@pytest.mark.parametrize("kind", ["rabbitmq", "redis"])
def test_each_worker_is_on_two_hosts_so_that_none_is_missed_for_long(kind: str) -> None:
    values = inventory(kind, "debian12")["all"]
    assert {worker["group"] for worker in values["vars"]["celery_workers"]} == {"general"}
    assert len(values["children"]["general"]["hosts"]) == 2


@pytest.mark.parametrize("kind", ["rabbitmq", "redis"])
def test_its_inventory_sets_only_options_that_exist(kind: str) -> None:
    variables = inventory(kind, "debian12")["all"]["vars"]
    specs = (yaml.safe_load(path.read_text()) for path in ROLES.glob("*/meta/argument_specs.yml"))
    known = {name for spec in specs for name in spec["argument_specs"]["main"]["options"]} | OF_PLAYBOOKS
    outside = ("lab_", "ansible_")
    assert {name for name in variables if not name.startswith(outside)} <= known
    problems: list[Problem] = []
    read_alerts(variables["celery_alerts"], problems)
    assert problems == []


def test_it_reads_the_files_that_playbooks_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: set[str] = set()

    def run(_: Hosts, _name: str, **variables: str) -> None:
        options.update(variables)
        Path(*variables.values()).write_text('{"checks": {}}')

    monkeypatch.setattr(Hosts, "playbook", run)
    hosts = Hosts(fleet_of("redis"), tmp_path / "redis.json")
    assert hosts.doctor() == {}
    assert hosts.status()
    assert options <= OF_PLAYBOOKS
