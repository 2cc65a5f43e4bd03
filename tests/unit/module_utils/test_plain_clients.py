"""Clients that are connected to a broker without TLS."""

from __future__ import annotations

import json

from ansible_collections.fleet.celery.plugins.module_utils._plain_clients import (
    describe,
    rabbitmq_clients,
    redis_clients,
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
    assert list(rabbitmq_clients(output)) == [("shop", "10.0.0.2"), ("web", "fd00::9")]
    assert list(rabbitmq_clients("")) == []


def test_connections_to_redis_differ_by_the_port() -> None:
    assert list(redis_clients(CLIENTS, 6379)) == [("shop", "10.0.0.2"), ("shop-producer", "fd00::9")]
    assert list(redis_clients(CLIENTS, 0)) == []


def test_connections_are_counted_by_user_and_host() -> None:
    clients = [("shop", "10.0.0.2"), ("web", "10.0.0.9"), ("shop", "10.0.0.2")]
    assert describe(clients, {"10.0.0.2": "worker1"}) == [
        "shop from worker1 (2 connections)",
        "web from 10.0.0.9 (1 connection)",
    ]
