"""The plan of a fleet that leaves its broker."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq_messages import counting, read_counts
from ansible_collections.fleet.celery.plugins.module_utils._shovels import celery_shovels, shovel_uris
from move import moved
from tier import refusals


def test_hosts_with_the_two_releases_of_debian_are_of_two_brokers() -> None:
    made = moved("old1", brokers=("new1", "new2", "new3"))
    assert not made.problems
    broker = made.values["broker"]
    assert broker["previous"]["members"] == {"old1": {"address": "10.0.1.0", "server_name": "old1"}}
    assert list(broker["members"]) == ["new1", "new2", "new3"]
    assert any("run broker_retire.yml" in warning for warning in made.warnings)


def test_without_previous_hosts_nothing_is_moved() -> None:
    made = moved()
    assert made.values["broker"]["previous"] is None
    assert not any("moved" in host["duties"] for host in made.values["hosts"].values())


def test_hosts_of_the_broker_and_of_the_application_are_moved_and_the_old_one_is_not() -> None:
    hosts = moved("old1").values["hosts"]
    assert hosts["old1"]["duties"][0] == "previous"
    assert {name for name, host in hosts.items() if "moved" in host["duties"]} == {
        name for name, host in hosts.items() if {"app", "rabbitmq"} & {*host["duties"]}
    }


@pytest.mark.parametrize("tls", ["off", "only"])
def test_the_new_broker_and_all_clients_reach_the_old_one(tls: str) -> None:
    made = moved("old1", firewall=True, tls=tls)
    previous = made.values["broker"]["previous"]
    assert (previous["port"], previous["tls_port"]) == ((5671, 5671) if tls == "only" else (5672, 0))
    hosts = made.values["hosts"]
    (reached,) = [each["hosts"] for each in hosts["old1"]["listeners"] if each["port"] == previous["port"]]
    (new,) = [each["hosts"] for each in hosts["new1"]["listeners"] if each["port"] == previous["port"]]
    assert [name for name in reached if name != "new1"] == new
    assert "new1" in reached
    if tls == "only":
        assert "10.0.1.0" in made.values["certificate_hosts"]["old1"]["names"]


def test_a_cluster_that_replaces_a_cluster_has_another_name() -> None:
    broker = moved("old1", "old2", "old3", brokers=("new1", "new2", "new3")).values["broker"]
    assert broker["address"] == "shop-broker-new1"
    assert broker["previous"]["address"] == "shop-broker-old1"
    assert {*broker["name_addresses"]} == {*broker["previous"]["name_addresses"]}


def test_a_node_is_verified_by_a_name_in_its_certificate() -> None:
    members = moved("old_1", "old_2", "old_3", tls="only").values["broker"]["previous"]["members"]
    assert members["old_2"]["server_name"] == "shop-broker-old-1"
    certificate = {"certificate": "/etc/ssl/own.crt"}
    own = {"certificate": certificate, "names": ["mq.example.com"]}
    members = moved("old1", tls="only", facts={"old1": own}).values["broker"]["previous"]["members"]
    assert members["old1"]["server_name"] == "mq.example.com"


def test_the_name_of_a_cluster_does_not_depend_on_the_order_of_its_hosts() -> None:
    assert moved(brokers=("c", "a", "b")).values["broker"]["address"] == "shop-broker-a"


def test_the_state_of_rotations_moves_with_the_fleet() -> None:
    state = {"second": ["rabbitmq_application"], "rotating": []}
    broker = moved("old1", facts={"old1": {"local": {"shop": state}}}).values["broker"]
    assert broker["user"] == "shop-b"
    assert broker["previous"]["rotations"] == state


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"broker_previous": "kafka"}, "celery_broker_previous: 'kafka' is not a broker"),
        ({"facts": {"old1": {"local": {"shop": {"rotating": ["rabbitmq_flower"]}}}}}, "are still valid"),
        ({"facts": {"old1": {"address": ""}}}, "celery_host_address of old1: is not known"),
        ({"brokers": ("old1",)}, "old1: in the group broker, too"),
    ],
)
def test_what_can_not_be_moved_is_refused(changes: dict[str, Any], refusal: str) -> None:
    assert refusal in refusals(moved("old1", **changes))


def test_a_broker_of_the_users_own_is_not_moved_to() -> None:
    parts = {"kind": "rabbitmq", "address": "mq.example.com", "port": 5671, "tls": True, "user": "u", "space": "s"}
    made = moved("old1", brokers=(), broker_url={**parts, "errors": []})
    assert "the broker is of celery_broker_url" in refusals(made)


def test_messages_move_by_shovels_between_two_brokers_of_rabbitmq_alone() -> None:
    kinds = ("rabbitmq", "redis", "valkey")
    forwarded = {
        (old, new): moved("old1", broker=new, broker_previous=old).values["broker"]["previous"]["forwarded"]
        for old in kinds
        for new in kinds
    }
    assert [pair for pair, by_service in forwarded.items() if not by_service] == [("rabbitmq", "rabbitmq")]


@pytest.mark.parametrize(
    ("old", "new", "ports"), [("redis", "rabbitmq", [6379]), ("rabbitmq", "redis", [5672]), ("redis", "valkey", [6379])]
)
def test_the_previous_broker_is_reached_at_the_ports_of_its_kind(old: str, new: str, ports: list[int]) -> None:
    made = moved("old1", firewall=True, tls="off", broker=new, broker_previous=old)
    assert not made.problems
    listeners = made.values["hosts"]["old1"]["listeners"]
    assert [each["port"] for each in listeners if "new1" in each["hosts"]] == ports
    assert made.values["broker"]["previous"]["port"] == ports[0]


def test_the_replay_cache_beside_a_rabbitmq_that_is_left_stays_open_to_workers() -> None:
    made = moved("old1", tls="off", broker="redis", broker_previous="rabbitmq", signed_messages="only")
    (cache,) = [each for each in made.values["hosts"]["old1"]["listeners"] if each["service"] == "Replay cache"]
    assert cache["port"] == 6379
    assert "control1" not in cache["hosts"]


def test_clients_of_sentinels_that_are_left_still_reach_them() -> None:
    made = moved("old1", "old2", "old3", broker="rabbitmq", broker_previous="valkey", tls="only")
    previous = made.values["broker"]["previous"]
    assert previous["sentinel"]["addresses"] == ["10.0.1.0", "10.0.1.1", "10.0.1.2"]
    assert previous["services"][:1] == ["valkey-sentinel"]
    assert {6380, 26379} <= {each["port"] for each in made.values["hosts"]["old2"]["listeners"]}


@pytest.mark.parametrize(
    ("old", "new", "warned"),
    [
        ("redis", "rabbitmq", ["results in the Redis", "has the reverse meaning"]),
        ("rabbitmq", "redis", ["has the reverse meaning"]),
        ("redis", "valkey", ["results in the Redis"]),
        ("rabbitmq", "rabbitmq", []),
    ],
)
def test_what_does_not_move_is_said(old: str, new: str, warned: list[str]) -> None:
    warnings = moved("old1", broker=new, broker_previous=old).warnings
    said = [part for part in ("results in the Redis", "has the reverse meaning") if any(part in w for w in warnings)]
    assert said == warned


def test_a_kind_of_a_previous_broker_without_hosts_has_no_effect() -> None:
    assert any("celery_broker_previous has no effect" in warning for warning in moved(broker_previous="redis").warnings)


def test_shovels_verify_the_certificate_and_its_name() -> None:
    hosts = [{"address": "10.0.1.1", "server_name": "old1"}, {"address": "10.0.1.2", "server_name": "old2"}]
    previous = {"hosts": hosts, "port": 5671, "user": "shop-admin", "ca": "/etc/ca.crt"}
    assert shovel_uris(previous, "a:b/c@%", "shop") == [
        f"amqps://shop-admin:a%3Ab%2Fc%40%25@{host['address']}:5671/shop"
        f"?cacertfile=/etc/ca.crt&verify=verify_peer&server_name_indication={host['server_name']}"
        for host in hosts
    ]
    assert shovel_uris(previous | {"ca": "", "port": 5672}, "x", "/")[0] == "amqp://shop-admin:x@10.0.1.1:5672/%2F"


def test_a_message_is_removed_once_it_is_confirmed() -> None:
    (shovel,) = celery_shovels({"customers": "shop"}, "shop").values()
    assert shovel["ack-mode"] == "on-confirm"
    assert (shovel["dest-exchange"], shovel["dest-exchange-key"], shovel["dest-uri"]) == (
        "shop",
        "customers",
        ["amqp:///shop"],
    )


def test_the_larger_of_two_counts_of_a_queue_counts() -> None:
    output = (
        '[[{messages,"customers",0},\n  {messages,"a\\"b",2},\n  {messages,"customers",3},{messages,[195,164],1}],\n'
        ' [{moved,"customers",7},{moved,"customers",5}]]\n'
    )
    assert read_counts(output) == ({"customers": 3, 'a"b': 2, "ä": 1}, {"customers": 12})


def test_an_error_is_no_count() -> None:
    with pytest.raises(ValueError, match="noproc"):
        read_counts("{error, noproc}")


def test_a_vhost_is_no_code() -> None:
    assert "Vhost = <<34,125>>" in counting('"}')
