"""Measure the costs of monitoring: the exporter and Flower with the same tasks, and reports and events of a worker.

70 queues, 200 names of tasks and 500 names of workers, all simulated; the worker whose throughput is measured is real.
Everything runs on this machine, on loopback. What it finds goes to bench/results/monitoring.json as well.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import report
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import read_counts

from bench import monitoring_parts as parts
from bench.brokers import Subject, options_of
from bench.monitoring_worker import APP, TASK
from bench.on_host.brokers import Process, application, wait_until
from lab.fleet import ROOT

RESULTS = ROOT / "bench" / "results" / "monitoring.json"
MEBI = 2**20
SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)
SCRAPES = 5
#: A host of a fleet of 50.
WORKERS_A_HOST, BUSY_HOST = 10, 20
CONCURRENCY = 2
VARIANTS = ("neither", "reports", "events")


def samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Yield the labels and the value of each series of a metric."""
    for found in SAMPLE.finditer(text):
        if found["name"] == name:
            yield dict(re.findall(r'(\w+)="([^"]*)"', found["labels"] or "")), float(found["value"])


@dataclass(frozen=True)
class Exporter:
    """The costs of an exporter.

    Attributes:
        rate: tasks a second while the processor time was measured.
        processor: seconds of it a second, then.
        memory: bytes resident after all tasks.
        peak: the most that it ever had.
        series: that it tells.
        text: bytes of them.
        sent: bytes that a scrape takes, compressed.
        scrape: seconds, the median.
        tasks: that there were.
        counted: share of them that it counted.
        waited: share whose time in the queue it knows, with the right queue.
    """

    what: str
    rate: float
    processor: float
    memory: int
    peak: int
    series: int
    text: int
    sent: int
    scrape: float
    tasks: int
    counted: float
    waited: float


def scrape(url: str, times: int) -> tuple[parts.Answer, float]:
    """Return the last response, and the median of the seconds."""
    found = [parts.get(url) for _ in range(times)]
    return found[-1], median(each.seconds for each in found)


def series(text: str) -> int:
    return len(SAMPLE.findall(text))


def measure_fleet(what: str, pairs: Sequence[tuple[int, int]], options: argparse.Namespace) -> Exporter:
    """Measure the fleet's exporter on a host whose workers do these tasks."""
    workers = sorted({worker for worker, _ in pairs})
    expected = Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        reports = parts.Reports(directory, workers)

        def feed(numbers: Sequence[int]) -> None:
            for number in numbers:
                worker, task = pairs[number % len(pairs)]
                # As long as one waits behind a backlog that is worked off at the rate.
                reports.report(number, worker, task, number % options.backlog / options.rate)
                expected[f"queue-{task % parts.QUEUES}"] += 1

        for number in range(len(pairs)):
            feed([number])
        with parts.exporter(directory, workers) as process, parts.node_exporter(directory) as url:
            slow = int(options.rate * options.seconds)
            began, before = time.monotonic(), process.processor_seconds()
            for numbers in parts.paced(slow, options.rate, 10):
                feed(numbers)
            processor = (process.processor_seconds() - before) / (time.monotonic() - began)
            feed(range(slow, options.stream - len(pairs)))
            total = expected.total()

            def told() -> Counter[str]:
                text = (directory / "celery.prom").read_text(encoding="utf-8")
                found = Counter[str]()
                for labels, value in samples(text, "celery_task_wait_seconds_count"):
                    found[labels["queue"]] += int(value)
                return found

            wait_until(lambda: told().total() >= total, "the exporter has told of all tasks")
            answer, seconds = scrape(url, SCRAPES)
            started = sum(value for _, value in samples(answer.text, "celery_task_started_total"))
            right = sum(min(number, expected[queue]) for queue, number in told().items())
            return Exporter(
                what,
                options.rate,
                processor,
                process.status("VmRSS"),
                process.status("VmHWM"),
                series(answer.text),
                len(answer.text),
                answer.sent,
                seconds,
                total,
                started / total,
                right / total,
            )


