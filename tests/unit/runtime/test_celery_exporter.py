"""The metrics of a host's workers, from real processes and their counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.alive import Alive
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import (
    KINDS,
    RECORDS,
    CountsFile,
    read_counts,
)
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services import exporter, watchdog
from prometheus_client import CollectorRegistry, generate_latest

# A worker with a child. It prints a line once both are running, and both exit when stdin is closed.
WORKER = """
import os, sys
inside, outside = os.pipe()
child = os.fork()
if child == 0:
    os.write(outside, b"x")
    os.read(0, 1)
    os._exit(0)
os.read(inside, 1)
print("up", flush=True)
sys.stdin.read()
os.waitpid(child, 0)
"""
NOW = 1_800_000_000.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, str], int]]:
    running = []

    def run(program: str, release: str) -> int:
        environment = {
            "SUPERVISOR_PROCESS_NAME": program,
            "CELERY_APP_RELEASE": release,
            "CELERY_FLEET_COUNTS": str(tmp_path),
        }
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environment
        )
        running.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        return process.pid

    yield run
    for process in running:
        process.communicate()


def config(tmp_path: Path) -> dict[str, Any]:
    return {
        "app": "shop",
        "current": str(tmp_path / "current"),
        "drained": str(tmp_path / "drained"),
        "broker_file": str(tmp_path / "broker"),
        "notice_file": str(tmp_path / "notice"),
        "counts": str(tmp_path),
        "programs": [
            {
                "name": "shop-email",
                "slots": [{"name": "shop-email-a"}, {"name": "shop-email-b"}],
                "pool": "prefork",
                "concurrency": 8,
                "queues": ["email"],
            },
            {
                "name": "shop-mail",
                "slots": [{"name": "shop-mail"}],
                "pool": "threads",
                "concurrency": 100,
                "queues": ["mail", "email"],
            },
        ],
    }


@pytest.fixture
def tell(tmp_path: Path) -> Callable[..., dict[str, float]]:
    def told(now: float = NOW) -> dict[str, float]:
        registry = CollectorRegistry()
        registry.register(exporter.metrics(config(tmp_path), exporter.processes(tmp_path), read_counts(tmp_path), now))
        lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    return told


def series(name: str, **labels: str) -> str:
    """Return the name of a series of the application."""
    pairs = [f'{label}="{value}"' for label, value in sorted({"app": "shop", **labels}.items())]
    return f"{name}{{{','.join(pairs)}}}"


def test_workers_are_exported_with_their_children(
    tell: Callable[..., dict[str, float]], start: Callable[[str, str], int]
) -> None:
    before = time.time()
    start("shop-email-a", "1.4.0")
    told = tell()
    ups = [told[series("celery_worker_up", program=program)] for program in ("shop-email", "shop-mail")]
    sizes = [told[series("celery_worker_pool_size", program=program)] for program in ("shop-email", "shop-mail")]
    assert (ups, sizes) == ([1, 0], [1, 0])
    assert told[series("celery_worker_consumes", program="shop-email", queue="email")] == 1
    assert told[series("celery_worker_consumes", program="shop-mail", queue="email")] == 0
    for process in ("parent", "children"):
        assert told[series("celery_worker_memory_bytes", program="shop-email", process=process)] > 1_000_000
    labels = {"program": "shop-email", "slot": "shop-email-a", "release": "1.4.0"}
    assert before - 2 < told[series("celery_worker_start_time_seconds", **labels)] < time.time() + 2


def test_a_loop_that_does_not_turn_is_seen(
    tell: Callable[..., dict[str, float]], start: Callable[[str, str], int], tmp_path: Path
) -> None:
    alive = Alive(start("shop-mail", "1.4.0"), time.monotonic() - 90, ("mail",), 0, 0, 0)
    (tmp_path / "shop-mail.alive").write_text(json.dumps(asdict(alive)))
    age = tell()[series("celery_worker_heartbeat_age_seconds", program="shop-mail", slot="shop-mail")]
    assert 90 <= age < 600


def test_a_worker_without_its_broker_is_seen_and_consumes_nothing(
    tell: Callable[..., dict[str, float]], start: Callable[[str, str], int], tmp_path: Path
) -> None:
    pid = start("shop-mail", "1.4.0")
    for connected in (True, False):
        alive = Alive(pid, time.monotonic(), ("email",), 0, 0, 0, connected)
        (tmp_path / "shop-mail.alive").write_text(json.dumps(asdict(alive)))
        told = tell()
        assert told[series("celery_worker_connected", program="shop-mail", slot="shop-mail")] == connected
        assert told[series("celery_worker_consumes", program="shop-mail", queue="email")] == connected
        assert told[series("celery_worker_up", program="shop-mail")] == 1


def test_a_host_that_does_not_reach_the_broker_is_seen(tell: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    name = series("celery_broker_reachable")
    assert name not in tell()
    report = tmp_path / "broker"
    for reachable in (True, False):
        watchdog.report_broker(tmp_path, reachable=reachable)
        os.utime(report, (NOW, NOW))
        assert exporter.broker_reachable(report, NOW) is reachable
    # A watchdog that has stopped says nothing any more.
    assert exporter.broker_reachable(report, NOW + 600) is None
    watchdog.report_broker(tmp_path, reachable=False)
    assert tell(now=time.time())[name] == 0


def test_a_handover_exports_both_slots(tell: Callable[..., dict[str, float]], start: Callable[[str, str], int]) -> None:
    start("shop-email-a", "1.4.0")
    start("shop-email-b", "1.5.0")
    told = tell()
    assert {name for name in told if name.startswith("celery_worker_start_time_seconds")} == {
        series("celery_worker_start_time_seconds", program="shop-email", slot=f"shop-email-{slot}", release=release)
        for slot, release in (("a", "1.4.0"), ("b", "1.5.0"))
    }
    assert told[series("celery_worker_pool_size", program="shop-email")] == 2


def test_tasks_are_exported_by_queue_and_by_program(tell: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    for slot in ("shop-email-a", "shop-email-b"):
        file = CountsFile(tmp_path, f"{slot}@1.4.0")
        file.begin("email", "mailer.send", NOW - 1, sent=NOW - 8, wait=7.0)
        file.count(KINDS.index("failed"), "email", "mailer.send", NOW)
        file.end("email", "mailer.send", NOW, 0.5)
    file.begin("email", "mailer.send", NOW, sent=NOW - 90, wait=90.0)
    other = CountsFile(tmp_path, "shop-mail@1.4.0")
    other.begin("email", "mailer.send", NOW - 1, sent=NOW - 31, wait=30.0)
    other.count(KINDS.index("done"), "email", "mailer.send", NOW)
    other.end("email", "mailer.send", NOW, 0.5)
    told = tell()
    task = {"queue": "email", "task": "mailer.send"}
    labels = {**task, "release": "1.4.0"}
    outcomes = ("started", "succeeded", "failed", "retried")
    assert [told[series(f"celery_task_{outcome}_total", **labels)] for outcome in outcomes] == [4, 1, 2, 0]
    for program, numbers in (("shop-email", [3, 0, 2, 0]), ("shop-mail", [1, 1, 0, 0])):
        worker = {"program": program, "release": "1.4.0"}
        assert [told[series(f"celery_worker_tasks_{outcome}_total", **worker)] for outcome in outcomes] == numbers
    waits = [told[series("celery_task_wait_seconds_bucket", **labels, le=bound)] for bound in ("5.0", "10.0", "+Inf")]
    assert waits == [0, 2, 4]
    assert told[series("celery_task_wait_seconds_sum", **labels)] == 134
    assert told[series("celery_task_run_seconds_count", **labels)] == 3
    assert told[series("celery_task_wait_seconds_max", **task)] == 90
    assert told[series("celery_queue_last_started_sent_timestamp_seconds", queue="email")] == NOW - 8
    assert told[series("celery_worker_tasks_running", program="shop-email")] == 1


def test_an_idle_worker_has_counters(tell: Callable[..., dict[str, float]], start: Callable[[str, str], int]) -> None:
    """Without them, increase() would miss the first tasks."""
    start("shop-mail", "1.4.0")
    told = tell()
    for what in ("tasks_started", "tasks_succeeded", "tasks_failed", "tasks_retried", "broken_off", "untold"):
        assert told[series(f"celery_worker_{what}_total", program="shop-mail", release="1.4.0")] == 0


def test_the_longest_wait_and_run_are_those_of_two_minutes(
    tell: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    file = CountsFile(tmp_path, "shop-mail@1.4.0")
    file.begin("mail", "mailer.send", NOW, sent=NOW - 90, wait=90.0)
    longest = series("celery_task_wait_seconds_max", queue="mail", task="mailer.send")
    assert [tell(NOW + after)[longest] for after in (59, 180)] == [90, 0]


def test_a_release_without_tasks_for_an_hour_is_not_exported(
    tell: Callable[..., dict[str, float]], start: Callable[[str, str], int], tmp_path: Path
) -> None:
    for release, ago in (("1.3.0", 4000), ("1.4.0", 3000), ("1.5.0", 9000)):
        CountsFile(tmp_path, f"shop-mail@{release}").count(KINDS.index("done"), "mail", "mailer.send", NOW - ago)
    start("shop-mail", "1.5.0")
    releases = {name.partition('release="')[2].partition('"')[0] for name in tell() if "celery_task_succeeded" in name}
    assert releases == {"1.4.0", "1.5.0"}


def test_the_sum_over_programs_never_decreases(tell: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    """If the idle program were left out, Prometheus would take the lower sum for a reset."""
    for slot, ago in (("shop-email-a", 3500), ("shop-mail", 10)):
        file = CountsFile(tmp_path, f"{slot}@1.4.0")
        file.begin("email", "mailer.send", NOW - ago, sent=NOW - ago, wait=0.0)
    task = {"release": "1.4.0", "queue": "email", "task": "mailer.send"}
    worker = {"program": "shop-email", "release": "1.4.0"}
    for after in (0, 200):
        told = tell(NOW + after)
        assert told[series("celery_task_wait_seconds_count", **task)] == 2
        assert told[series("celery_task_started_total", **task)] == 2
        assert told[series("celery_worker_tasks_started_total", **worker)] == 1


def test_tasks_without_a_record_are_exported_as_other(tell: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    file = CountsFile(tmp_path, "shop-mail@1.4.0")
    for number in range(RECORDS + 10):
        file.begin("mail", f"task-{number}", NOW, sent=NOW - 1, wait=1.0)
    told = tell()
    others = {"release": "1.4.0", "queue": "(other)", "task": "(other)"}
    assert told[series("celery_task_started_total", **others)] == 11
    assert told[series("celery_task_wait_seconds_count", **others)] == 11
    assert sum(value for name, value in told.items() if name.startswith("celery_task_started_total")) == RECORDS + 10
    assert told[series("celery_worker_tasks_started_total", program="shop-mail", release="1.4.0")] == RECORDS + 10
    # They may be of any queue, so they say of none how old it is.
    assert [name for name in told if "last_started_sent" in name] == [
        series("celery_queue_last_started_sent_timestamp_seconds", queue="mail")
    ]


def test_the_notices_of_an_interruption_are_exported(tell: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    notice = series("celery_host_interruption_notice", kind="scale-in")
    end = series("celery_host_interruption_timestamp_seconds")
    assert not {notice, end} & tell().keys()
    for broken in ("", "[]", '{"notices": [1]}'):
        (tmp_path / "notice").write_text(broken)
        assert not {notice, end} & tell().keys()
    (tmp_path / "notice").write_text('{"notices": [["scale-in", "Terminated"]], "began": 1.0, "end": 2.0}')
    assert (tell()[notice], tell()[end]) == (1, 2)


def test_a_drained_host_is_exported(tell: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    assert tell()[series("celery_host_drained")] == 0
    (tmp_path / "drained").touch()
    assert tell()[series("celery_host_drained")] == 1


def test_the_time_of_beats_last_sent_task_is_exported(tell: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    for release, now in (("1.3.0", NOW - 9000), ("1.4.0", NOW - 15)):
        CountsFile(tmp_path, f"shop-beat@{release}").send(now)
    assert tell()[series("celery_program_sent_timestamp_seconds", program="shop-beat")] == NOW - 15


def test_the_release_is_exported(tell: Callable[..., dict[str, float]], tmp_path: Path) -> None:
    assert not [name for name in tell() if "release_info" in name]
    (tmp_path / "current").symlink_to("releases/1.4.0")
    assert tell()[series("celery_release_info", release="1.4.0")] == 1
