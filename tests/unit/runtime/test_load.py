"""Counts and metrics are exact under load, with many tasks and processes that are killed and replaced."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import (
    BOUNDS,
    RECORDS,
    SIZE,
    Counts,
    read_counts,
)
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.report import Report
from celery.app.task import Context
from prometheus_client.parser import text_string_to_metric_families

MODULES = Path(__file__).parents[3] / "plugins" / "module_utils"
QUEUES, TASKS, REPORTS = 70, 200, 100_000
#: One in so many children is killed.
POOL, TASKS_PER_CHILD, KILLED = 8, 500, 10
PROGRAM, RELEASE = "shop-all", "1.4.0"
#: Each well inside of a bucket, so that a slow machine changes none; and the bucket's bound.
WAITS = ((1.5, "2.5"), (6.0, "10.0"), (40.0, "60.0"), (400.0, "600.0"), (7200.0, "+Inf"))
#: What systemd grants the exporter (celery-exporter.service.j2).
MEMORY_MAX = 256 * 1024 * 1024


class Task:
    """A task in its worker, with the seconds since it was sent."""

    def __init__(self, number: int) -> None:
        pair = number % TASKS
        self.id, self.name, self.queue = str(number), f"app.task_{pair}", f"queue-{pair % QUEUES}"
        self.fails = number % 10 == 3
        self.wait, self.bucket = WAITS[number // TASKS % len(WAITS)]
        delivery = {"routing_key": self.queue}
        self.request = Context({"id": self.id, "sent_at": time.time() - self.wait, "delivery_info": delivery})


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Any]:
    """Create reports of a program whose counts are in tmp_path/counts."""
    (tmp_path / "counts").mkdir()

    def make(**more: str) -> Any:
        environment = {"SUPERVISOR_PROCESS_NAME": PROGRAM, "CELERY_APP_RELEASE": RELEASE}
        return Report({**environment, "CELERY_FLEET_COUNTS": str(tmp_path / "counts"), **more})

    return make


def perform(report: Any, task: Task) -> None:
    """Report a task as Celery's signals would."""
    report.begun(task.id, task)
    kind = "failed" if task.fails else "done"
    report.became(kind, task.id, task.name, task.request)
    report.ended(task.id, "FAILURE" if task.fails else "SUCCESS")


