"""Send and consume messages, and connect, on a worker's host; print seconds and CPU seconds of each.

The broker's URL comes on standard input; how many messages, and of how many bytes, are the arguments.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

from kombu.connection import Connection

CA = "/etc/celery-fleet/tls/ca.crt"
CONNECTS = 50
OPTIONS = {
    "amqps": {"ca_certs": CA, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None},
    "rediss": {"ssl_ca_certs": CA, "ssl_cert_reqs": "required", "ssl_check_hostname": True},
}


def measured(number: int, action: Callable[[], object]) -> dict[str, float]:
    """Return the seconds and the CPU seconds of one of several actions."""
    began, used = time.perf_counter(), time.process_time()
    for _ in range(number):
        action()
    return {"seconds": (time.perf_counter() - began) / number, "cpu": (time.process_time() - used) / number}


def main() -> None:
    messages, size = int(sys.argv[1]), int(sys.argv[2])
    url = sys.stdin.read().strip()
    scheme = url.partition(":")[0]
    options = {"ssl": OPTIONS[scheme]} if scheme in OPTIONS else {}
    transport = {"confirm_publish": True} if scheme.startswith("amqp") else {}

    def open_connection() -> Any:  # noqa: ANN401 - kombu has no types
        return Connection(url, transport_options=transport, **options)  # type: ignore[no-untyped-call]

    def connect() -> None:
        with open_connection() as connection:
            connection.ensure_connection(max_retries=1)
            if scheme.startswith("redis"):
                connection.default_channel.client.ping()

    body, found = "x" * size, {}
    # A connection each, because one that consumes would receive messages while it sends.
    with open_connection() as connection, connection.SimpleQueue("bench") as queue:
        queue.clear()
    with open_connection() as connection, connection.Producer() as producer:
        found["send"] = measured(messages, lambda: producer.publish(body, routing_key="bench"))
    with open_connection() as connection, connection.SimpleQueue("bench") as queue:
        found["consume"] = measured(messages, lambda: queue.get(timeout=60).ack())
        queue.clear()
    found["connect"] = measured(CONNECTS, connect)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
