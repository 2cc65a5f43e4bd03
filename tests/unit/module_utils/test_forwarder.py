"""The configuration of the service that moves messages between brokers, and when the previous one can be stopped."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._forwarder import forwarder_config
from ansible_collections.fleet.celery.plugins.module_utils._retire import retire_problems
from move import moved

SOURCE, TARGET = {"user": "shop-admin", "password": "a:b"}, {"user": "root", "password": "c"}


def plan(old: str, new: str, *hosts: str, **changes: Any) -> dict[str, Any]:
    return moved(*(hosts or ("old1",)), broker=new, broker_previous=old, **changes).values


def test_rabbitmq_to_redis() -> None:
    config = forwarder_config(plan("rabbitmq", "redis", tls="only"), SOURCE, TARGET)
    assert config["source"]["hostname"] == "amqps://shop-admin:a%3Ab@10.0.1.0:5671/shop"
    assert config["source"]["ssl"] == {
        "ca_certs": "/etc/celery-fleet/tls/ca.crt",
        "cert_reqs": 2,
        "server_hostname": "10.0.1.0",
    }
    assert config["target"]["hostname"] == "rediss://root:c@10.0.2.0:6380/0"
    assert config["target"]["ssl"]["ssl_check_hostname"]
    assert config["target"]["transport_options"]["global_keyprefix"] == "shop:"
    # Workers of Redis keep delayed messages, and nobody would look at its dead letters.
    assert config["delayed_queues"] == []
    assert "shop.dead" not in config["queues"]


def test_redis_to_rabbitmq() -> None:
    made = plan("redis", "rabbitmq", tls="off")
    config = forwarder_config(made, SOURCE, TARGET)
    assert config["source"]["hostname"] == "redis://shop-admin:a%3Ab@10.0.1.0:6379/0"
    assert config["source"]["ssl"] is False
    assert (
        config["source"]["transport_options"]["visibility_timeout"] == made["broker"]["previous"]["visibility_timeout"]
    )
    assert config["target"]["transport_options"]["confirm_publish"]
    assert config["delayed_queues"] == [queue["name"] for queue in made["queues"]]
    assert config["queues"][-1] == "shop.dead"


def test_sentinels_know_the_administrator() -> None:
    config = forwarder_config(plan("redis", "rabbitmq", "old1", "old2", "old3", tls="only"), SOURCE, TARGET)
    assert config["source"]["hostname"].count("sentinel://shop-admin:a%3Ab@") == 3
    options = config["source"]["transport_options"]
    assert options["master_name"] == "shop"
    assert (options["sentinel_kwargs"]["username"], options["sentinel_kwargs"]["password"]) == ("shop-admin", "a:b")


def client(user: str, host: str) -> dict[str, Any]:
    return {"user": user, "host": host, "description": f"{user} from {host} (1 connection)"}


def test_an_empty_broker_without_clients_is_not_used() -> None:
    own = [client("shop-metrics", "127.0.0.1"), client("shop-replication", "old1"), client("shop-admin", "new1")]
    assert retire_problems(plan("redis", "rabbitmq"), "shop-admin", own, [{"customers": 0, "unacked": 0}]) == []


@pytest.mark.parametrize("host", ["worker1", "old1", "10.9.9.9"])
def test_a_client_is_named(host: str) -> None:
    (problem,) = retire_problems(plan("redis", "rabbitmq"), "shop-admin", [client("shop", host)], [{"customers": 0}])
    assert f"shop from {host} (1 connection). Restart" in problem


def test_the_largest_count_of_all_hosts_counts() -> None:
    (problem,) = retire_problems(
        plan("redis", "rabbitmq"), "shop-admin", [], [{"a": 0, "unacked": 2}, {"a": 3, "unacked": 0}]
    )
    assert "Messages are left: a 3, unacked 2. Those of unacked are held by workers" in problem
    assert "log of shop-forwarder on new1" in problem


def test_dead_letters_stay_where_redis_has_no_place_for_them() -> None:
    (problem,) = retire_problems(plan("rabbitmq", "redis"), "shop-admin", [], [{"shop.dead": 3}])
    assert "Those of shop.dead do not move" in problem
    signed = plan("rabbitmq", "redis", signed_messages="only")
    (problem,) = retire_problems(signed, "shop-admin", [], [{"shop.dead": 3}])
    assert "do not move" not in problem
