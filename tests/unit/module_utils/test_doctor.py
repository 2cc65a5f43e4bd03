"""The doctor's checks and the collection of symptoms."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._doctor import (
    CHECKS,
    KNOWN_BUGS,
    Fleet,
    Limits,
    as_values,
    clock_error,
    examine,
    notes,
    parse_version,
    report,
    summary,
)
from ansible_collections.fleet.celery.plugins.module_utils._release import Record
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.alive import AliveFile
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services import query
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import Process
from ansible_collections.fleet.celery.plugins.modules import celery_doctor_info
from celery import Celery
from celery.contrib.testing.worker import start_worker

PROGRAM = {
    "name": "shop-email",
    "queues": ["email"],
    "concurrency": 10,
    "longest_task": 60,
    "slots": [{"name": "shop-email-a", "node": "email-a@%h"}, {"name": "shop-email-b", "node": "email-b@%h"}],
}
WORKS = {"programs": [PROGRAM], "duties": ["app", "workers"]}
BROKER = {
    "kind": "redis",
    "flavor": "valkey",
    "host": "broker1",
    "members": {"broker1": {"node_host": ""}},
    "address": "10.0.0.1",
    "port": 6379,
}
PLAN: dict[str, Any] = {
    "broker": BROKER,
    "thresholds": {"email": {"age": 300, "depth": 50_000, "drain_time": 1800}},
    "durations": {},
    "hosts": {"broker1": {"programs": [], "duties": ["redis"]}, "worker1": WORKS, "worker2": WORKS},
}
NODES = ("email-a@worker1.lan", "email-a@worker2.lan")
RABBITMQ = PLAN | {"broker": BROKER | {"kind": "rabbitmq", "flavor": "rabbitmq"}}


def host(name: str, **differs: Any) -> dict[str, Any]:
    """Return the symptoms of a healthy host."""
    well = {
        "nodename": f"{name}.lan",
        "drained": False,
        "current": "1.4.0",
        "programs": [{"name": "shop-email-a", "state": "RUNNING", "release": "1.4.0"}],
        "supervisor": "",
        "strays": [],
        "oom": [],
        "killed": [],
        "runs": {"email": [500.0, 1000]},
        "free_percent": {"/": 60.0, "/ (inodes)": 80.0},
        "tasks": ["mailer.send"],
        "runtime": "a1",
        "versions": {"celery": "5.7.0", "kombu": "5.7.0", "billiard": "4.3.2"},
        "broker": {},
        "asked": {},
        "clock": [1000.0, 1000.4, 1006.0, 1006.2],
    }
    return well | differs


def fleet(*, plan: dict[str, Any] = PLAN, asked: dict[str, Any] | None = None, **differs: Any) -> Fleet:
    """Return a healthy fleet, except for symptoms of worker1 or answers of the broker and the workers."""
    said = {
        "depths": {"email": 100},
        "registered": {node: ["mailer.send"] for node in NODES},
        "active": {node: [{"name": "mailer.send", "id": "1", "seconds": 10}] for node in NODES},
        "consumed": {node: ["email"] for node in NODES},
    }
    none = {
        "runtime": "",
        "current": "",
        "programs": [],
        "runs": {},
        "tasks": [],
        "versions": {},
        "broker": {"alarms": []},
    }
    hosts = {"broker1": host("broker1", **none), "worker1": host("worker1", **differs), "worker2": host("worker2")}
    hosts["worker2"]["asked"] = said | (asked or {})
    return Fleet(plan, hosts, runtime="a1")


def found(seen: Fleet, limits: Limits | None = None) -> dict[str, list[str]]:
    texts = {
        name: [f"{each.where}: {each.what}. {each.meaning}. {each.action}" for each in findings]
        for name, findings in examine(seen, limits).items()
    }
    return {name: findings for name, findings in texts.items() if findings}


@pytest.mark.parametrize("plan", [PLAN, RABBITMQ])
def test_a_healthy_fleet_has_no_findings(plan: dict[str, Any]) -> None:
    assert found(fleet(plan=plan)) == {}
    assert list(examine(fleet(plan=plan))) == list(CHECKS)


def test_files_of_another_version_of_the_collection_are_found() -> None:
    (finding,) = found(fleet(runtime="b2"))["the collection"]
    assert finding.startswith("worker1: has files of another version of the collection.")
    assert "Run site.yml" in finding


def killed(*moments: float) -> list[dict[str, Any]]:
    return [{"program": "shop-email-a", "what": "a child process", "at": at} for at in moments]


@pytest.mark.parametrize(
    ("seen", "check", "words"),
    [
        (
            fleet(oom=["Out of memory: Killed process 77 (celery)"]),
            "processes that were killed",
            ["worker1: the kernel", "Killed process 77", "max_memory_per_child", "sweep.yml"],
        ),
        (
            fleet(killed=killed(1_000_000_000.0, 999_999_000.0)),
            "processes that were killed",
            ["shop-email-a on worker1: a child process", "2 times", "2001-09-09 01:46:40 UTC", "visibility timeout"],
        ),
        (
            fleet(plan=RABBITMQ, killed=killed(1_000_000_000.0)),
            "processes that were killed",
            ["1 times", "were redelivered", "alerts.md#celerytaskskilled"],
        ),
        (
            fleet(strays=[{"program": "shop-email-a", "pid": 4711}]),
            "consumers",
            ["shop-email-a on worker1: process 4711 outlived its Supervisor", "kill -TERM 4711"],
        ),
        (
            fleet(asked={"registered": {NODES[0]: ["other"], NODES[1]: ["mailer.send"]}}),
            "tasks that workers know",
            ["email-a@worker1.lan: has not registered mailer.send", "restart.yml"],
        ),
        (
            fleet(asked={"depths": {"email": 60_000}}),
            "what waits",
            ["queue email: 60000 tasks are queued", "its alerts.depth is 50000"],
        ),
        (
            fleet(asked={"depths": {"email": 4000}}, runs={"email": [20_000.0, 1000]}),
            "what waits",
            ["queue email: 4000 tasks are queued, 2050 s of work at a concurrency of 20; its drain_time is 1800 s"],
        ),
        (
            fleet(asked={"active": {NODES[0]: [{"name": "mailer.send", "id": "7", "seconds": 90}]}}),
            "tasks past their limits",
            ["shop-email on worker1: mailer.send (7)", "90 s, its time limit is 60 s", "site.yml"],
        ),
        (fleet(clock=[1000.0, 993.0, 998.0, 1006.0]), "clocks", ["worker1", "at least 7.0 s behind", "timesyncd"]),
        (fleet(clock=[1000.0, 1060.0, 1065.0, 1006.5]), "clocks", ["worker1", "at least 58.5 s ahead"]),
        (fleet(free_percent={"/": 60.0, "/var": 3.0}), "disks", ["worker1: /var has 3% free", "du -xh"]),
        (fleet(current="1.3.0", programs=[]), "releases", ["1.3.0: worker1; 1.4.0: worker2", "deploy.yml"]),
        (
            fleet(programs=[{"name": "shop-email-a", "state": "RUNNING", "release": "1.3.0"}]),
            "releases",
            ["shop-email-a on worker1: runs 1.3.0", "restart.yml --limit worker1"],
        ),
        (
            fleet(asked={"consumed": {NODES[1]: ["email"]}}),
            "consumers",
            ["shop-email on worker1: does not answer; its state in Supervisor: RUNNING"],
        ),
        (
            fleet(asked={"consumed": {NODES[1]: ["email"]}}, programs=[]),
            "consumers",
            ["shop-email on worker1: does not answer; its state in Supervisor: not configured"],
        ),
        (
            fleet(asked={"consumed": {NODES[0]: ["other"], NODES[1]: ["email"]}}),
            "consumers",
            ["shop-email on worker1: does not consume email", "restart.yml"],
        ),
        (fleet(supervisor="Supervisor doesn't answer"), "consumers", ["worker1: Supervisor doesn't answer"]),
        (
            fleet(versions={"kombu": "5.3.7"}),
            "versions",
            ["worker1: kombu 5.3.7", "no more tasks", "5.4 or later", "celery/issues/8030"],
        ),
    ],
)
def test_each_symptom_is_one_finding(seen: Fleet, check: str, words: list[str]) -> None:
    findings = found(seen)
    assert list(findings) == [check]
    (told,) = findings[check]
    assert all(word in told for word in words), told


def running(queues: list[str], *, fresh: bool = True, connected: bool = True, age: int = 0) -> list[dict[str, Any]]:
    """Return the program of a host, with its heartbeat."""
    heartbeat = {"fresh": fresh, "connected": connected, "age": age, "queues": queues}
    return [{"name": "shop-email-a", "state": "RUNNING", "release": "1.4.0", "heartbeat": heartbeat}]


def with_heartbeats(asked: dict[str, Any], programs: list[dict[str, Any]]) -> Fleet:
    """Return a fleet of workers with heartbeats, with these answers and these programs on worker1."""
    seen = fleet(programs=programs)
    seen.hosts["worker2"]["programs"][:] = running(["email"])
    seen.hosts["worker2"]["asked"].clear()
    seen.hosts["worker2"]["asked"].update(asked)
    return seen


DOWN = {"error": "refused"}


@pytest.mark.parametrize("asked", [{"depths": {}, "consumed": {}}, DOWN])
def test_workers_are_judged_by_their_heartbeats_and_not_by_remote_control(asked: dict[str, Any]) -> None:
    assert "consumers" not in found(with_heartbeats(asked, running(["email"])))
    (told,) = found(with_heartbeats(asked, running([], fresh=True)))["consumers"]
    assert told.startswith("shop-email on worker1: does not consume email")
    (told,) = found(with_heartbeats(asked, running(["email"], fresh=False, age=40)))["consumers"]
    assert told.startswith("shop-email on worker1: has not turned its event loop for 40 s")


def test_a_worker_that_alone_has_no_connection_is_a_finding() -> None:
    answers: tuple[dict[str, Any], ...] = ({"depths": {}, "consumed": {}}, DOWN)
    for asked in answers:
        seen = with_heartbeats(asked, running([], fresh=False, connected=False, age=50))
        (told,) = found(seen)["consumers"]
        assert told.startswith("shop-email on worker1: has had no connection to the broker for 50 s")
        assert "10.0.0.1:6379 is reachable from worker1" in told


def test_a_host_that_alone_does_not_reach_the_broker_is_a_finding() -> None:
    """A gevent worker's heart goes on beating there."""
    seen = with_heartbeats({"depths": {}, "consumed": {}}, running(["email"]))
    cut_off = {**seen.hosts["worker1"], "unreachable_broker": "timed out"}
    one = Fleet(PLAN, {**seen.hosts, "worker1": cut_off})
    (told,) = found(one)["the broker"]
    assert "worker1 can't connect to 10.0.0.1:6379: timed out" in told
    assert "Check routes, firewalls" in told
    refused = {**cut_off, "unreachable_broker": "[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"}
    (told,) = found(Fleet(PLAN, {**seen.hosts, "worker1": refused}))["the broker"]
    assert "certificate has expired" in told
    assert "Run playbooks/renew.yml" in told
    both = Fleet(PLAN, {**one.hosts, "worker2": {**seen.hosts["worker2"], "unreachable_broker": "timed out"}})
    assert "the broker" not in found(both)


