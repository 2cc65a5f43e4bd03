"""The services of bench/monitoring.py, on loopback alone, and the stream of tasks for each.

Redis, node exporter and the exporter's libraries are Debian's, fetched into .cache and installed nowhere. Flower has an
environment of its own there.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.report import Report
from celery import Celery
from celery.app.task import Context
from celery.events import Event, get_exchange

from bench.on_host.brokers import Process, wait_until
from lab.fleet import ROOT

CACHE = ROOT / ".cache" / "bench" / "monitoring"
PACKAGES = (
    "libjemalloc2",
    "liblzf1",
    "prometheus-node-exporter",
    "python3-decorator",
    "python3-prometheus-client",
    "redis-server",
    "redis-tools",
)
DEBIANS_PYTHON = "/usr/bin/python3"
QUEUES, TASKS, WORKERS = 70, 200, 500
APP, RELEASE = "shop", "1.0.0"
INTERVAL = 5
#: Events that a worker sends of a task, beside the one of its sender.
WORKER_EVENTS = ("task-received", "task-started", "task-succeeded")
END_SECONDS = 20


def prepare() -> None:
    """Download missing packages."""
    root = CACHE / "root"
    if not root.is_dir():
        new = CACHE / "new"
        new.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "--quiet=2", "download", *PACKAGES], cwd=new, check=True)  # noqa: S607
        for package in new.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(new / "root")], check=True)  # noqa: S607
        (new / "root").rename(root)
        shutil.rmtree(new)
    if not (CACHE / "flower").is_dir():
        subprocess.run([sys.executable, "-m", "venv", str(CACHE / "new-flower")], check=True)
        wanted = [f"flower=={flower_defaults()['flower_version']}", "celery[redis]"]
        subprocess.run([str(CACHE / "new-flower/bin/python"), "-m", "pip", "install", "--quiet", *wanted], check=True)
        (CACHE / "new-flower").rename(CACHE / "flower")


def flower_defaults() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "roles/flower/defaults/main.yml").read_text(encoding="utf-8"))
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[Process]:
    """Run a program during the block."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    try:
        yield Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def debians(name: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of one of Debian's programs."""
    return [str(CACHE / "root/usr/bin" / name)], {"LD_LIBRARY_PATH": str(CACHE / "root/usr/lib/x86_64-linux-gnu")}


@dataclass(frozen=True)
class Answer:
    seconds: float
    text: str
    sent: int


def get(url: str, timeout: float = 300) -> Answer:
    """Get a compressed page, as Prometheus does."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})  # noqa: S310 - http, on loopback
    started = time.monotonic()
    with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
        raw = answer.read()
    seconds = time.monotonic() - started
    text = gzip.decompress(raw) if answer.headers.get("Content-Encoding") == "gzip" else raw
    return Answer(seconds, text.decode(), len(raw))


def answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(get(url))
    return False


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """Run Redis, and yield its port."""
    port = free_port()
    command, environment = debians("redis-server")
    command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "", "--appendonly", "no"]
    with running(command, environment, directory / "redis.log"):
        redis = importlib.import_module("redis")
        client = redis.Redis(port=port)

        def ready() -> bool:
            with contextlib.suppress(redis.ConnectionError):
                return bool(client.ping())
            return False

        wait_until(ready, "Redis answers")
        yield port


@contextlib.contextmanager
def node_exporter(directory: Path) -> Iterator[str]:
    """Serve the files of a directory, and yield the URL."""
    port = free_port()
    command, environment = debians("prometheus-node-exporter")
    # As the role has it.
    environment["GOGC"] = "200"
    command += ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={directory}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--web.disable-exporter-metrics"]
    url = f"http://127.0.0.1:{port}/metrics"
    with running(command, environment, directory / "node_exporter.log"):
        wait_until(lambda: answers(url), "node exporter answers")
        yield url


@contextlib.contextmanager
def exporter(directory: Path, workers: Sequence[int]) -> Iterator[Process]:
    """Run the fleet's exporter with Debian's Python, for programs that count in a directory."""
    programs = [
        {
            "name": name,
            "slots": [{"name": name}],
            "pool": "solo",
            "concurrency": 1,
            "queues": [f"queue-{worker % QUEUES}"],
        }
        for worker, name in ((worker, program(worker)) for worker in workers)
    ]
    config = {
        "app": APP,
        "counts": str(directory / "counts"),
        "current": str(directory / "current"),
        "drained": str(directory / "drained"),
        "file": str(directory / "celery.prom"),
        "interval": INTERVAL,
        "programs": programs,
    }
    (directory / "exporter.json").write_text(json.dumps(config), encoding="utf-8")
    path = os.pathsep.join([str(ROOT / "plugins/module_utils"), str(CACHE / "root/usr/lib/python3/dist-packages")])
    command = [DEBIANS_PYTHON, "-Bm", "celery_fleet_runtime.services.exporter"]
    with running(
        [*command, str(directory / "exporter.json")], {"PYTHONPATH": path}, directory / "exporter.log"
    ) as found:
        wait_until((directory / "celery.prom").exists, "the exporter has written its file")
        yield found


@contextlib.contextmanager
def flower(directory: Path, broker: str) -> Iterator[tuple[Process, str]]:
    """Run Flower with the fleet's settings, and yield it and the URL of its metrics."""
    given, port = flower_defaults(), free_port()
    command = [str(CACHE / "flower/bin/python"), "-m", "celery", f"--broker={broker}", "flower"]
    command += [f"--port={port}", "--address=127.0.0.1"]
    command += [f"--{name}={given[f'flower_{name}']}" for name in ("max_tasks", "max_workers", "purge_offline_workers")]
    url = f"http://127.0.0.1:{port}/metrics"
    with running(command, {}, directory / "flower.log") as found:
        wait_until(lambda: answers(url), "Flower answers")
        yield found, url


def program(worker: int) -> str:
    return f"{APP}-{worker}"


def pairs(workers: Sequence[int], *, everything: bool = False) -> list[tuple[int, int]]:
    """Return the pairs of workers and tasks: each worker has the tasks of its queue, or all.

    The same task comes to one worker after the other.
    """
    return [
        (worker, task) for task in range(TASKS) for worker in workers if everything or task % QUEUES == worker % QUEUES
    ]


class Task:
    """A task in its worker, with the seconds that it has waited."""

    def __init__(self, number: int, task: int, wait: float) -> None:
        self.id, self.name = str(number), f"app.task_{task}"
        delivery = {"routing_key": f"queue-{task % QUEUES}"}
        self.request = Context({"id": self.id, "sent_at": time.time() - wait, "delivery_info": delivery})


class Reports:
    """The reports of workers, which Celery's signals trigger."""

    def __init__(self, directory: Path, workers: Sequence[int], journal: str = "") -> None:
        (directory / "counts").mkdir(exist_ok=True)
        environment = {
            "CELERY_FLEET_COUNTS": str(directory / "counts"),
            "CELERY_FLEET_JOURNAL": journal,
            "CELERY_APP_RELEASE": RELEASE,
        }
        self._of = {worker: Report({**environment, "SUPERVISOR_PROCESS_NAME": program(worker)}) for worker in workers}

    def report(self, number: int, worker: int, task: int, wait: float) -> None:
        """Report a task that was started and has succeeded."""
        one, report = Task(number, task, wait), self._of[worker]
        report.begun(one.id, one)
        report.became("done", one.id, one.name, one.request)
        report.ended(one.id, "SUCCESS")


class Events:
    """The events of tasks, as workers with `--task-events` and senders with `task_send_sent_event` send them."""

    def __init__(self, url: str) -> None:
        app = Celery(broker=url, set_as_current=False)
        self._connection = app.connection_for_write()
        exchange = get_exchange(self._connection)
        self._producer = app.amqp.Producer(self._connection.channel(), exchange=exchange, serializer="json")

    def close(self) -> None:
        self._connection.close()

    def online(self, workers: Sequence[int]) -> None:
        about = {"freq": 86400, "sw_ident": "py-celery", "sw_ver": "5.7.0", "sw_sys": "Linux", "active": 0}
        for worker in workers:
            self._send("worker.online", [self._event("worker-online", worker, **about, processed=0, loadavg=[0, 0, 0])])

    def sent(self, numbers: Sequence[int], pair: Sequence[tuple[int, int]]) -> int:
        """Send the events of senders; return their number."""
        events = []
        for number in numbers:
            worker, task = pair[number % len(pair)]
            queue = f"queue-{task % QUEUES}"
            events.append(self._event("task-sent", worker, **self._about(number, task), queue=queue, routing_key=queue))
        self._send("task.multi", events)
        return len(events)

    def done(self, numbers: Sequence[int], pair: Sequence[tuple[int, int]]) -> int:
        """Send the events of workers that run these tasks; return their number."""
        events = []
        for number in numbers:
            worker, task = pair[number % len(pair)]
            about = self._about(number, task)
            for kind in WORKER_EVENTS:
                more = {"runtime": 0.01, "result": "None"} if kind == "task-succeeded" else {}
                events.append(self._event(kind, worker, **about, **more))
        self._send("task.multi", events)
        return len(events)

    @staticmethod
    def _about(number: int, task: int) -> dict[str, Any]:
        return {"uuid": f"task-{number}", "name": f"app.task_{task}", "args": "()", "kwargs": "{}", "retries": 0}

    @staticmethod
    def _event(kind: str, worker: int, **fields: object) -> dict[str, Any]:
        event: dict[str, Any] = Event(kind, hostname=f"{program(worker)}@host", pid=1, clock=0, utcoffset=0, **fields)
        return event

    def _send(self, key: str, events: list[dict[str, Any]]) -> None:
        given = {"hostname": "bench"}
        body = events if key == "task.multi" else events[0]
        self._producer.publish(body, routing_key=key, headers=given, delivery_mode=1)


@contextlib.contextmanager
def journal(path: Path) -> Iterator[list[int]]:
    """Receive the entries of the journal, and yield a list with their number."""
    came = [0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taking:
        taking.bind(str(path))

        def take() -> None:
            while taking.recv(65536) != b"end":
                came[0] += 1

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield came
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"end", str(path))
            thread.join(END_SECONDS)


def paced(total: int, rate: float, size: int) -> Iterator[range]:
    """Yield the numbers up to a total, in steps and at a rate per second; 0: as fast as possible."""
    started = time.monotonic()
    for first in range(0, total, size):
        if rate and (early := started + first / rate - time.monotonic()) > 0:
            time.sleep(early)
        yield range(first, min(first + size, total))
