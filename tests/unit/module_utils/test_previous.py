"""The plan of a fleet that leaves its broker."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq_messages import counting, read_counts
from ansible_collections.fleet.celery.plugins.module_utils._shovels import celery_shovels, shovel_uris
from fleet import FACTS, GROUPS, declaration
from tier import refusals

OLD: dict[str, Any] = {
    "address": "10.0.1.1",
    "addresses": ["10.0.1.1"],
    "memory_mb": 8192,
    "processors": 2,
    "system": ["Debian", "12"],
}


def moved(
    *previous: str, brokers: tuple[str, ...] = ("new1",), facts: dict[str, dict[str, Any]] | None = None, **changes: Any
) -> Plan:
    """Return the plan of a fleet that leaves the hosts `previous` for the hosts `brokers`."""
    own = {name: OLD | {"address": f"10.0.1.{at}", "addresses": [f"10.0.1.{at}"]} for at, name in enumerate(previous)}
    own |= {
        name: OLD | {"address": f"10.0.2.{at}", "addresses": [f"10.0.2.{at}"], "system": ["Debian", "13"]}
        for at, name in enumerate(brokers)
    }
    given = {name: values | (facts or {}).get(name, {}) for name, values in own.items()}
    groups = GROUPS | {
        "all": [*GROUPS["all"], *previous, *brokers],
        "broker": [*brokers],
        "broker_previous": [*previous],
    }
    return make_plan(declaration(**changes), groups, {**FACTS, **given})


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
    assert (previous["port"], previous["tls"]) == ((5671, True) if tls == "only" else (5672, False))
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
        ({"broker": "redis"}, "moved to a RabbitMQ of the fleet only, and the broker is redis"),
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