def child(work: Callable[[], None]) -> int:
    """Run a function in a child process, which exits without cleanup."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Exporter:
    """The exporter, run as by systemd, and its file of metrics."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "celery.prom"
        config = {
            "app": "shop",
            "broker_file": str(directory / "broker"),
            "notice_file": str(directory / "notice"),
            "counts": str(directory / "counts"),
            "current": str(directory / "current"),
            "drained": str(directory / "drained"),
            "file": str(self._file),
            "interval": 0.2,
            "programs": [
                {
                    "name": PROGRAM,
                    "slots": [{"name": PROGRAM}],
                    "pool": "prefork",
                    "concurrency": POOL,
                    "queues": ["queue-0"],
                }
            ],
        }
        (directory / "exporter.json").write_text(json.dumps(config), encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-Bm", "celery_fleet_runtime.services.exporter", str(directory / "exporter.json")],
            env=os.environ | {"PYTHONPATH": str(MODULES)},
        )

    def series(self) -> Series:
        """Return the series of a file that was written after now."""
        asked = time.time_ns()
        wait_for(lambda: self._file.exists() and self._file.stat().st_mtime_ns > asked)
        asked = time.time_ns()
        wait_for(lambda: self._file.stat().st_mtime_ns > asked)
        families = text_string_to_metric_families(self._file.read_text(encoding="utf-8"))
        return {
            (each.name, tuple(sorted(each.labels.items()))): each.value for found in families for each in found.samples
        }

    def memory(self, what: str = "VmRSS") -> int:
        """Return its resident memory in bytes."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    exporter = Exporter(tmp_path)
    yield exporter
    exporter.end()


def by(series: Series, name: str, *labels: str, **only: str) -> Counter[tuple[str, ...]]:
    """Return the sums of a metric by some of its labels."""
    found = Counter[tuple[str, ...]]()
    for (each, pairs), value in series.items():
        has = dict(pairs)
        if each == name and only.items() <= has.items():
            found[tuple(has.get(label, "") for label in labels)] += int(value)
    return found


def never_falls(series: Series) -> Series:
    return {key: value for key, value in series.items() if key[0].endswith(("_total", "_bucket", "_count"))}


def pool(work: Callable[[int], None]) -> Iterator[int]:
    """Run the work in parallel children, each from its first task on; yield the started tasks."""
    running: list[int] = []

    def wait() -> None:
        _, status = os.waitpid(running.pop(0), 0)
        assert status in {0, signal.SIGKILL}

    for first in range(0, REPORTS, TASKS_PER_CHILD):
        if len(running) == POOL:
            wait()
        running.append(child(partial(work, first)))
        yield first
    while running:
        wait()


def test_a_pool_that_dies_and_is_replaced_counts_every_task_once(
    tmp_path: Path, report: Callable[..., Any], exporter: Exporter
) -> None:
    mine = report()
    mine.sent()  # so that children are forked from a process that has a file itself
    killed = set(range(0, REPORTS, TASKS_PER_CHILD * KILLED))

    def work(first: int) -> None:
        for number in range(first, first + TASKS_PER_CHILD):
            perform(mine, Task(number))
        if first in killed:
            task = Task(first)
            mine.begun(task.id, task)
            os.kill(os.getpid(), signal.SIGKILL)

    before: Series = {}
    memory = 0
    for first in pool(work):
        if first in {REPORTS // 4, REPORTS // 2}:
            # It reads while they write.
            now = never_falls(exporter.series())
            assert [key for key, value in before.items() if now[key] < value] == []
            before, memory = now, exporter.memory()
    series = exporter.series()

    tasks = [Task(number) for number in [*range(REPORTS), *killed]]
    pairs = Counter[tuple[str, ...]]((task.queue, task.name) for task in tasks)
    failed = Counter[tuple[str, ...]]((task.queue, task.name) for task in tasks[:REPORTS] if task.fails)
    assert len({queue for queue, _ in pairs}) == QUEUES
    assert len(pairs) == TASKS
    assert by(series, "celery_task_started_total", "queue", "task") == pairs
    assert by(series, "celery_task_failed_total", "queue", "task") == failed
    assert by(series, "celery_task_succeeded_total").total() == REPORTS - failed.total()
    totals = {"started": len(tasks), "succeeded": REPORTS - failed.total(), "failed": failed.total(), "retried": 0}
    for outcome, total in totals.items():
        assert by(series, f"celery_worker_tasks_{outcome}_total", "program") == {(PROGRAM,): total}
    assert by(series, "celery_task_wait_seconds_count", "queue", "task") == pairs
    assert by(series, "celery_task_run_seconds_count").total() == REPORTS
    assert waits(series) == Counter((task.queue, task.name, task.bucket) for task in tasks)
    assert by(series, "celery_worker_broken_off_total").total() == len(killed)
    assert by(series, "celery_worker_tasks_running").total() == 0
    # A file for each process at once, this one's, and one more where the exporter read the moment it was wanted.
    files = list((tmp_path / "counts").iterdir())
    assert len(files) <= POOL + 2
    assert {path.stat().st_size for path in files} == {SIZE}
    assert exporter.memory("VmHWM") < MEMORY_MAX / 2
    assert exporter.memory() - memory < 10 * 2**20


def waits(series: Series) -> Counter[tuple[str, str, str]]:
    """Return the number of waits of each queue and task in each bucket alone."""
    bounds = [*map(str, BOUNDS), "+Inf"]
    up_to = {bound: by(series, "celery_task_wait_seconds_bucket", "queue", "task", le=bound) for bound in bounds}
    found = Counter[tuple[str, str, str]]()
    for below, bound in zip(["", *bounds], bounds, strict=False):
        for (queue, task), number in up_to[bound].items():
            found[queue, task, bound] = number - (up_to[below][queue, task] if below else 0)
    return +found


def test_tasks_beyond_the_records_are_exported_as_other(
    tmp_path: Path, report: Callable[..., Any], exporter: Exporter
) -> None:
    mine = report()
    for number in range(QUEUES * TASKS):
        task = Task(number)
        task.queue = f"queue-{number // TASKS}"
        task.request.delivery_info["routing_key"] = task.queue
        perform(mine, task)
    series = exporter.series()
    started = by(series, "celery_task_started_total", "queue", "task")
    assert len(started) == RECORDS
    assert started["(other)", "(other)"] == QUEUES * TASKS - (RECORDS - 1)
    assert started.total() == by(series, "celery_worker_tasks_started_total").total() == QUEUES * TASKS
    assert waits(series).total() == QUEUES * TASKS
    assert len(list((tmp_path / "counts").iterdir())) == 1


def test_a_pool_of_threads_counts_every_task_once(tmp_path: Path, report: Callable[..., Any]) -> None:
    """Also the first ones, which start before the file exists."""
    threads, tasks, rounds = 20, 20, 20
    for number in range(rounds):
        mine = report(SUPERVISOR_PROCESS_NAME=f"shop-{number}")
        ready = threading.Barrier(threads)

        def work(first: int, mine: Any = mine, ready: threading.Barrier = ready) -> None:
            ready.wait()
            for task in map(Task, range(first, first + tasks)):
                perform(mine, task)

        running = [threading.Thread(target=work, args=(each * tasks,)) for each in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    found = read_counts(tmp_path / "counts")
    assert len(found) == rounds
    for counts in found.values():
        assert counts.totals["begun"] == counts.totals["done"] + counts.totals["failed"] == threads * tasks
        assert sum(sum(each.waits) for each in counts.tasks.values()) == threads * tasks
        assert sum(sum(each.runs) for each in counts.tasks.values()) == threads * tasks
        assert counts.running == 0
    assert len(list((tmp_path / "counts").iterdir())) == rounds


def test_results_that_a_slow_journal_rejects_are_counted(tmp_path: Path, report: Callable[..., Any]) -> None:
    ends, path = 2000, tmp_path / "journal"
    mine = report(CELERY_FLEET_JOURNAL=str(path))
    arrived: list[dict[str, Any]] = []

    def take(taking: socket.socket) -> bool:
        try:
            fields = dict(line.split("=", 1) for line in taking.recv(65536).decode().splitlines())
        except BlockingIOError:
            return False
        arrived.append(json.loads(fields["MESSAGE"]))
        return True

    def work() -> None:
        for number in range(ends):
            perform(mine, Task(number))

    def ended(pid: int) -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        assert status == 0
        return found == pid

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taking:
        taking.bind(str(path))
        taking.setblocking(False)
        # It takes nothing while the first runs, and all it can while the others do.
        assert os.waitpid(child(work), 0)[1] == 0
        assert counts(tmp_path).untold > 0
        running = {child(work) for _ in range(3)}
        while running:
            take(taking)
            running -= {pid for pid in running if ended(pid)}
        while take(taking):
            pass
    # Nor when it is gone.
    assert os.waitpid(child(work), 0)[1] == 0
    told = 5 * ends
    assert counts(tmp_path).totals["begun"] == told
    assert 0 < len(arrived) < told
    assert counts(tmp_path).untold == told - len(arrived)
    numbers = defaultdict(list)
    for each in arrived:
        numbers[each["source"]].append(each["number"])
    # What was not taken has no number: a gap is what the journal took and dropped.
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


def counts(directory: Path) -> Counts:
    return read_counts(directory / "counts")[PROGRAM, RELEASE]