def measure_flower(pairs: Sequence[tuple[int, int]], options: argparse.Namespace) -> Exporter:
    """Measure Flower with the same tasks: some at a rate, then those of a backlog, all sent before one begins."""
    with tempfile.TemporaryDirectory() as temporary, parts.redis_server(Path(temporary)) as port:
        broker = f"redis://127.0.0.1:{port}/0"
        client: Any = importlib.import_module("redis").Redis(port=port)
        with parts.flower(Path(temporary), broker) as (process, url):

            def listening() -> bool:
                return any(int(each["psub"]) + int(each["sub"]) for each in client.client_list(_type="pubsub"))

            wait_until(listening, "Flower listens")
            events = parts.Events(broker)
            events.online(sorted({worker for worker, _ in pairs}))
            # Four events a task.
            slow = int(options.events * options.seconds) // 4
            began, before = time.monotonic(), process.processor_seconds()
            for numbers in parts.paced(slow, options.events / 4, 1):
                events.sent(numbers, pairs)
                events.done(numbers, pairs)
            processor = (process.processor_seconds() - before) / (time.monotonic() - began)
            total = slow + options.backlog
            for send, size in ((events.sent, 20), (events.done, 7)):
                for numbers in parts.paced(options.backlog, options.pace / (1 if send == events.sent else 3), size):
                    send([slow + number for number in numbers], pairs)
            events.close()
            wait_until(lambda: idle(process), "Flower has taken all that it gets")
            memory = process.status("VmRSS")
            answer, seconds = scrape(url, 1)
            started = sum(
                value
                for labels, value in samples(answer.text, "flower_events_total")
                if labels["type"] == "task-started"
            )
            # What it tells of times has no queue; it is there to see, if that changes.
            waited = sum(value for name in named(answer.text, "queue") for _, value in samples(answer.text, name))
            return Exporter(
                "Flower, all workers",
                options.events / 4,
                processor,
                memory,
                process.status("VmHWM"),
                series(answer.text),
                len(answer.text),
                answer.sent,
                seconds,
                total,
                started / total,
                waited / total,
            )


def named(text: str, label: str) -> set[str]:
    """Return the names of metrics of times, whose series have a label."""
    return {
        found["name"]
        for found in SAMPLE.finditer(text)
        if found["name"].endswith("_count") and f'{label}="' in (found["labels"] or "")
    }


def idle(process: Process) -> bool:
    before = process.processor_seconds()
    time.sleep(1)
    return process.processor_seconds() - before < 0.1  # noqa: PLR2004 - a tenth of a processor


@dataclass(frozen=True)
class Round:
    """The result of a round of a worker.

    Attributes:
        rate: tasks a second.
        processor: seconds of it that the worker took for a task.
        lost: ends of tasks that the journal did not take.
    """

    variant: str
    rate: float
    processor: float
    lost: int = 0


def family(parent: int) -> list[Process]:
    """Return a process and its children."""
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    return [Process(parent), *(Process(int(pid)) for pid in found)]


