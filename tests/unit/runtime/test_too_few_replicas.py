"""Clients of a primary of Redis that has too few replicas."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import too_few_replicas
from redis import Redis
from redis.connection import DefaultParser
from redis.sentinel import Sentinel

REFUSAL = b"-NOREPLICAS Not enough good replicas to write.\r\n"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[bytes]]]:
    """Return a client of a primary, and the replies that this server gives before all is well."""
    # It is undone after the test.
    monkeypatch.setattr(DefaultParser, "EXCEPTION_CLASSES", DefaultParser.EXCEPTION_CLASSES.copy())
    monkeypatch.setattr(too_few_replicas.connections, "__init__", too_few_replicas.connections.__init__)
    monkeypatch.setattr(too_few_replicas, "WAIT_SECONDS", 0.001)
    too_few_replicas.install()
    replies: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(replies.pop() if b"LPUSH" in data and replies else b":1\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    monkeypatch.setattr(Sentinel, "discover_master", lambda *_: server.getsockname())
    sentinels: Any = Sentinel
    redis = sentinels([("127.0.0.1", 1)]).master_for("shop", Redis, protocol=2)
    yield redis, replies
    redis.connection_pool.disconnect()
    # accept does not end when its socket is closed.
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_a_command_waits_until_there_are_enough(client: tuple[Any, list[bytes]]) -> None:
    redis, replies = client
    replies += [REFUSAL] * 5
    assert redis.lpush("queue", "message") == 1
    assert not replies


def test_it_does_not_wait_for_ever(client: tuple[Any, list[bytes]]) -> None:
    redis, replies = client
    replies += [REFUSAL] * (too_few_replicas.ATTEMPTS + 1)
    with pytest.raises(too_few_replicas.TooFewReplicasError):
        redis.lpush("queue", "message")
    assert not replies


def test_another_error_is_raised(client: tuple[Any, list[bytes]]) -> None:
    redis, replies = client
    replies += [b"-WRONGTYPE no list\r\n"]
    with pytest.raises(Exception, match="no list"):
        redis.lpush("queue", "message")
    assert redis.lpush("queue", "message") == 1
