"""The hosts of the benchmarks of brokers, with all of Debian's brokers."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from ansible_collections.fleet.celery.plugins.module_utils._brokers import BROKERS, Demand
from ansible_collections.fleet.celery.plugins.module_utils._declaration import BrokerOptions, Queue
from ansible_collections.fleet.celery.plugins.module_utils._settings import celery_settings

from lab.fleet import LAB, become_options, play

INVENTORY = Path("bench/inventory")
NETWORK = "fleet-bench"
APP, QUEUE = "shop", "customers"


@dataclass(frozen=True)
class Subject:
    """A broker that is measured.

    Attributes:
        program: of Redis or its kin, what starts the server.
        queue_type: as RabbitMQ calls it.
    """

    host: str
    name: str
    kind: str
    program: str = ""
    queue_type: str = "list"


SUBJECTS = (
    Subject("debian12", "Redis", "redis", "redis-server"),
    Subject("debian13", "Redis", "redis", "redis-server"),
    Subject("debian13", "Valkey", "redis", "valkey-server"),
    Subject("debian12", "RabbitMQ", "rabbitmq", queue_type="classic"),
    Subject("debian12", "RabbitMQ", "rabbitmq", queue_type="quorum"),
    Subject("debian13", "RabbitMQ", "rabbitmq", queue_type="classic"),
    Subject("debian13", "RabbitMQ", "rabbitmq", queue_type="quorum"),
)


def options_of(subject: Subject) -> dict[str, Any]:
    """Return the options with which a program on the host runs a broker as a fleet does."""
    broker = {"kind": subject.kind, "key_prefix": f"{APP}:", "visibility_timeout": 3600}
    settings = celery_settings(broker=broker, app_name=APP, default_queue=QUEUE)
    # A transient queue is what the fleet declares as a classic one; this one is to last.
    declared = Queue(QUEUE)
    queue = BROKERS[subject.kind].queue(Demand(APP, (declared,), 0, BrokerOptions()), declared)
    if subject.queue_type == "classic":
        queue = replace(queue, type="classic", arguments={})
    return {
        "kind": subject.kind,
        "program": subject.program,
        "settings": {name: setting.value for name, setting in settings.items()},
        "queue": asdict(queue),
    }


@dataclass
class Hosts:
    """Booted hosts, and the programs on them."""

    running: set[subprocess.Popen[str]] = field(default_factory=set)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, host: str, program: str, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Run a program of bench/on_host, and yield each line of its output.

        Raises:
            RuntimeError: it failed.
        """
        command = [
            "sudo",
            "-n",
            "env",
            "--chdir=/opt/bench/src",
            "/opt/bench/bin/python",
            "-m",
            f"bench.on_host.{program}",
        ]
        ssh = ["ssh", "-F", str(LAB / NETWORK / "ssh" / "config"), "-o", "BatchMode=yes", host, shlex.join(command)]
        if self.stopped.is_set():
            return
        with subprocess.Popen(ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            self.running.add(process)
            assert process.stdin and process.stdout  # noqa: S101 - they are pipes
            process.stdin.write(json.dumps(options))
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
            self.running.discard(process)
            if process.wait() != 0:
                raise RuntimeError(f"the program failed on {host}; what it said is above")

    def stop(self) -> None:
        """Stop all programs, and start no more."""
        self.stopped.set()
        for process in list(self.running):
            process.terminate()


@contextmanager
def bench_hosts() -> Iterator[Hosts]:
    """Boot the hosts, and remove them at the end, also after an error or a signal."""

    def end(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    become = become_options()
    try:
        print("Booting two hosts", flush=True)
        play(INVENTORY, "lab/create.yml", become)
        print("Installing Debian's brokers and Celery on them", flush=True)
        play(INVENTORY, "bench/brokers.yml", ["-e", f"bench_celery={version('celery')}"])
        yield Hosts()
    finally:
        print("Removing the hosts", flush=True)
        play(INVENTORY, "lab/destroy.yml", become)