def test_a_connection_to_the_broker_is_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert celery_doctor_info.broker_unreachable(["127.0.0.1", str(port)], "") == ""
    assert "refused" in celery_doctor_info.broker_unreachable(["127.0.0.1", str(port)], "")
    assert celery_doctor_info.broker_unreachable([], "") == ""


def test_a_broker_that_is_down_is_no_finding_about_its_workers() -> None:
    lost = running([], fresh=False, connected=False, age=50)
    seen = with_heartbeats(DOWN, lost)
    seen.hosts["worker2"]["programs"][:] = lost
    assert list(found(seen)) == ["the broker"]


@pytest.mark.parametrize("connected", [False, True])
def test_a_worker_whose_heart_goes_on_beating_does_not_hide_that_the_broker_is_down(*, connected: bool) -> None:
    seen = with_heartbeats(DOWN, running([], fresh=False, connected=connected, age=50))
    broker = {**seen.hosts["worker2"], "broker": {"error": "refused"}}
    plan = {**PLAN, "broker": {**BROKER, "host": "worker2", "members": {"worker2": {"node_host": ""}}}}
    assert list(found(Fleet(plan, {**seen.hosts, "worker2": broker}))) == ["the broker"]


def test_a_stopped_worker_is_found_while_the_broker_is_down() -> None:
    stopped = [{"name": "shop-email-a", "state": "FATAL", "release": "", "heartbeat": None}]
    (told,) = found(with_heartbeats(DOWN, stopped))["consumers"]
    assert told.startswith("shop-email on worker1: does not answer; its state in Supervisor: FATAL")


