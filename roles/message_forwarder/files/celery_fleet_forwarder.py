#!/usr/bin/python3 -I
"""Move messages of Celery from one broker to another, until it is stopped.

usage: celery-fleet-forwarder CONFIG

A message is removed from the source once the target has confirmed it. After an error, the program ends, and what it has
not acknowledged stays in the source.
"""

# kombu has no types.
# mypy: disable-error-code="no-untyped-call,attr-defined"
from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from kombu import Connection, Consumer, Producer, Queue

#: Messages that are fetched at a time. Each error counts as a delivery of all of them.
PREFETCH = 10
#: Seconds between two reports.
INTERVAL = 1.0
#: What is kept of a message, if it has it. Priorities have the reverse meaning on the other kind of broker.
PROPERTIES = ("correlation_id", "reply_to", "delivery_mode", "message_id", "timestamp", "type", "app_id")
#: Celery's exchange of delayed messages, whose routing keys begin with the bits of the seconds. Source:
#: kombu.transport.native_delayed_delivery, kombu 5.5 to 5.7.
DELAY_EXCHANGE, DELAY_BITS = "celery_delayed_27", 28


def destination(queue: str, headers: Mapping[str, Any], now: float, *, delays: bool) -> tuple[str, str]:
    """Return the exchange and the routing key by which a message reaches a queue once it is due.

    Args:
        headers: of the message. Celery's eta is a time in ISO 8601, in UTC if it has no zone.
        now: seconds since the epoch.
        delays: whether the target has Celery's exchanges of delayed messages. Otherwise, a worker keeps the message.
    """
    if delays and (left := int(due(headers) - now)) > 0:
        bits = ".".join(format(min(left, 2**DELAY_BITS - 1), f"0{DELAY_BITS}b"))
        return DELAY_EXCHANGE, f"{bits}.{queue}"
    return "", queue


def due(headers: Mapping[str, Any]) -> float:
    """Return when a task is to run, in seconds since the epoch; 0 if it is due, or if its time is not one."""
    try:
        eta = datetime.fromisoformat(str(headers.get("eta")))
    except ValueError:
        return 0
    return (eta if eta.tzinfo else eta.replace(tzinfo=UTC)).timestamp()


def options(message: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Return the options by which a message is sent again as it is.

    kombu has decompressed its body, and compresses it again.
    """
    headers, properties = dict(message.headers), message.properties
    kept = {name: properties[name] for name in PROPERTIES if properties.get(name) is not None}
    if expiration := properties.get("expiration"):
        # In milliseconds there.
        kept["expiration"] = float(expiration) / 1000
    return {
        **kept,
        "compression": headers.pop("compression", None),
        "headers": headers,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
    }


class Forwarder:
    """Moves messages.

    Attributes:
        moved: number of messages.
        stopped: whether it is to end.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self.moved = 0
        self.stopped = False

    def run(self) -> None:
        """Move messages until it is stopped."""
        source, target = (Connection(**self._config[name]) for name in ("source", "target"))
        with source, target, ExitStack() as consumers:
            producer = Producer(target)
            # Unlike a channel that is made later, it fails now if the target does not answer.
            target.ensure_connection(max_retries=1)
            channel = source.channel()
            for name in self._config["queues"]:
                queue = Queue(name, no_declare=True)
                move = partial(self._move, producer, name)
                consumers.enter_context(Consumer(channel, [queue], on_message=move, prefetch_count=PREFETCH))
            notify("READY=1")
            while not self.stopped:
                self._wait(source)

    def _wait(self, source: Connection) -> None:
        # At the end of each interval, it raises an error.
        with suppress(TimeoutError):
            end = time.monotonic() + INTERVAL
            while (left := end - time.monotonic()) > 0:
                source.drain_events(timeout=left)
        source.heartbeat_check(rate=2)
        notify(f"STATUS={self.moved} messages moved")

    def _move(self, producer: Producer, queue: str, message: Any) -> None:  # noqa: ANN401 - as above
        delays = queue in self._config["delayed_queues"]
        exchange, key = destination(queue, message.headers, time.time(), delays=delays)
        # Without a route, RabbitMQ would confirm a message, and drop it.
        producer.publish(message.body, exchange=exchange, routing_key=key, mandatory=True, **options(message))
        message.ack()
        self.moved += 1


def notify(state: str) -> None:
    """Tell systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(state.encode(), os.environ["NOTIFY_SOCKET"])


def main(arguments: list[str]) -> int:
    """Move messages, and return the exit code."""
    if len(arguments) != 1:
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    forwarder = Forwarder(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))

    def stop(*_: object) -> None:
        forwarder.stopped = True

    signal.signal(signal.SIGTERM, stop)
    try:
        forwarder.run()
    # Of kombu, of amqp and of redis, which have no class in common. Their tracebacks would show passwords.
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
