"""Senders of tasks and RabbitMQ's internal errors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import InternalError
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import internal_errors
from kombu import connection as kombu_connection

Connection: Any = kombu_connection.Connection


def test_a_sender_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # It is undone after the test.
    before = internal_errors.transport.recoverable_connection_errors
    monkeypatch.setattr(internal_errors.transport, "recoverable_connection_errors", before)
    monkeypatch.setattr(Connection, "_ensure_connection", lambda *_, **__: None)
    monkeypatch.setattr(Connection, "default_channel", None)
    internal_errors.install()
    errors = [InternalError("INTERNAL_ERROR")]

    def publish() -> str:
        if errors:
            raise errors.pop()
        return "sent"

    producer = SimpleNamespace(revive=lambda _: None)
    assert Connection("amqp://").ensure(producer, publish, max_retries=1, interval_start=0)() == "sent"