def test_a_worker_without_a_heartbeat_is_judged_by_its_answer() -> None:
    old = [{"name": "shop-email-a", "state": "RUNNING", "release": "1.4.0", "heartbeat": None}]
    assert found(with_heartbeats({"depths": {}, "consumed": {NODES[0]: ["email"]}}, old)) == {}
    (told,) = found(with_heartbeats({"depths": {}, "consumed": {}}, old))["consumers"]
    assert told.startswith("shop-email on worker1: does not answer; its state in Supervisor: RUNNING")
    assert "consumers" not in found(with_heartbeats(DOWN, old))


def test_the_heartbeat_of_a_running_worker_is_read(tmp_path: Path) -> None:
    AliveFile(tmp_path, "shop-email").write(["email"], active=0, held=0, done=0)
    process = Process("shop-email", "RUNNING", os.getpid(), "", "")
    told = celery_doctor_info.heartbeat(tmp_path, process)
    assert told == {"fresh": True, "connected": True, "age": 0, "queues": ["email"]}
    assert celery_doctor_info.heartbeat(tmp_path, replace(process, state="STOPPING")) is None
    assert celery_doctor_info.heartbeat(tmp_path, replace(process, pid=1)) is None


def test_an_unreachable_host_is_a_finding_and_the_others_are_examined() -> None:
    seen = fleet(free_percent={"/": 1.0})
    seen = Fleet(seen.plan, {name: each for name, each in seen.hosts.items() if name != "broker1"}, ["broker1"])
    assert list(found(seen)) == ["hosts", "disks"]
    assert found(seen)["hosts"][0].startswith("broker1: could not be examined")


