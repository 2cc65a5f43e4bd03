"""The plan of a RabbitMQ cluster, and the state of its nodes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq_cluster import (
    HEARTBEAT,
    HEARTBEAT_LEAST,
    NET_TICKTIME,
    cluster_problems,
    node_host,
)
from tier import BROKERS, refusals, tier

NODES = [f"rabbit@rabbitmq-node-broker{number}" for number in (1, 2, 3)]


def broker(made: Plan) -> dict[str, Any]:
    found: dict[str, Any] = made.values["broker"]
    return found


@pytest.mark.parametrize(
    ("host", "node"),
    [
        ("mq1", "rabbitmq-node-mq1"),
        ("MQ_1.example.com", "rabbitmq-node-mq-1-example-com"),
        ("10.0.0.1", "rabbitmq-node-10-0-0-1"),
        ("x" * 70, f"rabbitmq-node-{'x' * 49}"),
    ],
)
def test_a_nodes_name_is_a_label_of_a_domain_name(host: str, node: str) -> None:
    assert node_host(host) == node


def test_hosts_whose_nodes_would_have_one_name_are_refused() -> None:
    assert "the hosts mq.1 and mq-1: have the same name as nodes" in refusals(tier("mq.1", "mq-1", "mq2"))


def test_the_only_node_of_a_broker_has_no_name_among_others() -> None:
    made = tier("broker1")
    assert [member["node_host"] for member in broker(made)["members"].values()] == [""]
    assert broker(made)["name_addresses"] == {}


def test_each_client_finds_all_nodes_and_another_one_first() -> None:
    found = broker(tier(*BROKERS))["name_addresses"]
    assert {tuple(sorted(addresses)) for addresses in found.values()} == {("10.0.0.200", "10.0.0.201", "10.0.0.202")}
    assert {addresses[0] for addresses in found.values()} == {"10.0.0.200", "10.0.0.201", "10.0.0.202"}


def test_a_name_of_the_users_own_is_not_written_to_hosts() -> None:
    assert broker(tier(*BROKERS, broker_address="mq.example.com"))["name_addresses"] == {}


def test_only_nodes_reach_the_ports_between_nodes() -> None:
    hosts = tier(*BROKERS, firewall=True).values["hosts"]
    reached = {each["port"]: each["hosts"] for each in hosts["broker1"]["listeners"]}
    assert reached[4369] == reached[25672] == reached[35672] == ["broker2", "broker3"]
    alone = {each["port"] for each in tier("broker1", firewall=True).values["hosts"]["broker1"]["listeners"]}
    assert not alone & {4369, 25672, 35672}


def test_the_certificate_of_a_node_has_its_name() -> None:
    names = tier(*BROKERS, tls="only").values["certificate_hosts"]
    assert "rabbitmq-node-broker2" in names["broker2"]["names"]
    assert "rabbitmq-node-broker2" not in names["broker1"]["names"]


def test_a_worker_that_waits_for_the_cluster_keeps_its_connection() -> None:
    settings = tier(*BROKERS).values["settings"]
    assert settings["broker_heartbeat"]["value"] == HEARTBEAT
    assert 2 * HEARTBEAT_LEAST > NET_TICKTIME * 1.25
    assert tier("broker1").values["settings"]["broker_heartbeat"]["value"] == 10


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("broker_heartbeat", 10, "10 s is too short for a broker with several hosts"),
        ("broker_heartbeat", 0, "a worker does not notice that its broker's host has failed"),
        ("control_queue_exclusive", True, "is True, but the queue must be a quorum queue"),
        ("event_queue_durable", False, "is False, but the queue must be a quorum queue"),
    ],
)
def test_settings_that_do_not_survive_a_failed_node_are_refused(name: str, value: object, message: str) -> None:
    assert message in refusals(tier(*BROKERS, settings={name: value}))
    assert message not in refusals(tier("broker1", settings={name: value}))


@pytest.mark.parametrize("given", [{"transient": True}, {"type": "classic"}])
def test_queues_that_one_node_has_are_refused(given: dict[str, Any]) -> None:
    queues = [{"name": "customers", **given}]
    workers = [{"name": "a", "group": "workers", "queues": ["customers"]}]
    message = "the queue would be on one of the broker's hosts"
    assert message in refusals(tier(*BROKERS, queues=queues, workers=workers))
    assert message not in refusals(tier("broker1", queues=queues, workers=workers))


def test_the_replay_cache_is_reached_on_its_own_host_only() -> None:
    made = tier(*BROKERS, signed_messages="both", firewall=True)
    assert not made.problems, refusals(made)
    assert made.values["signing"]["replay_cache"]["address"] == "10.0.0.200"
    assert any("replay cache is on broker1 alone" in warning for warning in made.warnings)
    ports = {name: {each["port"] for each in host["listeners"]} for name, host in made.values["hosts"].items()}
    assert 6380 in ports["broker1"]
    assert 6380 not in ports["broker2"]


@pytest.mark.parametrize(
    ("members", "running", "lacks"),
    [
        (NODES, NODES, []),
        (NODES, NODES[:2], [f"{NODES[2]} does not run"]),
        (NODES[:1], NODES[:1], [f"its cluster lacks {NODES[1]}, {NODES[2]}"]),
        ([*NODES, "rabbit@old"], NODES, ["its cluster has rabbit@old, which the inventory does not have"]),
    ],
)
def test_a_cluster_that_is_not_the_planned_one_is_told(
    members: list[str], running: list[str], lacks: list[str]
) -> None:
    assert cluster_problems({"disk_nodes": members, "running_nodes": running, "partitions": {}}, NODES) == lacks


def test_a_split_cluster_is_told() -> None:
    status = {"disk_nodes": NODES, "running_nodes": NODES, "partitions": {NODES[0]: [NODES[1]]}}
    assert "the cluster is split" in cluster_problems(status, NODES)[0]
