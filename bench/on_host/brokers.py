"""Debian's brokers on a host of the benchmarks, one at a time and empty, and Celery's messages for them."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from unittest import mock

import amqp
from celery import Celery
from kombu.entity import Exchange, Queue

BATCH = 500
TIMEOUT_SECONDS = 300
# A broker is at rest once its memory, for so many seconds, moved no more than this and its processor was idle.
CALM_SECONDS = 3
CALM_SHARE = 0.005
CALM_PROCESSOR = 0.1

REDIS_PORT = 6399
RABBITMQ_DATA = Path("/var/lib/rabbitmq/mnesia")


class Template:
    """A published message, to be copied with other ids."""

    def __init__(self, published: bytes, ids: list[str]) -> None:
        """Split the message at its ids.

        Args:
            published: the message.
            ids: the ids in it. Those that are the same will be the same in each copy.

        Raises:
            ValueError: an id is not in it, or not of the length that new ones have.
        """
        for found in ids:
            if len(found) != len(str(uuid.uuid4())) or found.encode() not in published:
                raise ValueError(f"{found} is no id of the message {published!r}")
        self._published = published
        self._ids = [found.encode() for found in dict.fromkeys(ids)]

    def copy(self) -> bytes:
        """Return a copy of the message with new ids."""
        message = self._published
        for known in self._ids:
            message = message.replace(known, str(uuid.uuid4()).encode())
        return message


def redis_template(envelope: bytes) -> Template:
    """Return a template of kombu's JSON message in a list of Redis, with the task's id three times."""
    message = json.loads(envelope)
    return Template(envelope, [message["headers"]["id"], message["properties"]["delivery_tag"]])


@dataclass(frozen=True)
class AmqpTemplate:
    """A message for RabbitMQ: a body, and properties with the task's id."""

    body: bytes
    properties: Template

    def copy(self) -> Ready:
        return Ready(self.body, self.properties.copy())


class Ready(amqp.Message):  # type: ignore[misc] # py-amqp has no types
    """A message with encoded properties. Encoding takes most of py-amqp's time."""

    def __init__(self, body: bytes, encoded: bytes) -> None:
        super().__init__(body)
        self.encoded = encoded

    def _serialize_properties(self) -> bytes:
        return self.encoded


def amqp_template(message: amqp.Message) -> AmqpTemplate:
    """Return a template of Celery's message for py-amqp."""
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    # As py-amqp does for text when it sends it.
    message.properties.setdefault("content_encoding", "utf-8")
    properties = message._serialize_properties()
    return AmqpTemplate(body, Template(properties, [message.properties["application_headers"]["id"]]))


def application(settings: dict[str, Any], queue: dict[str, Any], url: str) -> Celery:
    """Return a Celery application with the settings that the fleet's hosts get."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(settings)
    app.conf.update(
        broker_url=url,
        task_queues=[
            Queue(  # type: ignore[no-untyped-call]
                queue["name"],
                Exchange(queue["exchange"], type=queue["exchange_type"]),  # type: ignore[no-untyped-call]
                routing_key=queue["routing_key"],
                durable=queue["durable"],
                queue_arguments=queue["arguments"],
            )
        ],
    )
    return app


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {TIMEOUT_SECONDS} s: {what}")
        time.sleep(0.2)


@dataclass(frozen=True)
class Process:
    """A running process, from /proc."""

    pid: int

    def status(self, name: str) -> int:
        """Return one of the sizes of its memory, in bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

    def processor_seconds(self) -> float:
        """Return its CPU time in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self) -> None:
        """Reset the peak of its memory."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="utf-8")

    def wait_until_calm(self) -> None:
        """Wait until it is idle, and its memory is stable."""
        calm = 0
        resident, processor = self.status("VmRSS"), self.processor_seconds()
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while calm < CALM_SECONDS:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the broker's memory has not settled after {TIMEOUT_SECONDS} s")
            time.sleep(1)
            resident_now, processor_now = self.status("VmRSS"), self.processor_seconds()
            still = abs(resident_now - resident) <= CALM_SHARE * resident
            calm = calm + 1 if still and processor_now - processor <= CALM_PROCESSOR else 0
            resident, processor = resident_now, processor_now


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def disk(directory: Path) -> int:
    """Return the bytes on disk below a directory."""
    return int(run("du", "--summarize", "--block-size=1", str(directory)).split()[0])