def test_a_worker_on_an_unreachable_host_is_no_second_finding() -> None:
    seen = fleet(asked={"consumed": {NODES[1]: ["email"]}})
    seen = Fleet(seen.plan, {name: each for name, each in seen.hosts.items() if name != "worker1"}, ["worker1"])
    assert list(found(seen)) == ["hosts"]


def test_a_handover_consumes_by_either_slot() -> None:
    assert found(fleet(asked={"consumed": {"email-b@worker1.lan": ["email"], NODES[1]: ["email"]}})) == {}


def test_a_worker_that_is_stopping_may_run_the_previous_release() -> None:
    programs = [
        {"name": "shop-email-a", "state": "STOPPING", "release": "1.3.0"},
        {"name": "shop-email-b", "state": "RUNNING", "release": "1.4.0"},
    ]
    assert found(fleet(programs=programs)) == {}


def test_a_drained_host_is_no_finding() -> None:
    assert found(fleet(asked={"consumed": {NODES[1]: ["email"]}}, drained=True, programs=[])) == {}


@pytest.mark.parametrize(
    ("key", "words"),
    [("error", "valkey on broker1: worker2 can't query it: refused"), ("workers_error", "refused")],
)
def test_an_unreachable_broker_is_one_finding(key: str, words: str) -> None:
    seen = fleet()
    seen.hosts["worker2"]["asked"].clear()
    seen.hosts["worker2"]["asked"][key] = "refused"
    findings = found(seen)
    assert list(findings) == ["the broker"]
    assert words in findings["the broker"][0]


@pytest.mark.parametrize(
    ("said", "words"), [({"error": "no socket"}, "no socket"), ({"alarms": ["memory is full"]}, "memory is full")]
)
def test_errors_and_alarms_of_the_broker_are_findings(said: dict[str, Any], words: str) -> None:
    seen = fleet()
    seen.hosts["broker1"]["broker"].clear()
    seen.hosts["broker1"]["broker"].update(said)
    assert list(found(seen)) == ["the broker"]
    assert words in found(seen)["the broker"][0]


def test_a_fleet_with_workers_that_no_host_can_query_is_a_finding() -> None:
    seen = fleet()
    assert list(found(Fleet(PLAN, {"broker1": seen.hosts["broker1"]}))) == []
    assert list(found(Fleet(PLAN, {"broker1": seen.hosts["broker1"]}, ["worker1", "worker2"]))) == [
        "hosts",
        "the broker",
    ]


def test_a_slow_connection_is_no_clock_skew() -> None:
    assert clock_error(1000.0, 1030.0, 1031.0, 1060.0) == (-29.0, 30.0)
    assert found(fleet(clock=[1000.0, 1030.0, 1031.0, 1060.0])) == {}


