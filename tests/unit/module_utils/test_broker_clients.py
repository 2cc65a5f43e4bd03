"""Clients that are connected to a broker."""

from __future__ import annotations

import json

from ansible_collections.fleet.celery.plugins.module_utils._broker_clients import (
    Connection,
    clients,
    rabbitmq_connections,
    redis_connections,
)

CLIENTS = """\
id=3 addr=10.0.0.2:4000 laddr=10.0.0.1:6379 fd=8 name= age=1 user=shop lib-name=redis-py
id=4 addr=10.0.0.2:4001 laddr=10.0.0.1:6380 fd=9 name= age=1 user=shop lib-name=redis-py
id=5 addr=[fd00::9]:4002 laddr=[fd00::1]:6379 fd=9 name=a=b age=1 user=shop-producer
id=6 addr=/run/redis/redis.sock:0 laddr=/run/redis/redis.sock:0 fd=9 name= user=shop-admin
"""


def test_rabbitmq_says_which_connections_have_tls() -> None:
    output = json.dumps(
        [
            {"user": "shop", "peer_host": [10, 0, 0, 2], "ssl": False},
            {"user": "shop", "peer_host": [10, 0, 0, 3], "ssl": True},
            {"user": "web", "peer_host": [0xFD00, 0, 0, 0, 0, 0, 0, 9], "ssl": False},
        ]
    )
    assert list(rabbitmq_connections(output)) == [
        Connection("shop", "10.0.0.2", tls=False),
        Connection("shop", "10.0.0.3", tls=True),
        Connection("web", "fd00::9", tls=False),
    ]
    assert list(rabbitmq_connections("")) == []


def test_connections_to_redis_differ_by_the_port() -> None:
    assert [(each.user, each.address, each.tls) for each in redis_connections(CLIENTS, 6379)] == [
        ("shop", "10.0.0.2", False),
        ("shop", "10.0.0.2", True),
        ("shop-producer", "fd00::9", False),
    ]
    assert all(each.tls for each in redis_connections(CLIENTS, 0))


def test_connections_are_counted_by_user_and_host() -> None:
    plain = Connection("shop", "10.0.0.2", tls=False)
    connections = [plain, Connection("", "10.0.0.9", tls=True), plain, Connection("shop", "10.0.0.2", tls=True)]
    assert [(each["tls"], each["description"]) for each in clients(connections, {"10.0.0.2": "worker1"})] == [
        (True, "nobody from 10.0.0.9 (1 connection)"),
        (False, "shop from worker1 (2 connections)"),
        (True, "shop from worker1 (1 connection)"),
    ]
