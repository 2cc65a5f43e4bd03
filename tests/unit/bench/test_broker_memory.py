"""The benchmark of brokers' memory: messages and results."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import amqp
import pytest
from kombu.utils.json import dumps

from bench.broker_memory import KIB, Figure, as_data, figure, fills, table
from bench.brokers import QUEUE, SUBJECTS, options_of
from bench.on_host.brokers import RabbitMQ, Template, amqp_template, application, redis_template
from bench.on_host.memory import arguments_of_samples, send

ID = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"


def published(compression: str | None, args: list[Any]) -> dict[str, Any]:
    """Return the envelope of a task that Celery sent to a virtual transport of kombu, like Redis."""
    options = options_of(SUBJECTS[0])
    app = application({**options["settings"], "task_send_sent_event": False}, options["queue"], "memory://")
    app.conf.task_compression = compression
    with mock.patch("kombu.transport.memory.Channel._put") as put:
        send(app, QUEUE, [args])
    envelope: dict[str, Any] = put.call_args.args[1]
    return envelope


@pytest.mark.parametrize("size", [0, KIB, 10 * KIB])
def test_arguments_have_the_size_asked_for_and_differ(size: int) -> None:
    first, second, *_ = arguments_of_samples(size)
    assert len(json.dumps(first)) == max(size, len("[]"))
    assert size == 0 or first != second


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_copy_for_redis_is_celerys_envelope_but_for_its_ids(compression: str | None) -> None:
    envelope = published(compression, arguments_of_samples(KIB)[0])
    assert envelope["properties"]["delivery_mode"] == 2
    assert envelope["content-type"] == "application/json"
    raw = dumps(envelope).encode()  # type: ignore[no-untyped-call]
    template = redis_template(raw)
    copy, other = (json.loads(template.copy()) for _ in range(2))
    ids = [copy["headers"]["id"], copy["properties"]["delivery_tag"]]
    assert len({*ids, other["headers"]["id"], other["properties"]["delivery_tag"], envelope["headers"]["id"]}) == 5
    assert copy["headers"]["root_id"] == copy["properties"]["correlation_id"] == copy["headers"]["id"]
    for message in (copy, envelope):
        for key in ("id", "root_id"):
            message["headers"][key] = None
        for key in ("correlation_id", "delivery_tag"):
            message["properties"][key] = None
    assert copy == envelope
    assert len(template.copy()) == len(raw)


@pytest.mark.parametrize("body", ["[[], {}, {}]", b"\x78\x9c"])
def test_a_copy_for_rabbitmq_has_the_same_properties_but_for_its_ids(body: str | bytes) -> None:
    message = amqp.Message(
        body,
        content_type="application/json",
        delivery_mode=2,
        correlation_id=ID,
        application_headers={"id": ID, "root_id": ID, "parent_id": None, "retries": 0},
    )
    copy = amqp_template(message).copy()
    assert copy.body == (body.encode() if isinstance(body, str) else body)
    encoded = copy._serialize_properties()
    assert len(encoded) == len(message._serialize_properties())
    decoded = amqp.Message()
    decoded._load_properties(decoded.CLASS_ID, encoded, 0)
    fresh = decoded.properties["application_headers"]["id"]
    assert fresh != ID
    assert decoded.properties["correlation_id"] == decoded.properties["application_headers"]["root_id"] == fresh
    assert decoded.properties["content_encoding"] == "utf-8"
    assert decoded.properties["application_headers"]["retries"] == 0


def test_only_messages_to_the_fleets_exchange_are_samples() -> None:
    rabbitmq = RabbitMQ.__new__(RabbitMQ)
    rabbitmq.options = {"queue": {"exchange": "shop"}}
    message = amqp.Message("{}", application_headers={"id": ID}, correlation_id=ID)

    def publish() -> None:
        amqp.Channel._basic_publish(None, amqp.Message("{}"), "celeryev", "task.sent")
        amqp.Channel._basic_publish(None, message, "shop", "customers")

    with mock.patch.object(amqp.Channel, "_basic_publish") as wire:
        found = rabbitmq.samples(publish)
    assert [template.body for template in found] == [b"{}"]
    assert wire.call_count == 2


@pytest.mark.parametrize("ids", [[OTHER], ["short"]])
def test_an_id_that_is_not_in_the_message_is_refused(ids: list[str]) -> None:
    with pytest.raises(ValueError, match="is no id"):
        Template(f"short {ID}".encode(), ids)


def test_large_tasks_are_fewer() -> None:
    assert [(each["size"], each["tasks"]) for each in fills(100_000) if not each["compression"]] == [
        (0, 100_000),
        (KIB, 100_000),
        (10 * KIB, 30_000),
    ]
    assert {each["tasks"] for each in fills(500)} == {500}


def test_queues_are_those_of_a_fleet() -> None:
    queues = {(each.kind, each.queue_type): options_of(each)["queue"]["arguments"] for each in SUBJECTS}
    assert queues == {
        ("redis", "list"): {},
        ("rabbitmq", "classic"): {},
        ("rabbitmq", "quorum"): {"x-queue-type": "quorum"},
    }


def found(**other: Any) -> Figure:
    subject = next(each for each in SUBJECTS if each.queue_type == "quorum")
    result: dict[str, Any] = {
        "version": "4.0.5",
        "message": 536.04,
        "peak": 3000,
        "filled": {"memory": 1234, "resident": 2000, "disk": 1500},
        "compacted": {"memory": 100, "resident": 200, "disk": 1600},
        **other,
    }
    return figure(subject, {"size": KIB, "compression": "zlib", "tasks": 2}, result)


def test_a_figure_is_bytes_a_task() -> None:
    assert as_data(found()) == {
        "broker": "rabbitmq",
        "version": "4.0.5",
        "queue_type": "quorum",
        "argument_bytes": KIB,
        "compression": "zlib",
        "tasks": 2,
        "message_bytes": 536.0,
        "peak_resident_bytes": 1500.0,
        "filled": {"memory_bytes": 617.0, "resident_bytes": 1000.0, "disk_bytes": 750.0},
        "compacted": {"memory_bytes": 50.0, "resident_bytes": 100.0, "disk_bytes": 800.0},
    }


def test_the_table_names_the_million_beside_the_article() -> None:
    lines = [" ".join(line.split()) for line in table([found(), found(compacted=None)])]
    assert lines[2:] == [
        "RabbitMQ 4.0 quorum 1 KiB yes 2 536 617 50 1,000 1,500 100 750 800 617 MB (0.62)",
        "RabbitMQ 4.0 quorum 1 KiB yes 2 536 617 - 1,000 1,500 - 750 - 617 MB (0.62)",
    ]