def test_a_queue_without_run_times_is_no_finding() -> None:
    seen = fleet(asked={"depths": {"email": 40_000, "new": 9}}, runs={})
    seen.hosts["worker2"]["runs"].clear()
    assert found(seen) == {}


def test_tasks_that_take_much_longer_than_declared_are_a_finding() -> None:
    plan = PLAN | {"durations": {"email": 0.005}}
    (told,) = found(fleet(plan=plan))["tasks that take longer"]
    assert told.startswith("queue email: its 2000 tasks took 0.5 s on average, but its duration is 0.005 s")
    assert "Set duration: 0.5s in celery_queues" in told
    few = fleet(plan=plan, runs={"email": [5.0, 10]})
    few.hosts["worker2"]["runs"].clear()
    assert found(few) == {}


def test_thresholds_of_zero_are_off() -> None:
    plan = PLAN | {"thresholds": {"email": {"age": 0, "depth": 0, "drain_time": 0}}}
    assert found(fleet(plan=plan, asked={"depths": {"email": 10_000_000}})) == {}


@pytest.mark.parametrize("bug", KNOWN_BUGS, ids=lambda bug: f"{bug.part} {bug.fixed_in}")
def test_a_known_bug_is_a_finding_before_its_fix_and_with_its_broker(bug: Any) -> None:
    kinds = {"redis": PLAN, "rabbitmq": RABBITMQ}
    for kind, plan in kinds.items():
        bites = bug.broker in ("", kind)
        told = " ".join(found(fleet(plan=plan, versions={bug.part: bug.first})).get("versions", []))
        assert (bug.source in told) == bites
        assert bug.source not in str(found(fleet(plan=plan, versions={bug.part: bug.fixed_in})))
    assert bug.source.startswith("https://github.com/celery/")


def test_limits_can_be_set() -> None:
    seen = fleet(clock=[1000.0, 1003.0, 1006.0, 1004.0], free_percent={"/": 12.0})
    assert found(seen, Limits(skew=2.5)) == {}
    assert list(found(seen, Limits(skew=1.0, disk=15.0))) == ["clocks", "disks"]


def test_the_report_has_all_checks_in_order_and_the_number_of_findings() -> None:
    lines = report(examine(fleet()))
    assert lines == [*(f"{check}: ok" for check in CHECKS), "No findings"]
    lines = report(examine(fleet(free_percent={"/": 3.0}, clock=[1000.0, 900.0, 901.0, 1002.0])))
    at = lines.index("disks:")
    assert lines[at + 1] == "  - worker1: / has 3% free, the threshold is 10%"
    assert lines[-1] == "2 findings"


def test_findings_can_be_written_as_json() -> None:
    values = json.loads(json.dumps(as_values(examine(fleet(supervisor="gone")))))
    assert list(values) == list(CHECKS)
    assert values["consumers"][0]["where"] == "worker1"
    assert set(values["consumers"][0]) == {"where", "what", "meaning", "action"}


@pytest.mark.parametrize(
    ("version", "expected"), [("5.7.0", (5, 7)), ("5.7.0rc1", (5, 7)), ("5.10.3", (5, 10, 3)), ("x", ())]
)
def test_versions_are_compared_by_their_numbers(version: str, expected: tuple[int, ...]) -> None:
    assert parse_version(version) == expected


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_kills_are_read_from_the_logs_of_supervisor_and_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = tmp_path / "supervisord.log"
    supervisor.write_text(
        "2026-11-20 01:00:00,000 WARN exited: shop-email-a (terminated by SIGKILL; not expected)\n"
        "2026-11-22 01:00:00,000 WARN exited: shop-email-a (terminated by SIGKILL; not expected)\n"
        "2026-11-22 01:00:01,000 WARN exited: shop-email-a (exit status 1; not expected)\n"
        "2026-11-22 01:00:02,000 WARN stopped: shop-video (terminated by SIGKILL)\n"
        "2026-11-22 01:00:03,000 WARN exited: other-video (terminated by SIGKILL; not expected)\n"
    )
    monkeypatch.setattr(celery_doctor_info, "SUPERVISOR_LOG", supervisor)
    (tmp_path / "shop-reports-a.log").write_text(
        "[2026-11-22 01:10:00,123: ERROR/MainProcess] Process 'ForkPoolWorker-2' pid:7 exited with "
        "'signal 9 (SIGKILL)'\n"
        "[2026-11-22 01:10:01,123: ERROR/MainProcess] Process 'ForkPoolWorker-3' pid:8 exited with 'exitcode 1'\n"
        "  a line of no time: signal 9 (SIGKILL)\n"
    )
    app = {"name": "shop", "log_dir": str(tmp_path), "root": tmp_path}
    found = celery_doctor_info.killed(app, moment("2026-11-21 12:00:00"))
    assert found == [
        {"program": "shop-email-a", "what": "the worker", "at": moment("2026-11-22 01:00:00")},
        {"program": "shop-video", "what": "the worker", "at": moment("2026-11-22 01:00:02")},
        {"program": "shop-reports-a", "what": "a child process", "at": moment("2026-11-22 01:10:00")},
    ]


