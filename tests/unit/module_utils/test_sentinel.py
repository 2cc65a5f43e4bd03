"""The plan of a broker with several servers of Redis, and who is the primary of a new server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._doctor import Fleet, Limits, replication
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from ansible_collections.fleet.celery.plugins.module_utils._sentinel import initial_primary
from ansible_collections.fleet.celery.plugins.module_utils._table import plan_tables
from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url, result_url
from fleet import FACTS, GROUPS, declaration
from kombu.utils.url import parse_url

ADDRESSES = ("10.0.0.200", "10.0.0.201", "10.0.0.202")
BROKERS = ("broker1", "broker2", "broker3")


def tier(number: int = 3, *, addresses: tuple[str, ...] = ADDRESSES, **changes: Any) -> Plan:
    """Return the plan of a fleet with so many servers of Redis."""
    own: dict[str, dict[str, Any]] = {
        name: {"memory_mb": 8192, "processors": 2, "address": each, "addresses": [each], "system": ["Debian", "13"]}
        for name, each in zip(BROKERS[:number], addresses, strict=False)
    }
    groups = GROUPS | {"all": [*GROUPS["all"], *own], "broker": [*own]}
    return make_plan(declaration(**{"broker": "redis"} | changes), groups, FACTS | own)


def refusals(made: Plan) -> str:
    return "\n".join(map(str, made.problems))


def test_a_majority_of_sentinels_decides() -> None:
    sentinel = tier().values["broker"]["sentinel"]
    assert sentinel == {
        "master_name": "shop",
        "addresses": [*ADDRESSES],
        "port": 26379,
        "server_port": 6380,
        "quorum": 2,
        "tls": True,
    }
    assert tier(1).values["broker"]["sentinel"] is None
    assert tier(tls="off").values["broker"]["sentinel"]["server_port"] == 6379


def test_clients_know_all_sentinels_and_no_server() -> None:
    broker = tier().values["broker"]
    for url, database in ((broker_url(broker, "a/;b"), "0"), (result_url(broker, "a/;b"), "1")):
        parts = [parse_url(each) for each in url.split(";")]
        assert [(each["hostname"], each["port"], each["password"], each["virtual_host"]) for each in parts] == [
            (address, 26379, "a/;b", database) for address in ADDRESSES
        ]
        assert {each["transport"] for each in parts} == {"sentinel"}


def test_clients_verify_the_certificates_of_sentinels_too() -> None:
    for name in ("broker_transport_options", "result_backend_transport_options"):
        options = tier().values["settings"][name]["value"]
        assert options["master_name"] == "shop"
        assert options["sentinel_kwargs"]["ssl"] is True
        assert options["sentinel_kwargs"]["ssl_cert_reqs"] == "required"
        # Without them, redis-py waits for a Sentinel without an end.
        assert {"socket_timeout", "socket_connect_timeout"} <= set(options["sentinel_kwargs"])
        assert "ssl" not in tier(tls="off").values["settings"][name]["value"]["sentinel_kwargs"]
        assert "sentinel_kwargs" not in tier(1).values["settings"][name]["value"]


def test_a_certificate_has_the_own_address_and_not_that_of_another_server() -> None:
    hosts = tier().values["certificate_hosts"]
    for name, address in zip(BROKERS, ADDRESSES, strict=True):
        assert address in hosts[name]["names"]
        assert not {*ADDRESSES} - {address} & {*hosts[name]["names"]}


@pytest.mark.parametrize("number", [1, 3])
def test_a_client_tries_each_sentinel_as_often_as_one_server(number: int) -> None:
    """kombu waits between rounds, and counts the attempts of all rounds."""
    settings = tier(number).values["settings"]
    policies = [settings[f"{name}"]["value"] for name in ("task_publish_retry_policy", "broker_transport_options")]
    assert [policy["max_retries"] for policy in policies] == [20 * number] * 2


def test_peers_and_clients_reach_the_server_and_its_sentinel() -> None:
    listeners = {each["port"]: each for each in tier().values["hosts"]["broker2"]["listeners"]}
    for port in (6380, 26379):
        assert {"broker1", "broker3", "worker1"} <= set(listeners[port]["hosts"])
    assert 26379 not in {each["port"] for each in tier(1).values["hosts"]["broker1"]["listeners"]}


def test_what_sentinels_can_not_do_is_refused() -> None:
    assert "celery_broker_address: has no effect" in refusals(tier(broker_address="10.0.0.9"))
    assert "26379 is the port of the Sentinels" in refusals(tier(broker_tls_port=26379))
    named = tier(addresses=("10.0.0.200", "b.example.com", "10.0.0.202"))
    assert "celery_host_address of broker2: 'b.example.com' is a name" in refusals(named)


def test_the_replay_cache_is_on_the_primary() -> None:
    made = tier(signed_messages="only")
    assert not refusals(made)
    assert made.values["signing"]["replay_cache"]["sentinel"] == made.values["broker"]["sentinel"]
    (line,) = [line for line in plan_tables(made.fleet) if line.startswith("replay cache")]
    assert line.startswith("replay cache: on the primary of broker1, broker2, broker3, limit 128")


def test_passwords_of_replication_are_rotated_as_others() -> None:
    assert {"redis_replication", "redis_failover", "redis_sentinel"} <= tier().values["passwords"].keys()
    assert "redis_sentinel" not in tier(1).values["passwords"]


def known(address: str, **given: Any) -> str:
    return json.dumps({"address": address, "configured": "", "sentinel": "", "data": False} | given)


@pytest.mark.parametrize(
    ("answers", "primary"),
    [
        ([], "a"),
        ([known("a"), known("b"), known("c")], "a"),
        # One host becomes three. Its tasks stay.
        ([known("a"), known("b", data=True), known("c")], "b"),
        # An interrupted first run.
        ([known("a"), known("b", configured="b", data=True), known("c")], "b"),
        ([known("a"), known("b", configured="c")], "c"),
        # A new host joins, whatever else it finds.
        ([known("a", sentinel="c", data=True)], "c"),
        ([known("a", sentinel="b"), known("b", configured="b"), known("c", configured="b")], "b"),
    ],
)
def test_a_new_server_replicates_the_primary(answers: list[str], primary: str) -> None:
    assert initial_primary(answers, ["a", "b", "c"]) == primary


@pytest.mark.parametrize(
    "answers",
    [
        [known("a", data=True), known("b", data=True)],
        [known("a", sentinel="b"), known("b", sentinel="c")],
        [known("a"), known("b", configured="b"), known("c", configured="c")],
    ],
)
def test_a_primary_is_not_guessed(answers: list[str]) -> None:
    with pytest.raises(ValueError, match="The primary can't be determined"):
        initial_primary(answers, ["a", "b", "c"])


PRIMARY = {"role": "master", "link": "", "replicas": 2, "sentinel": ""}
REPLICA = {"role": "slave", "link": "up", "replicas": 0, "sentinel": ""}


def diagnosed(**changes: dict[str, Any] | None) -> str:
    """Return what the doctor says of three servers, of which some differ; None: its server is down."""
    planned: dict[str, Any] = {name: {} for name in BROKERS}
    plan = {"broker": {"flavor": "valkey", "host": "broker1", "sentinel": {"master_name": "shop"}, "members": planned}}
    states = {"broker1": PRIMARY, "broker2": REPLICA, "broker3": REPLICA} | changes
    hosts: dict[str, Any] = {
        name: {"broker": {"error": "refused"} if state is None else {"alarms": [], "replication": state}}
        for name, state in states.items()
    }
    return "\n".join(f"{found.where}: {found.what}" for found in replication(Fleet(plan, hosts), Limits()))


def test_the_doctor_says_what_a_fail_over_lacks() -> None:
    assert diagnosed() == ""
    assert diagnosed(broker2=None, broker1=PRIMARY | {"replicas": 1}).splitlines() == [
        "valkey on broker1: has 1 replicas, 1 less than planned",
    ]
    assert "valkey: broker1 and broker2 are primaries" in diagnosed(broker2=PRIMARY)
    assert "valkey: no server is the primary" in diagnosed(broker1=REPLICA)
    assert "broker3: does not receive the primary's data" in diagnosed(broker3=REPLICA | {"link": "down"})
    assert "its Sentinel can't fail over: NOQUORUM" in diagnosed(broker3=REPLICA | {"sentinel": "NOQUORUM"})
