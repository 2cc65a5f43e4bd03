"""Send messages, and consume them, on a worker's host; print the seconds of each message.

A JSON object on standard input has the number of messages, their bytes, and the queue with its arguments. With url, the
messages go to that broker, by the fleet's TLS. Without it, they go to the application's own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from celery_fleet_settings import FIRM  # type: ignore[import-not-found]  # rendered on the host
from kombu import entity
from kombu.connection import Connection

# kombu has no types.
Queue: Any = entity.Queue


def seconds(number: int, action: Callable[[], object]) -> float:
    """Return the seconds of one of several actions."""
    began = time.perf_counter()
    for _ in range(number):
        action()
    return (time.perf_counter() - began) / number


def main() -> None:
    given = json.load(sys.stdin)
    url, transport = given.get("url") or FIRM["broker_url"], FIRM["broker_transport_options"]

    def connection() -> Any:  # noqa: ANN401 - kombu has no types
        return Connection(url, ssl=FIRM["broker_use_ssl"], transport_options=transport)  # type: ignore[no-untyped-call]

    queue = Queue(given["queue"], queue_arguments=given.get("arguments"))
    body, found = "x" * given["bytes"], {}
    with connection() as sender, sender.Producer() as producer:
        queue(sender.default_channel).declare()
        # RabbitMQ confirms each message (confirm_publish).
        found["send"] = seconds(given["messages"], lambda: producer.publish(body, routing_key=queue.name))
    # A connection each, because one that consumes would receive messages while it sends.
    with connection() as receiver, receiver.SimpleQueue(queue) as messages:
        found["consume"] = seconds(given["messages"], lambda: messages.get(timeout=60).ack())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
