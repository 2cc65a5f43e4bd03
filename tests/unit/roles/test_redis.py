"""The role redis: refused variables, and the ACL file."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._platforms import platform_of
from ansible_collections.fleet.celery.plugins.module_utils._role_options import redis_memory
from ansible_collections.fleet.celery.plugins.modules.redis_users import commands_for, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from role import Role

FACTS = {"memtotal_mb": 4096, "distribution": "Debian", "distribution_major_version": "13"}
USERS = ("application", "administrator", "monitoring", "metrics", "reader")
ROLE = Role(
    "redis",
    ansible_facts=FACTS,
    __redis_maxmemory=redis_memory("60%", 4 << 30),
    __redis_platform=asdict(platform_of("Debian", 13)),
    **{f"redis_{user}_password": user for user in USERS},
)
REPLAY = {"redis_replay_user": "celery-replay", "redis_replay_password": "replay"}
ONLY_REPLAY = REPLAY | {
    f"redis_{user}_{what}": ""
    for user in ("application", "monitoring", "metrics", "reader")
    for what in ("user", "password")
}
BLOG = {"user": "blog", "password": "x", "key_prefix": "blog:"}


def users(**given: Any) -> dict[str, list[str]]:
    """Return the rules of each user in the rendered ACL file."""
    lines = [line.split(" ") for line in ROLE.render("users.acl.j2", **given).splitlines() if line]
    assert {line[0] for line in lines} == {"user"}
    return {line[1]: line[2:] for line in lines}


def test_the_defaults_are_valid() -> None:
    assert ROLE.problems() == []


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"redis_flavor": "keydb"}, "keydb is neither redis nor valkey"),
        (
            {"redis_flavor": "valkey", "ansible_facts": FACTS | {"distribution_major_version": "12"}},
            "Debian 12 has no Valkey",
        ),
        ({"redis_maxmemory_policy": "allkeys-lru"}, "with allkeys-lru a full Redis would drop queued tasks"),
        ({"redis_maxmemory": "lots"}, "lots is neither a size"),
        ({"redis_maxmemory": 512}, "512 is 512 bytes"),
        ({"redis_maxmemory": 0}, "0 is 0 bytes"),
        ({"redis_maxmemory": "5gb"}, "5368709120 bytes, but the host has 4294967296"),
        ({"redis_maxmemory": "101%"}, "but the host has"),
        ({"redis_appendfsync": "sometimes"}, "sometimes is none of"),
        ({"redis_broker_database": 16}, "16 is too low for the database 16 of an application"),
        ({"redis_monitoring_user": "celery"}, "celery is the name of two users"),
        ({"redis_application_user": "my shop"}, "'my shop' can't be the name"),
        ({"redis_queues": ["a\nuser x on nopass"]}, "can't be the name"),
        ({"redis_key_prefix": "shop"}, "'shop' is not valid"),
        ({"redis_key_prefix": "*:"}, "'*:' is not valid"),
        (REPLAY | {"redis_replay_key_prefix": "*"}, "redis_replay_key_prefix: '*' is not valid"),
        (REPLAY | {"redis_replay_key_prefix": ""}, "redis_replay_key_prefix: must not be empty"),
        (REPLAY | {"redis_replay_user": "celery"}, "celery is the name of two users"),
        ({"redis_other_applications": [BLOG]}, "need a key prefix each"),
        ({"redis_other_applications": [BLOG], "redis_key_prefix": "blog:"}, "need a key prefix each"),
        ({"redis_settings": {"Port": 1}}, "redis_settings: port is set by the role"),
        ({"redis_settings": {"maxmemory-policy": "allkeys-lru"}}, "maxmemory-policy is set by the role"),
        ({"redis_settings": {"loglevel": "notice\nport 1"}}, "contains a line break"),
    ],
)
def test_invalid_values_are_refused(variables: dict[str, Any], problem: str) -> None:
    problems = ROLE.problems(**variables)
    assert len(problems) == 1
    assert problem in problems[0]


def test_all_problems_are_named_at_once() -> None:
    wrong = {"redis_flavor": "x", "redis_maxmemory_policy": "x", "redis_maxmemory": "5gb", "redis_appendfsync": "x"}
    assert len(ROLE.problems(**wrong)) == 4


@pytest.mark.parametrize(
    ("given_", "size"),
    [("60%", 2576980377), ("512mb", 512 << 20), ("512M", 512_000_000), ("1GB", 1 << 30), (8_388_608, 8_388_608)],
)
def test_sizes_are_read_as_redis_reads_them(given_: object, size: int) -> None:
    assert redis_memory(given_, 4 << 30) == size


@settings(max_examples=25)
@given(st.text(min_size=1))
def test_only_hashes_of_passwords_are_written(password: str) -> None:
    rules = users(redis_application_password=password)["celery"]
    assert rules[:2] == ["on", "#" + hashlib.sha256(password.encode()).hexdigest()]


def test_no_user_can_log_in_without_a_password() -> None:
    every = users()
    assert every.pop("default")[:2] == ["off", "resetpass"]
    for rules in every.values():
        assert re.fullmatch("#[0-9a-f]{64}", rules[1])
    assert "nopass" not in ROLE.render("users.acl.j2")


def test_each_key_and_channel_of_an_application_has_its_prefix() -> None:
    every = users(redis_key_prefix="shop:", redis_other_applications=[BLOG], redis_fanout_exchanges=["notices"])
    for user, prefix in (("celery", "shop:"), ("blog", "blog:")):
        patterns = [rule for rule in every[user] if rule[0] in "~&"]
        assert patterns
        assert all(rule[1:].startswith(prefix) for rule in patterns)
    assert "&shop:/0.notices/celery" in every["celery"]
    assert "&blog:/0.celery.pidbox" in every["blog"]


def test_a_queues_name_is_no_pattern() -> None:
    rules = users(redis_queues=["a*[b]?"])["celery"]
    assert r"~a\*\[b\]\?" in rules
    assert "~a\\*\\[b\\]\\?\x06\x16*" in rules


def test_the_application_may_not_do_what_harms_others() -> None:
    granted = {rule[1:] for rule in users()["celery"] if rule[0] == "+"}
    assert not granted & {"flushall", "flushdb", "config", "keys", "debug", "eval", "acl", "shutdown", "scan", "@all"}


def test_the_metrics_user_reads_the_queues_and_no_other_key() -> None:
    rules = users(redis_key_prefix="shop:", redis_queues=["email", "a*"])["celery-metrics"]
    assert {rule for rule in rules if rule[0] in "%~&"} == {
        "%R~shop:email",
        "%R~shop:email\x06\x16*",
        r"%R~shop:a\*",
        "%R~shop:a\\*\x06\x16*",
        "%R~shop:unacked",
    }
    granted = {rule[1:] for rule in rules if rule[0] == "+"}
    assert granted >= {"eval", "llen", "lindex", "hlen", "info"}
    assert not granted & {"@all", "@read", "get", "lrange", "hget", "hgetall", "keys", "scan", "config|get"}


@pytest.mark.parametrize("control", [False, True])
def test_flower_sends_tasks_only_if_it_may_control(control: bool) -> None:
    given = {"redis_flower_user": "flower", "redis_flower_password": "x", "redis_flower_control": control}
    rules = users(redis_key_prefix="shop:", redis_queues=["email"], **given)["flower"]
    assert ("%RW~shop:email" in rules) == control
    assert ("%R~shop:email" in rules) == (not control)
    assert ("+lpush" in rules) == control
    assert "%R~shop:unacked_index" in rules
    assert "&shop:/0.celery.pidbox" in rules
    assert not {"+lrange", "+hget", "+rpush", "+eval", "+@all"} & {*rules}


def test_the_replay_cache_has_its_own_keys_and_few_commands() -> None:
    rules = users(redis_key_prefix="shop:", **REPLAY)["celery-replay"]
    assert [rule for rule in rules if rule[0] in "%~&"] == ["~shop:replay:*"]
    granted = {rule[1:] for rule in rules if rule[0] == "+"}
    assert granted == {"ping", "eval", "get", "set", "expire", "del", "exists", "client|setinfo"}
    assert "celery-replay" not in users()


@pytest.mark.parametrize("user", ["celery", "flower", "producer", "celery-metrics"])
def test_no_other_user_writes_keys_of_the_replay_cache(user: str) -> None:
    flower = {"redis_flower_user": "flower", "redis_flower_password": "x", "redis_flower_control": True}
    producer = {"redis_producer_user": "producer", "redis_producer_password": "x"}
    made = users(redis_key_prefix="shop:", redis_queues=["replay", "a*"], **REPLAY, **flower, **producer)
    patterns = [rule.partition("~")[2] for rule in made[user] if rule[0] in "%~"]
    assert patterns
    for key in ("5f2b0c1e-6f0c-4a53-9d1c-2f6f5a1f4a10", "e3b0c44298fc1c149afbf4c8996fb924"):
        assert not [pattern for pattern in patterns if fnmatchcase(f"shop:replay:{key}", pattern)]


def test_a_server_may_have_the_replay_cache_alone() -> None:
    assert set(users(**ONLY_REPLAY)) == {"default", "celery-admin", "celery-replay"}
    assert ROLE.problems(**ONLY_REPLAY) == []


def test_settings_become_lines() -> None:
    text = ROLE.render(
        "redis.conf.j2", redis_settings={"tcp-keepalive": 60, "activedefrag": False, "rdbcompression": True}
    )
    assert text.endswith("\nactivedefrag no\nrdbcompression yes\ntcp-keepalive 60\n")


@pytest.mark.parametrize(("servers", "replicas"), [(3, 1), (5, 2)])
def test_a_primary_without_a_majority_refuses_tasks(servers: int, replicas: int) -> None:
    members = [f"10.0.0.{number}" for number in range(servers)]
    settings = ROLE.value("__redis_replication_settings", redis_members=members, redis_replication_password="x")
    assert int(settings["min-replicas-to-write"]) == replicas


def test_the_order_in_which_a_server_lists_users_and_commands_is_no_change(tmp_path: Path) -> None:
    acl_file = tmp_path / "users.acl"
    acl_file.write_text("user a on +get +set\n")
    state = state_of(acl_file, "user a on +get +set\nuser b off\n")
    assert state_of(acl_file, "user b off\nuser a on +set +get\n") == state
    assert state_of(acl_file, "user a on sanitize-payload +get +set\nuser b off\n") == state
    assert state_of(acl_file, "user a on +get +set +del\nuser b off\n") != state
    acl_file.write_text("user a on +get\n")
    assert state_of(acl_file, "user a on +get +set\nuser b off\n") != state


def test_passwords_stay_valid_if_they_are_kept() -> None:
    def present(**given: Any) -> dict[str, Any]:
        content = base64.b64encode(ROLE.render("users.acl.j2", **given).encode()).decode()
        return given | {"__redis_present": {"content": content}, "redis_keep_passwords": ["application"]}

    def digests(**given: Any) -> list[list[str]]:
        made = users(**given)
        return [re.findall("#([0-9a-f]{64})", " ".join(made[user])) for user in ("celery", "celery-monitor")]

    first, second = (hashlib.sha256(password.encode()).hexdigest() for password in ("one", "two"))
    monitoring = hashlib.sha256(b"new").hexdigest()
    new = {"redis_application_password": "two", "redis_monitoring_password": "new"}
    both = present(redis_application_password="one") | new
    assert digests(**both) == [[second, first], [monitoring]]
    # A second run changes nothing.
    assert users(**present(**both) | new) == users(**both)
    assert digests(**both | {"redis_keep_passwords": []}) == [[second], [monitoring]]
    assert digests(redis_keep_passwords=["application"], __redis_present={"failed": True})


def test_users_without_an_option_stay_if_they_are_kept() -> None:
    before = ROLE.render("users.acl.j2", **REPLAY)
    content = base64.b64encode(before.encode()).decode()
    kept = {"__redis_present": {"content": content}, "redis_keep_users": True}
    after = users(**kept)
    assert after["celery-replay"] == users(**REPLAY)["celery-replay"]
    assert {name: rules for name, rules in after.items() if name != "celery-replay"} == users()
    assert users(**kept, **REPLAY) == users(**REPLAY)
    assert "celery-replay" not in users(**kept | {"redis_keep_users": False})
    assert users(redis_keep_users=True, __redis_present={"failed": True}) == users()


def test_an_acl_file_is_applied_by_commands_that_close_no_connection_of_its_users() -> None:
    listed = "user default off\nuser shop on #1 ~*\nuser gone on nopass\n"
    assert commands_for("user default off\n\nuser shop on #2  -@all\n", listed) == [
        ["ACL", "SETUSER", "default", "reset", "off"],
        ["ACL", "SETUSER", "shop", "reset", "on", "#2", "-@all"],
        ["ACL", "DELUSER", "gone"],
    ]
