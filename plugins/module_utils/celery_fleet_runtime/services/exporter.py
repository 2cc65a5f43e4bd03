"""Export metrics of this host's workers to a file, which the node exporter's textfile collector reads.

Usage: python3 -m celery_fleet_runtime.services.exporter CONFIG. It queries neither workers nor the broker, but reads
the workers' counts (counts.py), the watchdog's last report about the broker, and /proc. So it works during an outage,
and costs the workers nothing.

Runs as the application's user, whose processes it may inspect, with Debian's Python and its prometheus_client.
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

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from ..alive import Alive, read_alive
from ..counts import BOUNDS, Counts, Tasks, read_counts
from ..refusals import read_refusals

HOUR, MINUTE = 3600, 60
#: An older report of the watchdog about the broker says nothing.
BROKER_SECONDS = 120
#: Queue and task of the tasks beyond the records of a process's counts.
OTHERS = ("(other)", "(other)")
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
OUTCOMES = {"begun": "started", "done": "succeeded", "failed": "failed", "retried": "retried"}
HELP = {
    "celery_task_started": "Tasks that were started.",
    "celery_task_succeeded": "Tasks that succeeded.",
    "celery_task_failed": "Tasks that failed with an exception.",
    "celery_task_retried": "Tasks that were retried.",
    "celery_task_wait_seconds": "Seconds from when tasks were sent, or due, until they were started.",
    "celery_task_run_seconds": "Seconds that tasks ran.",
    "celery_task_wait_seconds_max": "Longest wait in this minute and the one before.",
    "celery_task_run_seconds_max": "Longest run in this minute and the one before.",
    "celery_queue_last_started_sent_timestamp_seconds": "Latest time of sending of a task that was started.",
    "celery_worker_up": "Whether a process of the worker is running.",
    "celery_worker_consumes": "Number of running processes of the worker that consume the queue.",
    "celery_program_sent_timestamp_seconds": "When the program last sent a task.",
    "celery_worker_pool_size": "Concurrency of the worker.",
    "celery_worker_tasks_running": "In-flight tasks of the worker.",
    "celery_worker_tasks_started": "Tasks that the worker started.",
    "celery_worker_tasks_succeeded": "Tasks of the worker that succeeded.",
    "celery_worker_tasks_failed": "Tasks of the worker that failed with an exception.",
    "celery_worker_tasks_retried": "Tasks of the worker that were retried.",
    "celery_worker_memory_bytes": "Resident memory of the worker in bytes.",
    "celery_worker_start_time_seconds": "When the worker's process was started. During a handover there are two.",
    "celery_worker_connected": "Whether the worker's process is connected to its broker.",
    "celery_worker_heartbeat_age_seconds": "Seconds since the event loop of the worker's process last turned.",
    "celery_worker_broken_off": "Tasks that were in flight when their process was killed.",
    "celery_worker_untold": "Task results that the journal did not accept.",
    "celery_worker_messages_refused": "Messages that the worker refused, by the reason.",
    "celery_broker_reachable": "Whether the host can query the broker.",
    "celery_host_drained": "Whether the host is drained.",
    "celery_host_interruption_notice": "Whether the host drains before its instance is interrupted, by the notice.",
    "celery_host_interruption_timestamp_seconds": "When the host's instance ends, if its notices have that time.",
    "celery_release_info": "The release that workers of this host are started on.",
    "celery_exporter_seconds": "Seconds that collecting the metrics took.",
}


@dataclass(frozen=True)
class Process:
    """A process of a program.

    Attributes:
        program: its name in Supervisor.
        started: when it was started, in seconds since the epoch.
        memory: resident memory in bytes.
    """

    pid: int
    parent: int
    program: str
    release: str
    started: float
    memory: int


def booted() -> float:
    """Return the boot time of the host, in seconds since the epoch."""
    lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("btime "))


def processes(counts: Path, proc: Path = Path("/proc")) -> Iterator[Process]:
    """Yield the user's processes that write their counts to a directory."""
    boot = booted()
    for path in proc.glob("[0-9]*"):
        try:
            raw = (path / "environ").read_bytes()
            # The name before it may contain any character, also brackets.
            fields = (path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            pages = int((path / "statm").read_text(encoding="utf-8").split()[1])
        except (OSError, IndexError):  # it has exited, or belongs to another user
            continue
        variables = dict(item.partition("=")[::2] for item in raw.decode(errors="replace").split("\0"))
        program = variables.get("SUPERVISOR_PROCESS_NAME")
        if program and variables.get("CELERY_FLEET_COUNTS") == str(counts):
            started = boot + int(fields[19]) / TICKS
            release = variables.get("CELERY_APP_RELEASE", "")
            yield Process(int(path.name), int(fields[1]), program, release, started, pages * PAGE)


@dataclass
class Program:
    """A worker of this host, with its slots and their processes.

    Attributes:
        pool_size: its declared concurrency. For prefork, the number of children is exported instead.
    """

    name: str
    slots: tuple[str, ...]
    prefork: bool
    pool_size: int
    queues: tuple[str, ...]
    parents: list[Process] = field(default_factory=list)
    children: list[Process] = field(default_factory=list)
    #: The last heartbeat of each of its processes that has written one, by slot.
    heartbeats: dict[str, Alive] = field(default_factory=dict)

    def add(self, running: Iterable[Process]) -> None:
        """Add the processes of its slots, of all running ones."""
        mine = {process.pid: process for process in running if process.program in self.slots}
        for process in mine.values():
            (self.children if process.parent in mine else self.parents).append(process)

    def read_heartbeats(self, counts: Path) -> None:
        """Read the heartbeats of its processes from the directory of counts."""
        for process in self.parents:
            if alive := read_alive(counts, process.program, process.pid):
                self.heartbeats[process.program] = alive

    @property
    def consumers(self) -> int:
        """Return the number of its processes that are not known to have lost their broker."""
        return len(self.parents) - sum(not alive.connected for alive in self.heartbeats.values())


class Families:
    """The metric families of an application, by name."""

    def __init__(self, app: str) -> None:
        self._families: dict[str, Metric] = {}
        self._app = app

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self._family(GaugeMetricFamily, name, labels).add_metric([self._app, *labels.values()], value)

    def counter(self, name: str, value: float, **labels: str) -> None:
        self._family(CounterMetricFamily, name, labels).add_metric([self._app, *labels.values()], value)

    def histogram(self, name: str, counts: Iterable[int], total: float, **labels: str) -> None:
        """Add a histogram.

        Args:
            counts: number of values between each two of BOUNDS, and above the last one.
            total: sum of all values.
        """
        bounds = [*map(str, BOUNDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(counts), strict=True))
        self._family(HistogramMetricFamily, name, labels).add_metric([self._app, *labels.values()], buckets, total)

    def _family(self, kind: Any, name: str, labels: Iterable[str]) -> Any:  # noqa: ANN401 - one of three types
        if name not in self._families:
            self._families[name] = kind(name, HELP[name], labels=["app", *labels])
        return self._families[name]

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


def add_tasks(families: Families, counts: Mapping[tuple[str, str], Counts], now: float) -> None:
    """Add the metrics of tasks: outcomes, waits and runs.

    Args:
        counts: by program and release.
        now: seconds since the epoch.
    """
    # Without the program, which would add four series for each pair of a worker and a task.
    by_release: dict[tuple[str, str, str], Tasks] = {}
    for (_, release), each in counts.items():
        for name, tasks in each.tasks.items():
            queue, task = name if any(name) else OTHERS
            by_release.setdefault((release, queue, task), Tasks()).update(tasks)
    total: dict[tuple[str, str], Tasks] = {}
    for (release, queue, task), tasks in by_release.items():
        labels = {"release": release, "queue": queue, "task": task}
        for kind, outcome in OUTCOMES.items():
            families.counter(f"celery_task_{outcome}", tasks.kinds[kind], **labels)
        families.histogram("celery_task_wait_seconds", tasks.waits, tasks.wait_seconds, **labels)
        families.histogram("celery_task_run_seconds", tasks.runs, tasks.run_seconds, **labels)
        total.setdefault((queue, task), Tasks()).update(tasks)
    sent: dict[str, float] = {}
    for (queue, task), tasks in total.items():
        if (queue, task) != OTHERS:
            sent[queue] = max(tasks.latest_sent, sent.get(queue, 0.0))
        recent = [longest for minute, longest in tasks.longest.items() if minute >= now // MINUTE - 1]
        wait, run = (max(values, default=0.0) for values in zip((0.0, 0.0), *recent, strict=True))
        families.gauge("celery_task_wait_seconds_max", wait, queue=queue, task=task)
        families.gauge("celery_task_run_seconds_max", run, queue=queue, task=task)
    for queue, moment in sent.items():
        if moment:
            families.gauge("celery_queue_last_started_sent_timestamp_seconds", moment, queue=queue)


def add_programs(families: Families, programs: Iterable[Program], counts: Mapping[tuple[str, str], Counts]) -> None:
    """Add the metrics of workers: processes, concurrency, memory, release and tasks."""
    for program in programs:
        name = {"program": program.name}
        # Counters begin at 0 with the process, so that increase() includes the first task.
        mine = {process.release: Counts() for process in program.parents}
        mine |= {release: each for (worker, release), each in counts.items() if worker == program.name}
        families.gauge("celery_worker_up", bool(program.parents), **name)
        size = len(program.children) if program.prefork else program.pool_size * len(program.parents)
        families.gauge("celery_worker_pool_size", size, **name)
        families.gauge("celery_worker_tasks_running", sum(each.running for each in mine.values()), **name)
        for kind, processes in (("parent", program.parents), ("children", program.children)):
            memory = sum(process.memory for process in processes)
            families.gauge("celery_worker_memory_bytes", memory, **name, process=kind)
        for queue in program.queues:
            families.gauge("celery_worker_consumes", program.consumers, **name, queue=queue)
        for process in program.parents:
            labels = {**name, "slot": process.program, "release": process.release}
            families.gauge("celery_worker_start_time_seconds", process.started, **labels)
        for release, each in mine.items():
            for kind, outcome in OUTCOMES.items():
                families.counter(f"celery_worker_tasks_{outcome}", each.totals[kind], **name, release=release)
            families.counter("celery_worker_broken_off", each.broken_off, **name, release=release)
            families.counter("celery_worker_untold", each.untold, **name, release=release)


def by_program(
    counts: Mapping[tuple[str, str], Counts], programs: Iterable[Program], now: float
) -> dict[tuple[str, str], Counts]:
    """Return the counts of each program and release, with the slots of a worker added up.

    A release that no program runs, and on which nothing was counted for an hour, is left out. This is decided for all
    programs together, as a sum over programs must not fall when one of them is idle.
    """
    names = {slot: program.name for program in programs for slot in program.slots}
    alive = {process.release for program in programs for process in program.parents}
    alive |= {release for (_, release), each in counts.items() if each.running or each.latest >= now - HOUR}
    total: dict[tuple[str, str], Counts] = {}
    for (slot, release), each in counts.items():
        if release in alive:
            total.setdefault((names.get(slot, slot), release), Counts()).update(each)
    return total


def latest_sent(counts: Mapping[tuple[str, str], Counts]) -> dict[str, float]:
    """Return when each program, including beat, last sent a task. Programs that sent none are left out."""
    times: dict[str, float] = {}
    for (program, _), each in counts.items():
        if each.sent:
            times[program] = max(each.sent, times.get(program, 0.0))
    return times


def broker_reachable(file: Path, now: float) -> bool | None:
    """Return whether the host reaches the broker, by the watchdog's last report; None if it is old or missing."""
    try:
        if now - file.stat().st_mtime > BROKER_SECONDS:
            return None
        return file.read_text(encoding="utf-8") == "1"
    except OSError:
        return None


def metrics(
    config: Mapping[str, Any],
    running: Iterable[Process],
    counts: Mapping[tuple[str, str], Counts],
    now: float,
) -> Families:
    """Return all metrics.

    Args:
        config: this program's configuration, with the plan's programs.
        running: processes that write their counts.
        counts: by slot and release.
        now: seconds since the epoch.
    """
    families, running = Families(config["app"]), list(running)
    programs = [
        Program(
            item["name"],
            tuple(slot["name"] for slot in item["slots"]),
            item["pool"] == "prefork",
            item["concurrency"],
            tuple(item["queues"]),
        )
        for item in config["programs"]
    ]
    for program in programs:
        program.add(running)
        program.read_heartbeats(Path(config["counts"]))
    summed = by_program(counts, programs, now)
    add_programs(families, programs, summed)
    for sender, sent in latest_sent(counts).items():
        families.gauge("celery_program_sent_timestamp_seconds", sent, program=sender)
    add_tasks(families, summed, now)
    for program in programs:
        for slot, alive in program.heartbeats.items():
            labels = {"program": program.name, "slot": slot}
            families.gauge("celery_worker_heartbeat_age_seconds", alive.age, **labels)
            families.gauge("celery_worker_connected", alive.connected, **labels)
        for slot in program.slots:
            for reason, number in read_refusals(Path(config["counts"]), slot).items():
                labels = {"program": program.name, "slot": slot, "reason": reason}
                families.counter("celery_worker_messages_refused", number, **labels)
    if (reachable := broker_reachable(Path(config["broker_file"]), now)) is not None:
        families.gauge("celery_broker_reachable", reachable)
    families.gauge("celery_host_drained", Path(config["drained"]).exists())
    add_interruption(families, Path(config["notice_file"]))
    current = Path(config["current"])
    if current.is_symlink():
        families.gauge("celery_release_info", 1, release=current.readlink().name)
    return families


def add_interruption(families: Families, file: Path) -> None:
    """Add the notices that the service of interruption notices answered; none if it is not installed."""
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        kinds, end = {kind for kind, _ in state["notices"]}, float(state["end"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    for kind in sorted(kinds):
        families.gauge("celery_host_interruption_notice", 1, kind=kind)
    if end:
        families.gauge("celery_host_interruption_timestamp_seconds", end)


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    directory, file = Path(config["counts"]), Path(config["file"])
    while True:
        now = time.time()
        families = metrics(config, processes(directory), read_counts(directory, seconds=False), now)
        families.gauge("celery_exporter_seconds", time.time() - now)
        registry = CollectorRegistry()
        registry.register(families)
        write_to_textfile(str(file), registry)
        time.sleep(max(0.0, now + config["interval"] - time.time()))


if __name__ == "__main__":
    main()
