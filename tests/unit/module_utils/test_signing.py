"""Signed messages in the declaration and the plan: the mode, the replay cache, and what it needs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._declaration import read_declaration
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from ansible_collections.fleet.celery.plugins.module_utils._signing import SigningOptions
from ansible_collections.fleet.celery.plugins.module_utils._sizing import SHARE
from ansible_collections.fleet.celery.plugins.module_utils._table import plan_tables
from fleet import FACTS, GROUPS, MIB, declaration

ON = {"signed_messages": "only"}


def plan(**options: Any) -> Plan:
    # The monitor has the certificates' endpoints.
    facts = {name: values | {"addresses": [values["address"]]} for name, values in FACTS.items()}
    return make_plan(declaration(**options), GROUPS | {"monitor": ["control1"]}, facts)


def signing(**options: Any) -> dict[str, Any]:
    made = plan(**options)
    assert made.problems == ()
    found: dict[str, Any] = made.values["signing"]
    return found


@pytest.mark.parametrize(
    ("given", "mode"),
    [(None, "off"), (False, "off"), ("off", "off"), (True, "only"), ("only", "only"), ("both", "both")],
)
def test_true_and_false_stand_for_only_and_off(given: object, mode: str) -> None:
    read, problems = read_declaration(declaration(signed_messages=given))
    assert problems == []
    assert read.signing.mode == mode


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"signed_messages": "onyl"}, "celery_signed_messages: 'onyl' is not a valid value (did you mean 'only'?)"),
        ({"signed_messages_window": 900}, "celery_signed_messages_window: has no effect, because messages are not"),
        ({"replay_cache_memory": "1GB"}, "celery_replay_cache_memory: has no effect, because messages are not"),
        (ON | {"signed_messages_window": 599}, "celery_signed_messages_window: 599 is not a number of seconds of at"),
        (ON | {"replay_cache_memory": "1MB"}, "celery_replay_cache_memory: 1 MB is less than 16 MB"),
        (ON | {"replay_cache_memory": "128"}, "celery_replay_cache_memory: '128' is not a size with a unit"),
        (
            ON | {"settings": {"task_serializer": "pickle", "accept_content": ["json", "application/x-yaml"]}},
            "celery_settings: task_serializer: pickle, accept_content: application/x-yaml lets a message run code",
        ),
        (ON | {"settings": {"result_serializer": "YAML"}}, "result_serializer: YAML lets a message run code"),
        (ON | {"broker_port": 6379, "tls": "both"}, "celery_broker_port: 6379 is the port of the replay cache"),
        (ON | {"broker_tls_port": 6380}, "celery_broker_tls_port: 6380 is the port of the replay cache"),
        (
            ON | {"broker": "redis", "signed_messages_window": 3600},
            "celery_signed_messages_window: 3600 s is below the visibility timeout of 5100 s",
        ),
    ],
)
def test_mistakes_are_refused(raw: dict[str, Any], problem: str) -> None:
    (found,) = plan(**raw).problems
    assert problem in str(found)


@pytest.mark.parametrize("settings", [{"task_serializer": "msgpack"}, {"accept_content": ["json", "msgpack"]}])
def test_serializers_that_run_no_code_may_stay(settings: dict[str, Any]) -> None:
    assert plan(**ON, settings=settings).problems == ()
    assert plan(settings={"task_serializer": "pickle"}).problems == ()


def test_a_fleet_without_signed_messages_has_no_replay_cache() -> None:
    made = plan(signed_messages=False)
    assert made.values["signing"] == {}
    assert "redis_replay" not in made.fleet.passwords
    assert "replay cache" not in "\n".join(plan_tables(made.fleet)).lower()


@pytest.mark.parametrize(
    ("tls", "ports"),
    [("only", (6380, True, 0, 6380)), ("both", (6380, True, 6379, 6380)), ("off", (6379, False, 6379, 0))],
)
def test_beside_rabbitmq_the_cache_is_a_server_of_its_own(tls: str, ports: tuple[int, bool, int, int]) -> None:
    found = signing(signed_messages="both", signed_messages_window=900, replay_cache_memory="64MB", tls=tls)
    cache = found["replay_cache"]
    assert (cache["port"], cache["tls"], cache["plain_port"], cache["tls_port"]) == ports
    assert (found["mode"], found["window"], cache["memory"]) == ("both", 900, 64 * MIB)
    assert (cache["host"], cache["address"]) == ("broker1", "10.0.0.1")
    assert (cache["user"], cache["key_prefix"], cache["maxclients"]) == ("shop-replay", "shop:replay:", 1000)


def test_on_redis_the_cache_is_the_broker() -> None:
    made = plan(**ON, broker="redis", broker_tls_port=7000, key_prefix="mine:")
    cache = made.values["signing"]["replay_cache"]
    assert (cache["port"], cache["tls"], cache["key_prefix"]) == (7000, True, "mine:replay:")
    assert cache["address"] == made.fleet.broker.address
    assert "replay cache" not in made.fleet.hosts["broker1"].memory.parts
    assert not [each for each in made.fleet.hosts["broker1"].listeners if "Replay" in each.service]


def test_redis_needs_the_memory_of_the_cache_and_its_connections() -> None:
    without, limits = (plan(**options, broker="redis").fleet.broker.limits for options in ({}, ON))
    assert limits.memory_needed - without.memory_needed == pytest.approx(1.25 * SigningOptions.memory, abs=20 * MIB)
    assert "replay cache 128 MB" in limits.arithmetic
    assert limits.disk_needed > without.disk_needed
    # Two hosts with two workers of 4 and 2 children.
    assert limits.connections - without.connections == 2 * (5 + 3)


def test_beside_rabbitmq_the_cache_is_a_part_of_the_hosts_memory() -> None:
    made, without = plan(**ON), plan()
    parts = made.fleet.hosts["broker1"].memory.parts
    assert parts["replay cache"] == pytest.approx(SigningOptions.memory / SHARE, abs=1)
    assert made.fleet.broker.limits.memory_needed == without.fleet.broker.limits.memory_needed
    assert made.fleet.broker.limits.memory < without.fleet.broker.limits.memory
    assert not any("replay cache" in host.memory.parts for name, host in made.fleet.hosts.items() if name != "broker1")
    assert "/var/lib/redis" in made.fleet.mount_points
    assert "/var/lib/redis" not in without.fleet.mount_points
    (problem,) = plan(**ON, replay_cache_memory="3GB").problems
    assert "replay cache 5 GB" in problem.what
    assert "lower celery_replay_cache_memory" in problem.fix


def test_only_hosts_with_workers_reach_the_cache() -> None:
    for tls, expected in (
        ("only", {"Replay cache, TLS": 6380}),
        ("both", {"Replay cache": 6379, "Replay cache, TLS": 6380}),
        ("off", {"Replay cache": 6379}),
    ):
        listeners = plan(**ON, tls=tls).fleet.hosts["broker1"].listeners
        found = {each.service: each for each in listeners if "Replay" in each.service}
        assert {service: each.port for service, each in found.items()} == expected
        assert {each.hosts for each in found.values()} == {("worker1", "worker2")}
        assert {each.addresses for each in found.values()} == {("10.0.0.2", "10.0.0.3")}
        assert {each.networks for each in found.values()} == {()}


def test_the_certificate_of_the_cache_is_monitored() -> None:
    assert "10.0.0.1:6380" in plan(**ON).fleet.certificates
    assert "10.0.0.1:6380" not in plan(**ON, tls="off").fleet.certificates
    assert "10.0.0.1:6380" not in plan().fleet.certificates
    assert plan(**ON, broker="redis").fleet.certificates.count("10.0.0.1:6380") == 1


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_the_passwords_of_the_cache_are_rotated(broker: str) -> None:
    passwords = plan(**ON, broker=broker).fleet.passwords
    assert passwords["redis_replay"] == passwords["redis_administrator"] == "broker1"
    assert ("redis_monitoring" in passwords) == (broker == "redis")


def test_the_table_shows_the_cache() -> None:
    lines = plan_tables(plan(**ON).fleet)
    assert lines[-1] == (
        "replay cache: on broker1 (10.0.0.1:6380), limit 128 MB; messages may be started within 86400 s"
    )
