"""The connection of a worker to the replay cache."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.replay import DONE, ReplayCache


class Server(socketserver.ThreadingTCPServer):
    """A server that speaks RESP as Redis does, with commands of one key.

    Attributes:
        received: the commands, without scripts.
        refuses: the error that it answers with; empty for none.
        hangs_up: whether it closes connections instead of answering.
        password: that AUTH must have.
        primary: port of the primary that it knows as a Sentinel; None if it knows none.
    """

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.values: dict[str, str] = {}
        self.received: list[str] = []
        self.refuses = ""
        self.hangs_up = False
        self.password = "first"
        self.primary: int | None = None

    def answer(self, words: list[str]) -> str:  # noqa: PLR0911 - one for each command
        self.received.append(words[0])
        if words[0] == "AUTH":
            return "+OK" if words[2] == self.password else "-WRONGPASS invalid"
        if self.refuses:
            return f"-{self.refuses}"
        if words[0] == "SENTINEL":
            port = str(self.primary)
            return f"*2\r\n$9\r\n127.0.0.1\r\n${len(port)}\r\n{port}" if self.primary else "*-1"
        if words[0] == "EVAL" and len(words) == 5:
            if self.values.get(words[3]) == words[4]:
                del self.values[words[3]]
            return "$-1"
        if words[0] == "EVAL":
            owner = self.values.setdefault(words[3], words[4])
            owner = "" if owner == words[4] else owner
            return f"${len(owner)}\r\n{owner}"
        if words[0] == "SET":
            self.values[words[1]] = words[2]
            return "+OK"
        return f":{self.values.pop(words[1], None) is not None:d}"


class Handler(socketserver.StreamRequestHandler):
    """A connection to the server."""

    server: Server

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2].decode() for _ in range(int(line[1:]))]
            if self.server.hangs_up:
                return
            self.wfile.write(self.server.answer(words).encode() + b"\r\n")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def write_config(path: Path, server: Server) -> Path:
    login = {
        "address": "127.0.0.1",
        "port": server.server_address[1],
        "user": "shop-replay",
        "password": server.password,
    }
    path.write_text(json.dumps({**login, "key_prefix": "shop:replay:", "ca": ""}))
    return path


@pytest.fixture
def config(tmp_path: Path, server: Server) -> Path:
    return write_config(tmp_path / "replay_cache.json", server)


@pytest.fixture
def cache(config: Path) -> ReplayCache:
    return ReplayCache(config)


def test_a_message_is_claimed_once_and_done_once(cache: ReplayCache, config: Path, server: Server) -> None:
    other = ReplayCache(config)
    assert cache.claim("a", 10) == ""
    assert other.claim("a", 10) == cache.owner
    cache.finish("a", 10)
    assert other.claim("a", 10) == DONE
    assert other.claim("b", 10) == ""
    other.release("b")
    assert cache.claim("b", 10) == ""
    other.release("b")
    assert other.claim("b", 10) == cache.owner, "it was not its own any more"
    assert set(server.values) == {"shop:replay:m:a", "shop:replay:m:b"}
    assert server.received.count("AUTH") == 2, "each has one connection"


def test_a_lost_connection_is_opened_again_with_the_password_of_then(
    cache: ReplayCache, config: Path, server: Server
) -> None:
    cache.renew()
    server.password = "second"
    write_config(config, server)
    server.hangs_up = True
    with pytest.raises(ConnectionError):
        cache.renew()
    server.hangs_up = False
    with pytest.raises(ConnectionError, match="a moment ago"):
        cache.renew()
    cache._down_until = 0.0
    cache.renew()
    assert server.received.count("AUTH") == 2


def test_a_refused_command_is_an_error_and_the_connection_stays(cache: ReplayCache, server: Server) -> None:
    cache.renew()
    server.refuses = "OOM command not allowed when used memory > 'maxmemory'."
    with pytest.raises(OSError, match="OOM"):
        cache.claim("a", 10)
    server.refuses = ""
    assert cache.claim("a", 10) == ""
    assert server.received.count("AUTH") == 1


def test_threads_share_the_connection(cache: ReplayCache, server: Server) -> None:
    def once(number: int) -> str:
        owner = cache.claim(str(number), 10)
        cache.finish(str(number), 10)
        return owner

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(once, range(400))) == {""}
    assert set(server.values.values()) == {DONE}
    assert server.received.count("AUTH") == 1


@contextmanager
def running() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def replicated(config: Path, server: Server) -> ReplayCache:
    """Return a cache of which server is a Sentinel. Another Sentinel, which comes first, is down."""
    sentinel = {"addresses": ["127.0.0.2", "127.0.0.1"], "port": server.server_address[1], "master_name": "shop"}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sentinel": sentinel, "port": 1}))
    return ReplayCache(config)


@pytest.mark.parametrize("error", ["READONLY You can't write against a read only replica.", "NOREPLICAS Not enough"])
def test_the_primary_of_the_sentinels_has_the_claims(replicated: ReplayCache, server: Server, error: str) -> None:
    with running() as former, running() as new:
        server.primary = former.server_address[1]
        assert replicated.claim("a", 10) == ""
        assert "shop:replay:m:a" in former.values
        former.refuses = error
        # Until the failover, no claim is answered.
        with pytest.raises(ConnectionError, match="not the primary"):
            replicated.claim("b", 10)
        server.primary = new.server_address[1]
        replicated._down_until = 0.0
        assert replicated.claim("b", 10) == ""
        assert set(new.values) == {"shop:replay:m:b"}


def test_a_lost_primary_is_replaced_within_a_call(replicated: ReplayCache, server: Server) -> None:
    with running() as former, running() as new:
        server.primary = former.server_address[1]
        replicated.renew()
        former.hangs_up = True
        server.primary = new.server_address[1]
        assert replicated.claim("a", 10) == ""
        assert "shop:replay:m:a" in new.values


def test_no_claim_without_a_primary(replicated: ReplayCache, server: Server) -> None:
    with pytest.raises(ConnectionError, match=r"127.0.0.2: .*; 127.0.0.1: it monitors no shop"):
        replicated.claim("a", 10)
    with pytest.raises(ConnectionError, match="a moment ago"):
        replicated.claim("a", 10)
    assert server.values == {}
