"""What a worker does while RabbitMQ has an alarm."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from amqp import Channel, Connection
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import alarm as alarm_module
from celery import Celery, signals
from celery.events.dispatcher import EventDispatcher
from kombu.pidbox import Mailbox


class Publisher:
    """A producer whose connection is known to RabbitMQ, and blocked by it or not.

    Attributes:
        published: what it has sent, and whether it waited for a confirm.
    """

    def __init__(self) -> None:
        self.connection: Any = Connection(confirm_publish=True)
        self.connection._transport = SimpleNamespace(connected=True)
        self.connection.drain_events = self._drain
        self.channel: Any = Channel.__new__(Channel)
        self.channel.connection = self.connection
        self.channel._basic_publish = lambda body, **_: self.published.append((body, False))
        self.channel.basic_publish = lambda body, **_: self.published.append((body, True))
        self.reports: list[str] = []
        self.published: list[tuple[object, bool]] = []

    def _drain(self, timeout: float) -> None:
        assert timeout == 0, "a worker's loop must not wait"
        if not self.reports:
            raise TimeoutError
        getattr(self.connection, f"_on_{self.reports.pop(0)}")()

    def publish(self, body: object, **_: object) -> None:
        self.channel.basic_publish(body)


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = importlib.reload(alarm_module)
    # What is replaced is put back at the end.
    monkeypatch.setattr(EventDispatcher, "_publish", EventDispatcher._publish)
    monkeypatch.setattr(Mailbox, "_publish_reply", Mailbox._publish_reply)
    monkeypatch.setattr(signals.celeryd_init, "receivers", [])
    monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", "shop-video")
    return module


def start(alarm: Any, *, confirm: bool = True) -> Any:
    """Start a worker, and return its application."""
    app = Celery("shop", broker="amqp://", set_as_current=False)
    app.conf.broker_transport_options = {"confirm_publish": confirm}
    alarm.install()
    signals.celeryd_init.send(sender="video@worker1", instance=SimpleNamespace(app=app), conf=app.conf)
    return app


def event(producer: Publisher, by: Publisher | None = None) -> None:
    """Send an event as a worker does: by its dispatcher's producer, or by a task's."""
    dispatcher: Any = EventDispatcher(enabled=False, buffer_while_offline=False)
    dispatcher.exchange, dispatcher.headers, dispatcher.producer = SimpleNamespace(name="celeryev"), {}, producer
    dispatcher._publish("event", by or producer, "task.received")


def reply(producer: Publisher) -> None:
    @contextmanager
    def acquire(_producer: object, _channel: object) -> Iterator[Publisher]:
        yield producer

    mailboxes: Any = Mailbox
    mailbox = mailboxes("control")
    mailbox.producer_or_acquire = acquire
    mailbox._publish_reply("reply", "exchange", "key", "ticket", channel=producer.channel, serializer="json")


def test_events_wait_for_no_confirm_and_are_dropped_while_their_connection_is_blocked(alarm: Any) -> None:
    start(alarm)
    producer = Publisher()
    event(producer)
    assert producer.published == [("event", False)]
    producer.reports.append("blocked")
    event(producer)
    event(producer)
    assert producer.published == [("event", False)]
    # Beside another alarm that begins and ends.
    producer.reports += ["unblocked", "blocked", "unblocked"]
    event(producer)
    assert producer.published == [("event", False)] * 2


def test_the_event_of_a_task_that_was_sent_leaves_the_task_s_producer_as_it_is(alarm: Any) -> None:
    start(alarm)
    task = Publisher()
    event(Publisher(), by=task)
    task.publish("task")
    assert task.published == [("event", True), ("task", True)]


def test_replies_are_dropped_while_their_connection_is_blocked(alarm: Any) -> None:
    start(alarm)
    producer = Publisher()
    reply(producer)
    producer.reports.append("blocked")
    reply(producer)
    assert len(producer.published) == 1
    producer.reports.append("unblocked")
    reply(producer)
    assert len(producer.published) == 2


def test_replies_have_connections_of_their_own_that_wait_for_no_confirm(alarm: Any) -> None:
    app = start(alarm)
    replies, tasks = app.control.mailbox.producer_pool, app.amqp.producer_pool
    assert replies.connections.connection.transport_options["confirm_publish"] is False
    assert tasks.connections.connection.transport_options["confirm_publish"] is True


def test_an_error_of_the_connection_is_for_the_send_to_report(alarm: Any) -> None:
    producer = Publisher()

    def drain_events(timeout: float) -> None:
        assert timeout == 0
        raise ConnectionResetError

    producer.connection.drain_events = drain_events
    assert not alarm.is_blocked(producer.channel)


def test_a_connection_that_is_closed_is_not_opened(alarm: Any) -> None:
    producer = Publisher()
    producer.connection._transport = None
    assert not alarm.is_blocked(producer.channel)
    assert producer.connection._transport is None


def test_a_broker_that_confirms_nothing_is_left_alone(alarm: Any) -> None:
    before: Any = EventDispatcher._publish
    start(alarm, confirm=False)
    assert EventDispatcher._publish is before


def test_what_is_no_program_of_supervisor_is_left_alone(alarm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before: Any = EventDispatcher._publish
    monkeypatch.delenv("SUPERVISOR_PROCESS_NAME")
    start(alarm)
    assert EventDispatcher._publish is before