def work(variant: str, tasks: int, port: int) -> Round:
    """Run no-op tasks on a worker."""
    given = options_of(Subject("", "Redis", "redis"))
    url = f"redis://127.0.0.1:{port}/0"
    sender = application(given["settings"], given["queue"], url)
    client: Any = importlib.import_module("redis").Redis(port=port)
    client.flushall()
    for _ in range(tasks):
        sender.send_task(TASK, queue=given["queue"]["name"])
    prefix = given["settings"]["broker_transport_options"]["global_keyprefix"]

    def left() -> int:
        return int(client.llen(prefix + given["queue"]["name"]) + client.hlen(prefix + "unacked"))

    assert left() == tasks  # noqa: S101 - else the names of the keys are others
    with tempfile.TemporaryDirectory() as temporary, parts.journal(Path(temporary, "journal")) as came:
        directory = Path(temporary)
        (directory / "counts").mkdir()
        settings = given["settings"] | {"worker_send_task_events": False, "task_send_sent_event": False}
        environment = {
            "BENCH_OPTIONS": json.dumps({"settings": settings, "queue": given["queue"], "url": url}),
            "C_FORCE_ROOT": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / ".ansible/collections")]),
        }
        if variant == "reports":
            environment |= {
                "CELERY_FLEET_COUNTS": str(directory / "counts"),
                "CELERY_FLEET_JOURNAL": str(directory / "journal"),
                "SUPERVISOR_PROCESS_NAME": parts.program(0),
                "CELERY_APP_RELEASE": parts.RELEASE,
            }
        command = [sys.executable, "-m", "celery", "-A", APP, "worker", f"--concurrency={CONCURRENCY}", "-Ofair"]
        command += [f"--queues={given['queue']['name']}", "--loglevel=WARNING", "--hostname=bench@%h"]
        command += ["--prefetch-multiplier=1", "--without-gossip", "--without-mingle"]
        command += ["--task-events"] if variant == "events" else []
        with parts.running(command, environment, directory / "worker.log") as worker:

            def state() -> tuple[float, float]:
                return time.monotonic(), sum(each.processor_seconds() for each in family(worker.pid))

            wait_quickly(lambda: left() < tasks)
            first = state()
            wait_quickly(lambda: left() == 0)
            last = state()
        told = 0
        if variant == "reports":
            ((_, counts),) = read_counts(directory / "counts").items()
            told = counts.untold
            waits = sum(sum(each.waits) for each in counts.tasks.values())
            if (counts.totals["begun"], counts.totals["done"], waits) != (tasks, tasks, tasks):
                raise RuntimeError(f"{counts.totals} and {waits} waits were counted of {tasks} tasks")
            if came[0] + counts.untold != tasks:
                raise RuntimeError(f"{tasks} ends were told: {came[0]} came, {counts.untold} count as untold")
        return Round(variant, tasks / (last[0] - first[0]), (last[1] - first[1]) / tasks, told)