def test_each_file_system_is_reported_once_and_missing_directories_are_ignored(tmp_path: Path) -> None:
    free = celery_doctor_info.free_percent(["/", str(tmp_path), str(tmp_path / "none")])
    mounts = {name for name in free if not name.endswith("(inodes)")}
    assert "/" in mounts
    assert all(Path(mount).is_mount() for mount in mounts)
    assert all(0 <= percent <= 100 for percent in free.values())


def test_versions_of_packages_with_known_bugs_are_read_from_a_release(tmp_path: Path) -> None:
    packages = tmp_path / "venv/lib/python3.13/site-packages"
    for name in ("celery-5.6.2", "kombu-5.7.0", "django-5.2.0"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
    assert celery_doctor_info.versions(tmp_path) == {"celery": "5.6.2", "kombu": "5.7.0"}


#: Of redis-cli INFO, by redis 7.0.
INFO = {
    "connected_clients": "41",
    "maxclients": "240",
    "used_memory": "943718",
    "used_memory_human": "921.60K",
    "maxmemory": "4194304",
    "maxmemory_human": "4.00M",
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
}


@pytest.mark.parametrize(
    ("differs", "words"),
    [
        ({"used_memory": "4100000", "used_memory_human": "3.91M"}, "memory is full: 3.91M of 4.00M"),
        ({"connected_clients": "230"}, "connections are used up: 230 of 240"),
        ({"aof_last_write_status": "err"}, "can't write its files: aof_last_write_status is err"),
        ({"rdb_last_bgsave_status": "err"}, "can't write its files: rdb_last_bgsave_status is err"),
    ],
)
def test_redis_has_alarms_of_memory_connections_and_files(differs: dict[str, str], words: str) -> None:
    assert celery_doctor_info.redis_alarms(INFO) == []
    assert celery_doctor_info.redis_alarms(INFO | {"maxmemory": "0"}) == []
    assert celery_doctor_info.redis_alarms(INFO | differs) == [words]


def test_rabbitmqs_alarms_are_those_of_all_nodes() -> None:
    well = {"alarms": [], "node": "rabbit@localhost", "result": "ok"}
    assert celery_doctor_info.rabbitmq_alarms(well) == []
    said = {"result": "ok", "local": ["Memory alarm on node a"], "global": ["Free disk space alarm on node b"]}
    assert celery_doctor_info.rabbitmq_alarms(said) == [
        "alarm: Memory alarm on node a",
        "alarm: Free disk space alarm on node b",
    ]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return an application with a worker that runs its task slow until the test ends."""
    app = Celery("probe", broker="memory://")
    app.conf.update(task_default_queue="email", task_ignore_result=True, worker_hijack_root_logger=False)
    begun, end = threading.Event(), threading.Event()

    def slow(_secret: str) -> None:
        begun.set()
        end.wait(60)

    app.task(name="mailer.slow")(slow)
    module = ModuleType("probe")
    module.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "probe", module)
    with start_worker(app, pool="threads", hostname="email@here", perform_ping_check=False, shutdown_timeout=30):
        app.send_task("mailer.slow", ("a secret",))
        assert begun.wait(30)
        yield app
        end.set()


def asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, nodes: list[list[str]]) -> Any:
    arguments = [json.dumps(["email", "video"]), json.dumps(nodes)]
    monkeypatch.setattr(sys, "argv", ["-c", "diagnose", "probe:app", *arguments])
    query.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.usefixtures("app")
def test_the_answers_of_workers_have_no_arguments_of_tasks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asked(capsys, monkeypatch, [["email@here", "email-b@here"]])
    assert told["consumed"] == {"email@here": ["email"]}
    assert "mailer.slow" in told["registered"]["email@here"]
    (task,) = told["active"]["email@here"]
    assert task["name"] == "mailer.slow"
    assert 0 <= task["seconds"] < 60
    assert told["depths"] == {"email": 0, "video": 0}
    assert "secret" not in json.dumps(told)


def test_an_unreachable_broker_is_reported_without_its_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("probe")
    module.app = Celery("probe", broker="amqp://shop:pa55word@127.0.0.1:1//")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "probe", module)
    told = asked(capsys, monkeypatch, [["email@here"]])
    assert list(told) == ["error"]
    assert "refused" in told["error"]
    assert "pa55word" not in told["error"]


@pytest.mark.parametrize(
    ("timezone", "killed_at"), [("Australia/Tasmania", "26 21:27:24"), ("America/Anchorage", "27 17:27:24")]
)
def test_the_time_of_a_kill_is_read_in_the_applications_time_zone(
    tmp_path: Path, timezone: str, killed_at: str
) -> None:
    line = "[2026-11-27 08:27:24,123: ERROR/MainProcess] Process exited with 'signal 9 (SIGKILL)'\n"
    (tmp_path / "shop-mail.log").write_text(line)
    Record("1.0.0", "aa", timezone=timezone).write(tmp_path)
    (tmp_path / "current").symlink_to(tmp_path)
    app = {"name": "shop", "log_dir": tmp_path, "root": tmp_path}
    (found,) = celery_doctor_info.killed(app, 0)
    assert datetime.fromtimestamp(found["at"], UTC).strftime("%d %H:%M:%S") == killed_at


def test_remarks_of_release_checks_are_reported_once_and_not_counted() -> None:
    seen = fleet(findings=["timezone: the application's 'Europe/Paris' applies, not the fleet's 'UTC'"])
    checks, noted = examine(seen), notes(seen)
    assert noted == ["timezone: the application's 'Europe/Paris' applies, not the fleet's 'UTC'"]
    lines = report(checks, noted)
    assert lines[-3:-1] == ["notes of the release's own check, not counted as findings:", f"  - {noted[0]}"]
    assert summary(checks) == summary(examine(fleet())) == lines[-1]


THREE = {f"broker{number}": {"node_host": f"rabbitmq-node-broker{number}"} for number in (1, 2, 3)}
ALL_NODES = [f"rabbit@{member['node_host']}" for member in THREE.values()]


def cluster(**states: dict[str, Any]) -> list[str]:
    """Return the findings about a broker with three hosts, by the symptoms of each."""
    seen = fleet()
    hosts = {name: {"programs": [], "duties": ["rabbitmq"]} for name in THREE}
    plan = RABBITMQ | {"broker": RABBITMQ["broker"] | {"members": THREE}, "hosts": PLAN["hosts"] | hosts}
    symptoms = {name: {**seen.hosts["broker1"], "broker": states[name]} for name in THREE}
    workers = {name: seen.hosts[name] for name in ("worker1", "worker2")}
    return found(Fleet(plan, {**symptoms, **workers})).get("the broker", [])


def test_each_host_of_a_broker_that_is_down_is_a_finding() -> None:
    well = {"alarms": [], "running": ALL_NODES}
    assert cluster(broker1=well, broker2=well, broker3=well) == []
    left = {"alarms": [], "running": ALL_NODES[:2]}
    (told,) = cluster(broker1=left, broker2=left, broker3={"error": "nodedown"})
    assert told.startswith("rabbitmq on broker3: does not answer on its own host: nodedown")


def test_nodes_that_run_apart_are_a_finding() -> None:
    left, alone = ({"alarms": [], "running": nodes} for nodes in (ALL_NODES[:2], ALL_NODES[2:]))
    told = cluster(broker1=left, broker2=left, broker3=alone)
    assert [each.partition(",")[0] for each in told] == [
        "rabbitmq on broker1: is not in one cluster with broker3",
        "rabbitmq on broker2: is not in one cluster with broker3",
        "rabbitmq on broker3: is not in one cluster with broker1",
    ]


def test_the_alarm_of_a_node_is_reported_once() -> None:
    here = {"alarms": ["alarm: memory on rabbit@rabbitmq-node-broker1"], "running": ALL_NODES}
    (told,) = cluster(broker1=here, broker2=here, broker3=here)
    assert told.startswith("rabbitmq on broker1: alarm: memory")
