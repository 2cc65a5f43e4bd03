#!/usr/bin/python3
"""Tells Prometheus what the workers of this host do, by a file that its node exporter reads.

Usage: celery_exporter.py CONFIG. It asks no worker and no broker: the workers count in files (celery_fleet_counts.py),
and the kernel knows the rest. So it goes on telling when the fleet is in trouble, and costs the workers nothing.

Runs as the application's user, whose processes it may look into, by Debian's Python with its prometheus_client.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

# The application's configuration directory, where workers find it too, is on the path.
from celery_fleet_alive import read_alive  # type: ignore[import-not-found]
from celery_fleet_counts import BOUNDS, Counts, Tasks, read_counts  # type: ignore[import-not-found]
from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

HOUR, MINUTE = 3600, 60
#: Queue and task of those beyond the places that a process's counts have.
OTHERS = ("(other)", "(other)")
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
OUTCOMES = {"begun": "started", "done": "succeeded", "failed": "failed", "retried": "retried"}
HELP = {
    "celery_task_started": "Tasks that workers began.",
    "celery_task_succeeded": "Tasks that ended well.",
    "celery_task_failed": "Tasks that ended with an exception.",
    "celery_task_retried": "Tasks that sent themselves again.",
    "celery_task_wait_seconds": "Seconds from when tasks were sent, or due, until they began.",
    "celery_task_run_seconds": "Seconds that tasks ran.",
    "celery_task_wait_seconds_max": "The longest wait of this minute and the last.",
    "celery_task_run_seconds_max": "The longest run of this minute and the last.",
    "celery_queue_last_started_sent_timestamp_seconds": "When the task was sent that began and was sent last.",
    "celery_worker_up": "Whether a process of the worker runs.",
    "celery_worker_consumes": "How many processes of the worker run that consume the queue.",
    "celery_program_sent_timestamp_seconds": "When the program last sent a task.",
    "celery_worker_pool_size": "Tasks that it can run at once.",
    "celery_worker_tasks_running": "Tasks that it runs.",
    "celery_worker_tasks_started": "Tasks that it began.",
    "celery_worker_tasks_succeeded": "Tasks of it that ended well.",
    "celery_worker_tasks_failed": "Tasks of it that ended with an exception.",
    "celery_worker_tasks_retried": "Tasks of it that sent themselves again.",
    "celery_worker_memory_bytes": "Bytes of it that are in memory.",
    "celery_worker_start_time_seconds": "When its process was started. Of two, one hands over to the other.",
    "celery_worker_heartbeat_age_seconds": "Seconds since the event loop of its process last turned.",
    "celery_worker_broken_off": "Tasks that ran when their process was killed.",
    "celery_worker_untold": "Ends of tasks that the journal did not take.",
    "celery_host_drained": "Whether the host is drained, so that no worker is to run.",
    "celery_release_info": "The release that workers of this host start on.",
    "celery_exporter_seconds": "Seconds that it took to find all this.",
}


@dataclass(frozen=True)
class Process:
    """A process of a program.

    Attributes:
        program: as Supervisor names it.
        started: seconds since the epoch.
        memory: bytes that are in memory.
    """

    pid: int
    parent: int
    program: str
    release: str
    started: float
    memory: int


def booted() -> float:
    """Return when the host was started, in seconds since the epoch."""
    lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("btime "))


def processes(counts: Path, proc: Path = Path("/proc")) -> Iterator[Process]:
    """Yield the processes of this user's that count into a directory."""
    boot = booted()
    for path in proc.glob("[0-9]*"):
        try:
            raw = (path / "environ").read_bytes()
            # The name before it may hold anything, also brackets.
            fields = (path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            pages = int((path / "statm").read_text(encoding="utf-8").split()[1])
        except (OSError, IndexError):  # it has ended meanwhile, or is another user's
            continue
        variables = dict(item.partition("=")[::2] for item in raw.decode(errors="replace").split("\0"))
        program = variables.get("SUPERVISOR_PROCESS_NAME")
        if program and variables.get("CELERY_FLEET_COUNTS") == str(counts):
            started = boot + int(fields[19]) / TICKS
            release = variables.get("CELERY_APP_RELEASE", "")
            yield Process(int(path.name), int(fields[1]), program, release, started, pages * PAGE)


@dataclass
class Program:
    """A worker program of this host as it is declared, with all slots that it may be in.

    Attributes:
        pool_size: tasks at once that it is declared for; with prefork what counts is the number of its children.
    """

    name: str
    slots: tuple[str, ...]
    prefork: bool
    pool_size: int
    queues: tuple[str, ...]
    parents: list[Process] = field(default_factory=list)
    children: list[Process] = field(default_factory=list)

    def add(self, found: Iterable[Process]) -> None:
        mine = {process.pid: process for process in found if process.program in self.slots}
        for process in mine.values():
            (self.children if process.parent in mine else self.parents).append(process)


class Families:
    """What Prometheus is told of an application, by name."""

    def __init__(self, app: str) -> None:
        self._found: dict[str, Metric] = {}
        self._app = app

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self._family(GaugeMetricFamily, name, labels).add_metric([self._app, *labels.values()], value)

    def counter(self, name: str, value: float, **labels: str) -> None:
        self._family(CounterMetricFamily, name, labels).add_metric([self._app, *labels.values()], value)

    def histogram(self, name: str, numbers: Iterable[int], total: float, **labels: str) -> None:
        """Add a histogram.

        Args:
            numbers: how many values are up to each of BOUNDS and above the one before, and those above the last.
            total: of all values.
        """
        bounds = [*map(str, BOUNDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(numbers), strict=True))
        self._family(HistogramMetricFamily, name, labels).add_metric([self._app, *labels.values()], buckets, total)

    def _family(self, kind: Any, name: str, labels: Iterable[str]) -> Any:  # noqa: ANN401 - one of three
        if name not in self._found:
            self._found[name] = kind(name, HELP[name], labels=["app", *labels])
        return self._found[name]

    def collect(self) -> Iterable[Metric]:
        return self._found.values()


def tell_tasks(told: Families, counts: Mapping[tuple[str, str], Counts], now: float) -> None:
    """Tell what became of tasks, and how long they waited and ran.

    Args:
        counts: by program and release.
        now: seconds since the epoch.
    """
    # Not by program: a host would have four series more for each pair of a worker and a task.
    together: dict[tuple[str, str, str], Tasks] = {}
    for (_, release), found in counts.items():
        for name, tasks in found.tasks.items():
            queue, task = name if any(name) else OTHERS
            together.setdefault((release, queue, task), Tasks()).update(tasks)
    whole: dict[tuple[str, str], Tasks] = {}
    for (release, queue, task), tasks in together.items():
        labels = {"release": release, "queue": queue, "task": task}
        for kind, outcome in OUTCOMES.items():
            told.counter(f"celery_task_{outcome}", tasks.kinds[kind], **labels)
        told.histogram("celery_task_wait_seconds", tasks.waits, tasks.wait_seconds, **labels)
        told.histogram("celery_task_run_seconds", tasks.runs, tasks.run_seconds, **labels)
        whole.setdefault((queue, task), Tasks()).update(tasks)
    sent: dict[str, float] = {}
    for (queue, task), tasks in whole.items():
        if (queue, task) != OTHERS:
            sent[queue] = max(tasks.latest_sent, sent.get(queue, 0.0))
        recent = [longest for minute, longest in tasks.longest.items() if minute >= now // MINUTE - 1]
        wait, run = (max(values, default=0.0) for values in zip((0.0, 0.0), *recent, strict=True))
        told.gauge("celery_task_wait_seconds_max", wait, queue=queue, task=task)
        told.gauge("celery_task_run_seconds_max", run, queue=queue, task=task)
    for queue, moment in sent.items():
        if moment:
            told.gauge("celery_queue_last_started_sent_timestamp_seconds", moment, queue=queue)


def tell_programs(told: Families, programs: Iterable[Program], counts: Mapping[tuple[str, str], Counts]) -> None:
    """Tell which workers run, how big they are and what they run on."""
    for program in programs:
        name = {"program": program.name}
        # What runs has counters from the start: of the first one to be counted the rise is seen.
        mine = {process.release: Counts() for process in program.parents}
        mine |= {release: found for (worker, release), found in counts.items() if worker == program.name}
        told.gauge("celery_worker_up", bool(program.parents), **name)
        size = len(program.children) if program.prefork else program.pool_size * len(program.parents)
        told.gauge("celery_worker_pool_size", size, **name)
        told.gauge("celery_worker_tasks_running", sum(found.running for found in mine.values()), **name)
        for kind, processes in (("parent", program.parents), ("children", program.children)):
            memory = sum(process.memory for process in processes)
            told.gauge("celery_worker_memory_bytes", memory, **name, process=kind)
        for queue in program.queues:
            told.gauge("celery_worker_consumes", len(program.parents), **name, queue=queue)
        for process in program.parents:
            labels = {**name, "slot": process.program, "release": process.release}
            told.gauge("celery_worker_start_time_seconds", process.started, **labels)
        for release, found in mine.items():
            for kind, outcome in OUTCOMES.items():
                told.counter(f"celery_worker_tasks_{outcome}", found.totals[kind], **name, release=release)
            told.counter("celery_worker_broken_off", found.broken_off, **name, release=release)
            told.counter("celery_worker_untold", found.untold, **name, release=release)


def by_program(
    counts: Mapping[tuple[str, str], Counts], programs: Iterable[Program], now: float
) -> dict[tuple[str, str], Counts]:
    """Return what programs counted on each release, their slots together.

    A release that none of them runs and on which nothing has happened for an hour is gone, or waits to be gone back to:
    it is left out. As a whole: what several have counted must not fall when one of them has been quiet.
    """
    names = {slot: program.name for program in programs for slot in program.slots}
    alive = {process.release for program in programs for process in program.parents}
    alive |= {release for (_, release), each in counts.items() if each.running or each.latest >= now - HOUR}
    found: dict[tuple[str, str], Counts] = {}
    for (slot, release), each in counts.items():
        if release in alive:
            found.setdefault((names.get(slot, slot), release), Counts()).update(each)
    return found


def latest_sent(counts: Mapping[tuple[str, str], Counts]) -> dict[str, float]:
    """Return when each program that has sent a task last did so: workers, and beat, which does nothing else."""
    found: dict[str, float] = {}
    for (program, _), each in counts.items():
        if each.sent:
            found[program] = max(each.sent, found.get(program, 0.0))
    return found


def tell(
    config: Mapping[str, Any],
    found: Iterable[Process],
    counts: Mapping[tuple[str, str], Counts],
    now: float,
) -> Families:
    """Return what Prometheus is told.

    Args:
        config: what this program is given.
        found: processes that count there.
        counts: by slot and release.
        now: seconds since the epoch.
    """
    told, found = Families(config["app"]), list(found)
    programs = [
        Program(item["name"], tuple(item["slots"]), item["prefork"], item["pool_size"], tuple(item["queues"]))
        for item in config["programs"]
    ]
    for program in programs:
        program.add(found)
    together = by_program(counts, programs, now)
    tell_programs(told, programs, together)
    for sender, sent in latest_sent(counts).items():
        told.gauge("celery_program_sent_timestamp_seconds", sent, program=sender)
    tell_tasks(told, together, now)
    for program in programs:
        for process in program.parents:
            if alive := read_alive(Path(config["counts"]), process.program, process.pid):
                age = max(0.0, time.monotonic() - alive.at)
                told.gauge("celery_worker_heartbeat_age_seconds", age, program=program.name, slot=process.program)
    told.gauge("celery_host_drained", Path(config["drained"]).exists())
    current = Path(config["current"])
    if current.is_symlink():
        told.gauge("celery_release_info", 1, release=current.readlink().name)
    return told


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    directory, file = Path(config["counts"]), Path(config["file"])
    while True:
        now = time.time()
        told = tell(config, processes(directory), read_counts(directory, seconds=False), now)
        told.gauge("celery_exporter_seconds", time.time() - now)
        registry = CollectorRegistry()
        registry.register(told)
        write_to_textfile(str(file), registry)
        time.sleep(max(0.0, now + config["interval"] - time.time()))


if __name__ == "__main__":
    main()
