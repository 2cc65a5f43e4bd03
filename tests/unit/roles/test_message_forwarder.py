"""The service that moves messages between brokers, from one in-memory broker to another."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from program import load

# Its functions have no types.
kombu: Any = importlib.import_module("kombu")
NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load("roles/message_forwarder/files/celery_fleet_forwarder.py")


@pytest.mark.parametrize("eta", ["2026-12-01T00:00:05+00:00", "2026-12-01T00:00:05", "2026-12-01T02:00:05.5+02:00"])
def test_a_message_waits_in_rabbitmq_until_it_is_due(program: ModuleType, eta: str) -> None:
    exchange, key = program.destination("customers", {"eta": eta}, NOW.timestamp(), delays=True)
    assert exchange == "celery_delayed_27"
    bits, queue = key.rsplit(".", 1)
    assert queue == "customers"
    assert int(bits.replace(".", ""), 2) == 5
    assert len(bits.split(".")) == 28


@pytest.mark.parametrize("eta", [None, "", "soon", "2026-11-30T00:00:00+00:00"])
def test_a_message_that_is_due_goes_to_its_queue(program: ModuleType, eta: str | None) -> None:
    assert program.destination("customers", {"eta": eta}, NOW.timestamp(), delays=True) == ("", "customers")


def test_a_message_of_the_far_future_waits_as_long_as_it_can(program: ModuleType) -> None:
    eta = (NOW + timedelta(days=10_000)).astimezone(timezone(timedelta(hours=1))).isoformat()
    _, key = program.destination("customers", {"eta": eta}, NOW.timestamp(), delays=True)
    assert key == ".".join("1" * 28) + ".customers"


def test_redis_has_no_place_for_delayed_messages(program: ModuleType) -> None:
    later = {"eta": (NOW + timedelta(hours=1)).isoformat()}
    assert program.destination("customers", later, NOW.timestamp(), delays=False) == ("", "customers")


@pytest.fixture
def forwarded(program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Send a message by kombu's broker in memory, forward it to one in files, and return how it arrives there."""
    monkeypatch.chdir(tmp_path)
    source = {"hostname": "memory://", "transport_options": {"polling_interval": 0.01}}
    folders = {name: str(tmp_path / "messages") for name in ("data_folder_in", "data_folder_out", "control_folder")}
    target = {"hostname": "filesystem://", "transport_options": folders}
    (tmp_path / "messages").mkdir()

    def forward(body: Any, **options: Any) -> Any:
        forwarder = program.Forwarder(
            {"source": source, "target": target, "queues": ["customers"], "delayed_queues": []}
        )
        monkeypatch.setattr(program, "notify", lambda _: setattr(forwarder, "stopped", forwarder.moved > 0))
        with kombu.Connection(**source) as sender, kombu.Connection(**target) as receiver:
            queue = kombu.Queue("customers")
            queue(sender.default_channel).declare()
            kombu.Producer(sender).publish(body, routing_key="customers", **options)
            forwarder.run()
            assert forwarder.moved == 1
            assert queue(sender.default_channel).get() is None
            return queue(receiver.default_channel).get(no_ack=True)

    return forward


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_message_arrives_as_it_was_sent(forwarded: Any, compression: str | None) -> None:
    headers = {"task": "shop.tasks.add", "id": "1", "eta": None, "celery_fleet_signature": "s"}
    sent = {"correlation_id": "1", "reply_to": "r"}
    message = forwarded([[1], {}, {}], serializer="json", compression=compression, headers=headers, **sent)
    assert message.payload == [[1], {}, {}]
    assert {name: message.headers[name] for name in headers} == headers
    assert message.headers.get("compression") == ("application/x-gzip" if compression else None)
    assert {name: message.properties[name] for name in sent} == sent
    assert message.content_type == "application/json"


def test_bytes_that_are_no_text_arrive(forwarded: Any) -> None:
    body = bytes(range(256))
    message = forwarded(body, content_type="application/data", content_encoding="binary")
    assert message.body == body


def test_a_message_with_a_priority_gets_the_default_one(forwarded: Any) -> None:
    assert forwarded("x", priority=5).properties["priority"] == 0


def test_the_time_to_live_stays(program: ModuleType) -> None:
    properties = {"expiration": "2500"}
    message = SimpleNamespace(headers={}, properties=properties, content_type="text/plain", content_encoding="utf-8")
    assert program.options(message)["expiration"] == 2.5


def test_an_error_has_no_password(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)
    config = tmp_path / "config"
    config.write_text(
        '{"source": {"hostname": "memory://"}, "queues": [], "delayed_queues": [],'
        ' "target": {"hostname": "amqp://shop:s3cret@127.0.0.1:1//", "connect_timeout": 1}}',
        encoding="utf-8",
    )
    assert program.main([str(config)]) == 1
    told = capsys.readouterr().err
    assert "refused" in told
    assert "s3cret" not in told