def wait_quickly(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {seconds} s: the worker's tasks")
        time.sleep(0.005)


def measure_worker(tasks: int, rounds: int) -> list[Round]:
    # So that what is sent has its time.
    report.install()
    found = []
    with tempfile.TemporaryDirectory() as temporary, parts.redis_server(Path(temporary)) as port:
        for number in range(rounds):
            # Whoever comes first is not always the same.
            turn = number % len(VARIANTS)
            for variant in VARIANTS[turn:] + VARIANTS[:turn]:
                found.append(work(variant, tasks, port))
                print(
                    f"round {number + 1}, {variant}: {found[-1].rate:.0f} tasks/s,"
                    f" {found[-1].processor * 1e6:.0f} µs of processor a task",
                    flush=True,
                )
    return found


def microseconds(tasks: int) -> float:
    """Return the microseconds that reporting a task takes, including its result in a journal."""
    with tempfile.TemporaryDirectory() as temporary, parts.journal(Path(temporary, "journal")):
        reports = parts.Reports(Path(temporary), [0], str(Path(temporary, "journal")))
        reports.report(0, 0, 0, 1.0)
        before = time.thread_time()
        for number in range(tasks):
            reports.report(number, 0, 0, 1.0)
        return (time.thread_time() - before) / tasks * 1e6


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def exporters_table(found: Sequence[Exporter]) -> str:
    heads = "|tasks a second|processor|memory after|peak|series|scrape|size|tasks|counted|waits known, by queue"
    return table(
        heads.split("|"),
        [
            (
                each.what,
                f"{each.rate:,.0f}",
                f"{each.processor:.1%}",
                f"{each.memory / MEBI:.0f} MiB",
                f"{each.peak / MEBI:.0f} MiB",
                f"{each.series:,}",
                f"{each.scrape:.3f} s",
                f"{each.text / MEBI:.1f} MiB, {each.sent / MEBI:.2f} sent",
                f"{each.tasks:,}",
                f"{each.counted:.1%}",
                f"{each.waited:.1%}",
            )
            for each in found
        ],
    )


def worker_table(found: Sequence[Round]) -> str:
    """Return the medians; those of ratios are of the ratios of each round, as the machine changes between them."""
    of = {variant: [each for each in found if each.variant == variant] for variant in VARIANTS}
    rows = []
    for variant, mine in of.items():
        both = list(zip(mine, of[VARIANTS[0]], strict=True))
        rows.append(
            (
                variant,
                f"{median(each.rate for each in mine):.0f}",
                f"{median(one.rate / other.rate for one, other in both):.2f}",
                f"{median(each.processor for each in mine) * 1e6:,.0f} µs",
                f"{median(one.processor / other.processor for one, other in both):.2f}",
            )
        )
    return table(("", "tasks a second", "of neither", "processor a task", "of neither"), rows)


def as_data(found: Exporter) -> dict[str, Any]:
    """Return a result for the file of results, with units in its keys."""
    data = asdict(found)
    units = {
        "rate": "tasks_per_second",
        "processor": "processor_seconds_per_second",
        "memory": "memory_bytes",
        "peak": "peak_memory_bytes",
        "text": "text_bytes",
        "sent": "sent_bytes",
        "scrape": "scrape_seconds",
        "counted": "counted_share",
        "waited": "waits_by_queue_share",
    }
    return {units.get(name, name): value for name, value in data.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a backlog of 20,000, a stream of 100,000, one round")
    parser.add_argument("--stream", type=int, default=1_000_000, help="tasks for the exporter (default: 1000000)")
    parser.add_argument("--backlog", type=int, default=300_000, help="tasks that wait (default: 300000)")
    parser.add_argument("--rate", type=float, default=1000, help="tasks a second for the exporter (default: 1000)")
    parser.add_argument("--events", type=float, default=1000, help="events a second for Flower (default: 1000)")
    parser.add_argument("--pace", type=float, default=5000, help="events a second of the backlog (default: 5000)")
    parser.add_argument("--seconds", type=float, default=30, help="that a rate lasts (default: 30)")
    parser.add_argument("--tasks", type=int, default=5000, help="of a worker a round (default: 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind of worker (default: 3)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: bench/results/monitoring.json")
    given = parser.parse_args()
    if given.quick:
        given.stream, given.backlog, given.seconds, given.tasks, given.rounds = 100_000, 20_000, 10, 1000, 1
    return given


def hosts() -> Mapping[str, list[tuple[int, int]]]:
    everyone = range(parts.WORKERS)
    return {
        f"one of 50 hosts, {WORKERS_A_HOST} workers": parts.pairs(everyone[:WORKERS_A_HOST]),
        f"{BUSY_HOST} workers that do all {parts.TASKS} tasks": parts.pairs(everyone[:BUSY_HOST], everything=True),
        f"all {parts.WORKERS} workers on one host": parts.pairs(everyone),
    }


def main() -> None:
    def end(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    # So that what it has started ends with it.
    signal.signal(signal.SIGTERM, end)
    os.chdir(ROOT)
    options = parse()
    parts.prepare()
    found: list[Exporter] = []
    for what, pairs in hosts().items():
        print(f"The fleet's exporter: {what}, {len(pairs)} pairs of a worker and a task", flush=True)
        found.append(measure_fleet(what, pairs, options))
        print(exporters_table(found[-1:]), flush=True)
    print("Flower", flush=True)
    found.append(measure_flower(parts.pairs(range(parts.WORKERS)), options))
    rounds = measure_worker(options.tasks, options.rounds)
    report = microseconds(20_000)
    print(exporters_table(found))
    print(worker_table(rounds))
    print(f"The report of a task takes {report:.0f} µs of its process.")
    data = {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "celery": version("celery"),
        "flower": parts.flower_defaults()["flower_version"],
        "backlog": options.backlog,
        "exporters": [as_data(each) for each in found],
        "workers": [
            {"variant": each.variant, "tasks_per_second": each.rate, "processor_seconds_per_task": each.processor}
            for each in rounds
        ],
        "report_microseconds": report,
    }
    options.results.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