T = TypeVar("T")


class Broker(Protocol[T]):
    """A running broker, which was started empty."""

    process: Process
    data: Path
    version: str
    url: str

    def memory(self) -> int:
        """Return the bytes that the broker itself counts as its own."""

    def declare(self, _app: Celery, /) -> None:
        """Declare the queue."""

    def samples(self, publish: Callable[[], None]) -> list[T]:
        """Return a template of each message that is published."""

    def fill(self, templates: list[T], tasks: int) -> Iterator[int]:
        """Fill the queue, and print the number of messages at intervals."""

    def count(self) -> int:
        """Return the number of messages in the queue."""

    def size(self, template: T) -> int:
        """Return the bytes of a message."""

    def compact(self) -> bool:
        """Rewrite the broker's log, as it does by itself later; return False if it has none."""


class Redis:
    """Redis or Valkey, without automatic rewrites of its append-only file."""

    def __init__(self, options: dict[str, Any], process: Process, data: Path) -> None:
        # Only the hosts have it.
        redis = importlib.import_module("redis")
        self.process, self.data = process, data
        self.url = f"redis://127.0.0.1:{REDIS_PORT}/0"
        prefix = options["settings"]["broker_transport_options"]["global_keyprefix"]
        self.key = prefix + options["queue"]["name"]
        self.client = redis.Redis(port=REDIS_PORT)

        def answers() -> bool:
            with contextlib.suppress(redis.ConnectionError):
                return bool(self.client.ping())
            return False

        wait_until(answers, "Redis answers")
        about = self.client.info("server")
        self.version = str(about.get("valkey_version", about["redis_version"]))

    def memory(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def declare(self, _app: Celery) -> None:
        """Do nothing, as Redis creates a list with its first entry."""

    def samples(self, publish: Callable[[], None]) -> list[Template]:
        publish()
        envelopes = self.client.lrange(self.key, 0, -1)
        self.client.delete(self.key)
        return [redis_template(envelope) for envelope in envelopes]

    def fill(self, templates: list[Template], tasks: int) -> Iterator[int]:
        source = itertools.cycle(templates)
        for start in range(0, tasks, BATCH):
            batch = min(BATCH, tasks - start)
            with self.client.pipeline(transaction=False) as pipeline:
                for template in itertools.islice(source, batch):
                    pipeline.lpush(self.key, template.copy())
                pipeline.execute()
            yield start + batch
        # What this connection holds in the server is no part of a message.
        self.client.close()

    def count(self) -> int:
        return int(self.client.llen(self.key))

    def size(self, template: Template) -> int:
        return len(template.copy())

    def compact(self) -> bool:
        self.client.bgrewriteaof()

        def done() -> bool:
            found = self.client.info("persistence")
            return not (found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"])

        wait_until(done, "Redis has rewritten its append-only file")
        if self.client.info("persistence")["aof_last_bgrewrite_status"] != "ok":
            raise RuntimeError("Redis could not rewrite its append-only file")
        return True


@contextlib.contextmanager
def redis_server(options: dict[str, Any]) -> Iterator[Redis]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        command = [options["program"], "--port", str(REDIS_PORT), "--bind", "127.0.0.1", "--dir", directory]
        command += ["--appendonly", "yes", "--save", "", "--auto-aof-rewrite-percentage", "0", "--logfile", "log"]
        with subprocess.Popen(command) as server:
            try:
                yield Redis(options, Process(server.pid), Path(directory))
            finally:
                server.kill()


class RabbitMQ:
    """RabbitMQ with one queue, classic or quorum."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.process = Process(int(self._evaluate("os:getpid()").strip('"')))
        self.data = RABBITMQ_DATA
        self.version = run("rabbitmqctl", "--quiet", "version")
        self.url = "amqp://guest:guest@127.0.0.1:5672//"
        self.queue: str = options["queue"]["name"]

    def _evaluate(self, expression: str) -> str:
        return run("rabbitmqctl", "--quiet", "eval", expression + ".")

    def memory(self) -> int:
        return int(self._evaluate("erlang:memory(total)"))

    def declare(self, app: Celery) -> None:
        with app.connection_for_write() as connection:
            app.amqp.queues[self.queue].bind(connection.default_channel).declare()

    def samples(self, publish: Callable[[], None]) -> list[AmqpTemplate]:
        send = amqp.Channel._basic_publish
        templates: list[AmqpTemplate] = []

        def sent(channel: amqp.Channel, message: amqp.Message, exchange: str, *rest: object, **options: object) -> None:
            # The events that Celery sends beside its tasks go to an exchange of their own.
            if exchange == self.options["queue"]["exchange"]:
                templates.append(amqp_template(message))
            send(channel, message, exchange, *rest, **options)

        with mock.patch.object(amqp.Channel, "_basic_publish", sent):
            publish()
        return templates

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        with amqp.Connection("127.0.0.1:5672", userid="guest", password="guest") as connection:  # noqa: S106 - a default
            yield connection.channel()

    def fill(self, templates: list[AmqpTemplate], tasks: int) -> Iterator[int]:
        source = itertools.cycle(templates)
        acknowledged: set[int] = set()
        highest = 0

        def acknowledge(tag: int, multiple: bool) -> None:
            nonlocal highest
            if multiple:
                highest = max(highest, tag)
            else:
                acknowledged.add(tag)

        def refuse(tag: int, _multiple: bool) -> None:
            raise RuntimeError(f"RabbitMQ refused message {tag}")

        with self._channel() as channel:
            channel.confirm_select()
            channel.events["basic_ack"].add(acknowledge)
            channel.events["basic_nack"].add(refuse)
            queue = self.options["queue"]
            for start in range(0, tasks, BATCH):
                end = min(start + BATCH, tasks)
                for template in itertools.islice(source, end - start):
                    channel.basic_publish(
                        template.copy(), exchange=queue["exchange"], routing_key=queue["routing_key"], mandatory=True
                    )
                while not all(tag <= highest or tag in acknowledged for tag in range(start + 1, end + 1)):
                    channel.connection.drain_events(timeout=TIMEOUT_SECONDS)
                acknowledged.clear()
                yield end

    def count(self) -> int:
        with self._channel() as channel:
            return int(channel.queue_declare(self.queue, passive=True).message_count)

    def size(self, template: AmqpTemplate) -> int:
        return len(template.body) + len(template.properties.copy())

    def compact(self) -> bool:
        """Write a quorum queue's log from memory to the queue's own files."""
        if self.options["queue"]["arguments"].get("x-queue-type") != "quorum":
            return False
        before = self._logs()
        self._evaluate("ra_log_wal:force_roll_over(maps:get(wal, maps:get(names, ra_system:fetch(quorum_queues))))")
        wait_until(lambda: len(self._logs()) == 1 and not self._logs() & before, "the log has been written out")
        return True

    def _logs(self) -> set[Path]:
        return set(self.data.glob("*/quorum/*/*.wal"))


@contextlib.contextmanager
def rabbitmq_server(options: dict[str, Any]) -> Iterator[RabbitMQ]:
    run("systemctl", "stop", "rabbitmq-server")
    shutil.rmtree(RABBITMQ_DATA)
    RABBITMQ_DATA.mkdir(mode=0o750)
    shutil.chown(RABBITMQ_DATA, "rabbitmq", "rabbitmq")
    # systemd cancels a start while a service that RabbitMQ needs is still on its way down.
    start = ["systemctl", "start", "rabbitmq-server"]
    wait_until(lambda: subprocess.run(start, check=False).returncode == 0, "RabbitMQ has started")
    try:
        yield RabbitMQ(options)
    finally:
        run("systemctl", "stop", "rabbitmq-server")


SERVERS: dict[str, Callable[[dict[str, Any]], contextlib.AbstractContextManager[Broker[Any]]]] = {
    "redis": redis_server,
    "rabbitmq": rabbitmq_server,
}
