"""What a worker does while RabbitMQ has an alarm."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amqp import Connection
from celery import signals
from celery.events.dispatcher import EventDispatcher
from kombu.pidbox import Mailbox

PATH = Path(__file__).parents[2] / "roles" / "celery_app" / "files" / "celery_fleet_alarm.py"


class Producer:
    """A producer whose connection is known to RabbitMQ, and blocked by it or not."""

    def __init__(self) -> None:
        self.connection: Any = Connection()
        self.connection._transport = SimpleNamespace(connected=True)
        self.channel = SimpleNamespace(connection=self.connection)
        self.published: list[object] = []

    def publish(self, body: object, **_: object) -> None:
        self.published.append(body)

    def block(self, reports: list[str]) -> None:
        """Have RabbitMQ report these; they are read as frames are."""

        def drain_events(timeout: float) -> None:
            assert timeout == 0, "a worker's loop must not wait"
            if not reports:
                raise TimeoutError
            getattr(self.connection, f"_on_{reports.pop(0)}")()

        self.connection.drain_events = drain_events


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("celery_fleet_alarm", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # What is replaced is put back at the end.
    monkeypatch.setattr(EventDispatcher, "_publish", EventDispatcher._publish)
    monkeypatch.setattr(Mailbox, "_publish_reply", Mailbox._publish_reply)
    monkeypatch.setattr(signals.celeryd_init, "receivers", [])
    monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", "shop-video")
    return module


def send(producer: Producer) -> None:
    """Send an event and a reply as a worker does."""
    dispatcher: Any = EventDispatcher(enabled=False, buffer_while_offline=False)
    dispatcher.exchange, dispatcher.headers = SimpleNamespace(name="celeryev"), {}
    dispatcher._publish("event", producer, "task.received")

    @contextmanager
    def acquire(_producer: object, _channel: object) -> Iterator[Producer]:
        yield producer

    mailboxes: Any = Mailbox
    mailbox = mailboxes("control")
    mailbox.producer_or_acquire = acquire
    mailbox._publish_reply("reply", "exchange", "key", "ticket", channel=producer.channel, serializer="json")


def test_events_and_replies_are_dropped_while_the_connection_is_blocked(alarm: Any) -> None:
    alarm.install()
    signals.celeryd_init.send(sender="video@worker1")
    producer, reports = Producer(), list[str]()
    producer.block(reports)
    send(producer)
    assert producer.published == ["event", "reply"]
    reports.append("blocked")
    send(producer)
    send(producer)
    assert producer.published == ["event", "reply"]
    # Beside another alarm that begins and ends.
    reports += ["unblocked", "blocked", "unblocked"]
    send(producer)
    assert producer.published == ["event", "reply"] * 2


def test_an_error_of_the_connection_is_for_the_send_to_report(alarm: Any) -> None:
    producer = Producer()

    def drain_events(timeout: float) -> None:
        assert timeout == 0
        raise ConnectionResetError

    producer.connection.drain_events = drain_events
    assert not alarm.is_blocked(producer)


def test_a_connection_that_is_closed_is_not_opened(alarm: Any) -> None:
    producer = Producer()
    producer.connection._transport = None
    assert not alarm.is_blocked(producer)
    assert producer.connection._transport is None


def test_another_broker_than_rabbitmq_is_left_alone(alarm: Any) -> None:
    assert not alarm.is_blocked(SimpleNamespace(channel=SimpleNamespace(connection=object())))


def test_what_is_no_program_of_supervisor_is_left_alone(alarm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = EventDispatcher._publish
    monkeypatch.delenv("SUPERVISOR_PROCESS_NAME")
    alarm.install()
    signals.celeryd_init.send(sender="video@worker1")
    assert EventDispatcher._publish is before
