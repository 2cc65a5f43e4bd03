"""What is named of a broker of the user's own that lacks something. molecule/own_broker has real ones."""

from __future__ import annotations

import socket
import ssl
from typing import Any, cast

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._amqp import AmqpError, _read_table, _table
from ansible_collections.fleet.celery.plugins.module_utils._own_broker_check import (
    Findings,
    RedisConnection,
    RedisError,
    check_redis,
    connection_problem,
)
from hypothesis import given
from hypothesis import strategies as st

BROKER = {"address": "h", "port": 6380, "user": "", "vhost": "v", "database": 3, "key_prefix": "shop:"}
INFO = {"redis_version": "7.2.4", "cluster_enabled": "0", "role": "master", "maxmemory_policy": "noeviction"}


class Server:
    """A Redis server that answers with INFO, and refuses some commands."""

    def __init__(self, info: dict[str, str], refused: dict[str, str]) -> None:
        self._info = info
        self._refused = refused

    def execute(self, *words: str) -> Any:
        if words[0] in self._refused:
            raise RedisError(self._refused[words[0]])
        return "\r\n".join(f"{name}:{value}" for name, value in self._info.items()) if words[0] == "INFO" else "OK"


def found(info: dict[str, str] | None = None, **refused: str) -> Findings:
    return check_redis(cast("RedisConnection", Server(INFO | (info or {}), refused)), BROKER)


def test_nothing_is_found_where_nothing_is_missing() -> None:
    assert found() == Findings()


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru, so a full server deletes"),
        ({"maxmemory_policy": "volatile-lru"}, "Set it to noeviction"),
        ({"redis_version": "5.0.14"}, "Redis 5.0.14 is too old"),
        ({"cluster_enabled": "1"}, "is a Redis cluster, which Celery can't use"),
        ({"role": "slave"}, "is a replica, which accepts no writes"),
    ],
)
def test_a_server_that_celery_can_not_use_is_refused(info: dict[str, str], expected: str) -> None:
    (problem,) = found(info).problems
    assert expected in str(problem)


def test_each_refused_command_is_named_with_the_rules_that_allow_it() -> None:
    (problem,) = found(BRPOP="NOPERM no permissions to run the 'brpop' command", EVALSHA="NOPERM evalsha").problems
    assert "default can't run what Celery needs: BRPOP: NOPERM" in str(problem)
    assert "EVALSHA: NOPERM evalsha" in str(problem)
    assert "~shop:* &shop:* +@all -@dangerous +info" in str(problem)


def test_a_missing_database_is_named() -> None:
    (problem,) = found(SELECT="ERR DB index is out of range").problems
    assert "has no database 3: ERR DB index is out of range" in str(problem)


def test_what_the_user_may_not_read_is_a_warning() -> None:
    unread = check_redis(cast("RedisConnection", Server({}, {"INFO": "NOPERM", "CONFIG": "NOPERM"})), BROKER)
    assert unread.problems == []
    assert "maxmemory-policy can't be read" in str(unread.warnings)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "h:6380 does not answer with TLS"),
        (socket.gaierror(-2, "Name or service not known"), "worker1 can't resolve h"),
        (TimeoutError(), "worker1 got no answer from h:6380"),
        (ConnectionRefusedError(111, "Connection refused"), "worker1 can't connect to h:6380"),
        (RedisError("WRONGPASS"), "h:6380 refuses the login of default: WRONGPASS"),
        (AmqpError(403, "ACCESS_REFUSED"), "h:6380 refuses the login"),
        (AmqpError(530, "NOT_ALLOWED"), "the vhost 'v'"),
    ],
)
def test_a_failed_connection_is_named_with_the_host_and_the_broker(error: Exception, expected: str) -> None:
    assert expected in str(connection_problem(error, BROKER, "worker1"))


values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.dictionaries(st.text("abc-", min_size=1), inner, max_size=3),
)


@given(st.dictionaries(st.text("abc-", min_size=1), values, max_size=4))
def test_a_table_of_amqp_is_read_as_it_was_written(table: dict[str, Any]) -> None:
    data = _table(table)
    assert _read_table(data, 0) == (table, len(data))
