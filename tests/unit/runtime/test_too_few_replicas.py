"""Clients of a primary of Redis that has too few replicas."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import too_few_replicas
from kombu import connection as kombu_connection
from redis.connection import DefaultParser

Connection: Any = kombu_connection.Connection
REFUSAL = "NOREPLICAS Not enough good replicas to write."


def test_a_sender_waits_between_its_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    # It is undone after the test.
    monkeypatch.setattr(too_few_replicas.transport, "recoverable_connection_errors", (), raising=False)
    monkeypatch.setattr(DefaultParser, "EXCEPTION_CLASSES", DefaultParser.EXCEPTION_CLASSES.copy())
    monkeypatch.setattr(Connection, "_ensure_connection", lambda *_, **__: None)
    monkeypatch.setattr(Connection, "default_channel", None)
    too_few_replicas.install()
    parser: Any = DefaultParser
    waits: list[float] = []
    errors = [parser.parse_error(REFUSAL) for _ in range(3)]
    monkeypatch.setattr(time, "sleep", waits.append)

    def publish() -> str:
        if errors:
            raise errors.pop()
        return "sent"

    producer = SimpleNamespace(revive=lambda _: None)
    send = Connection("redis://").ensure(producer, publish, errback=too_few_replicas.wait, max_retries=3)
    assert send() == "sent"
    assert waits == [too_few_replicas.WAIT_SECONDS] * 3


def test_it_waits_for_no_other_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    too_few_replicas.wait(ConnectionError("refused"), 0)
