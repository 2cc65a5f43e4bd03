"""The changes from a broker's definitions to the declared ones."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq import (
    DefinitionsError,
    Desired,
    Difference,
    User,
    difference,
    password_hash,
    password_matches,
)
from ansible_collections.fleet.celery.plugins.modules.rabbitmq_definitions import desired
from hypothesis import given
from hypothesis import strategies as st

SALT = bytes.fromhex("908dc60a")
PATTERNS = {"configure": "^a$", "write": "^b$", "read": "^c$"}
QUORUM = {"name": "shop.dead", "durable": True, "auto_delete": False, "arguments": {"x-queue-type": "quorum"}}
FANOUT = {"name": "shop.dead", "type": "fanout", "durable": True, "auto_delete": False, "arguments": {}}
BINDING = {
    "source": "shop.dead",
    "destination": "shop.dead",
    "destination_type": "queue",
    "routing_key": "",
    "arguments": {},
}
POLICY = {"name": "p", "pattern": "^q$", "apply-to": "queues", "definition": {"delivery-limit": 50}, "priority": 0}
SHOP = Desired(
    vhost="shop",
    users=(User("shop", "pass%w@rd"), User("shop-admin", "root's", ("administrator",))),
    permissions={"shop": PATTERNS, "shop-admin": PATTERNS},
    exchanges=(FANOUT,),
    queues=(QUORUM,),
    bindings=(BINDING,),
    policies=(POLICY,),
    absent_users=("guest",),
)
NEW = {
    "users": [
        {"name": "guest", "password_hash": "", "hashing_algorithm": "", "tags": ["administrator"]},
    ],
    "vhosts": [{"name": "/"}],
    "permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
}


def salt() -> bytes:
    return SALT


def after(held: dict[str, Any], changes: Difference) -> dict[str, Any]:
    """Return the definitions of a broker after RabbitMQ's import and commands applied the changes."""
    keys = {
        "users": ("name",),
        "vhosts": ("name",),
        "permissions": ("vhost", "user"),
        "policies": ("vhost", "name"),
        "exchanges": ("vhost", "name"),
        "queues": ("vhost", "name"),
        "bindings": ("vhost", "source", "destination", "routing_key"),
        "parameters": ("vhost", "component", "name"),
    }
    result = copy.deepcopy(held)
    for kind, items in changes.definitions.items():
        merged = {tuple(item[key] for key in keys[kind]): item for item in [*result.get(kind, []), *items]}
        result[kind] = list(merged.values())
    gone = set(changes.deleted_users)
    result["users"] = [item for item in result["users"] if item["name"] not in gone]
    result["permissions"] = [
        item
        for item in result["permissions"]
        if item["user"] not in gone and (item["vhost"], item["user"]) not in changes.cleared_permissions
    ]
    return result


@pytest.fixture
def converged() -> dict[str, Any]:
    return after(NEW, difference(NEW, SHOP, salt))


def changed(**values: Any) -> Desired:
    return Desired(**{**{name: getattr(SHOP, name) for name in Desired.__dataclass_fields__}, **values})


def test_hash_matches_the_example_of_rabbitmqs_documentation() -> None:
    assert password_hash("test12", SALT) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


@given(st.text(min_size=1), st.text(), st.binary(min_size=4, max_size=4))
def test_hash_matches_its_password_only(password: str, other: str, salt: bytes) -> None:
    stored = password_hash(password, salt)
    assert password_matches(password, stored, "rabbit_password_hashing_sha256")
    assert password_matches(other, stored, "rabbit_password_hashing_sha256") == (other == password)


def test_sha512_hash_of_rabbitmqctl_matches() -> None:
    # rabbitmqctl eval 'base64:encode(rabbit_password:hash(rabbit_password_hashing_sha512, <<"test12">>)).'
    stored = "wn868iU+9MaPuxrir0EAsBeIbLybClgsHUOJIJkplPeLNd+5bOm4jzZst7xZtW/YWyzrOvPVhWPwMekfNISPE5YWiW4="
    assert password_matches("test12", stored, "rabbit_password_hashing_sha512")
    assert not password_matches("other", stored, "rabbit_password_hashing_sha512")


@pytest.mark.parametrize(
    ("stored", "algorithm"),
    [
        ("kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR", "rabbit_password_hashing_md5"),
        ("kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR", "rabbit_password_hashing_sha512"),
        ("not base64 ö", "rabbit_password_hashing_sha256"),
        ("", "rabbit_password_hashing_sha256"),
        ("kI3GCg==", "rabbit_password_hashing_sha256"),
    ],
)
def test_unknown_or_invalid_hash_does_not_match(stored: str, algorithm: str) -> None:
    assert not password_matches("test12", stored, algorithm)


def test_new_broker_gets_all_definitions_and_loses_guest() -> None:
    changes = difference(NEW, SHOP, salt)
    assert {kind: len(items) for kind, items in changes.definitions.items()} == {
        "vhosts": 1,
        "users": 2,
        "permissions": 2,
        "exchanges": 1,
        "queues": 1,
        "policies": 1,
        "bindings": 1,
    }
    assert changes.definitions["queues"] == [{**QUORUM, "vhost": "shop"}]
    assert changes.deleted_users == ["guest"]
    assert changes.before == {"users": {"guest": {"tags": ["administrator"]}}}


def test_second_run_changes_nothing(converged: dict[str, Any]) -> None:
    changes = difference(converged, SHOP, salt)
    assert not changes.any
    assert (changes.before, changes.after) == ({}, {})


def test_missing_broker_gets_all_definitions() -> None:
    changes = difference({}, SHOP, salt)
    assert sorted(changes.after["users"]) == ["shop", "shop-admin"]
    assert not changes.deleted_users


def test_changed_password_changes_its_user_only(converged: dict[str, Any]) -> None:
    wanted = changed(users=(User("shop", "another"), SHOP.users[1]))
    changes = difference(converged, wanted, salt)
    assert list(changes.definitions) == ["users"]
    (user,) = changes.definitions["users"]
    assert user["name"] == "shop"
    assert password_matches("another", user["password_hash"], user["hashing_algorithm"])
    assert changes.before != changes.after
    assert not difference(after(converged, changes), wanted, salt).any


def test_diff_contains_no_password_or_hash(converged: dict[str, Any]) -> None:
    changes = difference(converged, changed(users=(User("shop", "another"),)), salt)
    shown = json.dumps([changes.before, changes.after]) + repr(SHOP)
    for secret in ("another", "pass%w@rd", "root's", changes.definitions["users"][0]["password_hash"]):
        assert secret not in shown.replace("(another)", "")


def test_changed_tags_keep_the_password(converged: dict[str, Any]) -> None:
    wanted = changed(users=(User("shop", "pass%w@rd", ("monitoring",)), SHOP.users[1]))
    (user,) = difference(converged, wanted, lambda: b"xxxx").definitions["users"]
    assert user["tags"] == ["monitoring"]
    assert user["password_hash"] == password_hash("pass%w@rd", SALT)


def test_tags_as_text_are_equal(converged: dict[str, Any]) -> None:
    for user in converged["users"]:
        user["tags"] = ",".join(user["tags"])
    assert not difference(converged, SHOP, salt).any


def test_undeclared_users_and_their_permissions_are_kept(converged: dict[str, Any]) -> None:
    converged["users"].append({"name": "other", "password_hash": "", "tags": []})
    converged["permissions"].append({"user": "other", "vhost": "shop", **PATTERNS})
    assert not difference(converged, SHOP, salt).any


def test_other_permissions_of_a_declared_user_are_cleared(converged: dict[str, Any]) -> None:
    converged["permissions"].append({"user": "shop", "vhost": "/", **PATTERNS})
    changes = difference(converged, SHOP, salt)
    assert changes.cleared_permissions == [("/", "shop")]
    assert changes.before == {"permissions": {"shop on /": PATTERNS}}
    assert not difference(after(converged, changes), SHOP, salt).any


def test_permissions_without_declaration_are_cleared(converged: dict[str, Any]) -> None:
    changes = difference(converged, changed(permissions={"shop-admin": PATTERNS}), salt)
    assert changes.cleared_permissions == [("shop", "shop")]


def test_administrator_keeps_its_permissions(converged: dict[str, Any]) -> None:
    converged["permissions"].append({"user": "shop-admin", "vhost": "made by hand", **PATTERNS})
    assert not difference(converged, SHOP, salt).any


@pytest.mark.parametrize("verb", ["configure", "write", "read"])
def test_each_pattern_is_compared(converged: dict[str, Any], verb: str) -> None:
    wanted = changed(permissions={**SHOP.permissions, "shop": {**PATTERNS, verb: "^x$"}})
    assert difference(converged, wanted, salt).definitions == {
        "permissions": [{"user": "shop", "vhost": "shop", **PATTERNS, verb: "^x$"}]
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("pattern", "^r$"), ("definition", {"delivery-limit": 51}), ("apply-to", "all"), ("priority", 1)],
)
def test_changed_policy_is_replaced(converged: dict[str, Any], name: str, value: object) -> None:
    changes = difference(converged, changed(policies=({**POLICY, name: value},)), salt)
    assert changes.definitions == {"policies": [{**POLICY, name: value, "vhost": "shop"}]}


def test_object_of_another_vhost_is_not_changed(converged: dict[str, Any]) -> None:
    for kind in ("policies", "queues", "exchanges", "bindings"):
        for item in converged[kind]:
            item["vhost"] = "elsewhere"
    assert sorted(difference(converged, SHOP, salt).definitions) == ["bindings", "exchanges", "policies", "queues"]


def test_default_queue_type_equals_no_type(converged: dict[str, Any]) -> None:
    plain = {"name": "ticks", "durable": False, "auto_delete": False, "arguments": {}}
    held = {**plain, "arguments": {"x-queue-type": "classic"}, "vhost": "shop"}
    converged["queues"].append(held)
    assert not difference(converged, changed(queues=(QUORUM, plain)), salt).any


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"queues": ({**QUORUM, "arguments": {"x-queue-type": "classic"}},)}, "queue 'shop.dead' in vhost 'shop'"),
        ({"exchanges": ({**FANOUT, "type": "topic"},)}, "exchange 'shop.dead' in vhost 'shop'"),
    ],
)
def test_change_that_rabbitmq_does_not_support_is_refused(converged: dict[str, Any], wanted: Any, message: str) -> None:
    with pytest.raises(
        DefinitionsError, match=f"{message}.*exists as .* but is declared as .*delete it, or choose another name"
    ):
        difference(converged, changed(**wanted), salt)


def parameters(**values: Any) -> dict[str, Any]:
    lists = ("users", "absent_users", "permissions", "exchanges", "queues", "bindings", "policies")
    return {
        "vhost": "shop",
        "passwords": {},
        "add_permissions": False,
        "limits": None,
        "shovels": None,
        "shovel_uris": [],
        **{name: [] for name in lists},
        **values,
    }


@pytest.mark.parametrize("passwords", [{}, {"shop": ""}, {"other": "x"}])
def test_user_without_password_is_refused(passwords: dict[str, str]) -> None:
    with pytest.raises(DefinitionsError, match="no password is given for: shop"):
        desired(parameters(users=[{"name": "shop", "tags": []}], passwords=passwords))


def test_module_options_become_rabbitmq_definitions() -> None:
    made = desired(
        parameters(
            users=[{"name": "shop", "tags": ["monitoring"]}],
            passwords={"shop": 123},
            bindings=[
                {"exchange": "e", "queue": "q", "destination_exchange": None, "routing_key": "k"},
                {"exchange": "e", "queue": None, "destination_exchange": "f", "routing_key": "k"},
            ],
            limits={"max_connections": 10, "max_queues": 20},
            policies=[{"name": "p", "pattern": "^q$", "apply_to": "queues", "definition": {}, "priority": 0}],
        )
    )
    assert made.users == (User("shop", "123", ("monitoring",)),)
    assert made.bindings[0] == {**BINDING, "source": "e", "destination": "q", "routing_key": "k"}
    assert made.bindings[1] == {
        **BINDING,
        "source": "e",
        "destination": "f",
        "destination_type": "exchange",
        "routing_key": "k",
    }
    assert made.policies[0]["apply-to"] == "queues"
    assert made.limits == {"max-connections": 10, "max-queues": 20}


def test_clients_keep_their_permissions_during_a_change(converged: dict[str, Any]) -> None:
    wider = {**SHOP.permissions, "shop": {"configure": "^a$", "write": "^x$", "read": "^c$"}}
    changes = difference(converged, changed(permissions=wider, add_permissions=True), salt)
    assert changes.definitions == {
        "permissions": [{"user": "shop", "vhost": "shop", "configure": "^a$", "write": "^b$|^x$", "read": "^c$"}]
    }
    held = after(converged, changes)
    # A run that did not get to its end can be repeated.
    assert not difference(held, changed(permissions=wider, add_permissions=True), salt).any
    assert difference(held, changed(permissions=wider), salt).after == {"permissions": {"shop on shop": wider["shop"]}}


def test_new_users_get_the_declared_permissions_only() -> None:
    changes = difference(NEW, changed(add_permissions=True), salt)
    assert changes.after["permissions"]["shop on shop"] == PATTERNS


def test_limits_of_a_vhost_are_set_and_kept() -> None:
    limits = {"max-connections": 10, "max-queues": 20}
    changes = difference(NEW, changed(limits=limits), salt)
    (item,) = changes.definitions["parameters"]
    assert item == {"component": "vhost-limits", "name": "limits", "vhost": "shop", "value": limits}
    assert changes.after["parameters"] == {"limits of shop": limits}
    held = {**after(NEW, changes), "parameters": [{**item, "vhost": "other", "value": {}}, item]}
    assert not difference(held, changed(limits=limits), salt).any
    lower = difference(held, changed(limits={**limits, "max-queues": 5}), salt)
    assert lower.before["parameters"] == {"limits of shop": limits}


SHOVEL = {"src-queue": "customers", "src-uri": ["amqp://shop-admin:secret@10.0.0.1"]}


def test_shovels_are_set_replaced_and_removed_without_their_uris_in_the_diff() -> None:
    wanted = desired(
        parameters(shovels={"celery-fleet.customers": {"src-queue": "customers"}}, shovel_uris=[*SHOVEL["src-uri"]])
    )
    assert wanted.shovels == {"celery-fleet.customers": SHOVEL}
    held = {**NEW, "vhosts": [{"name": "shop"}], "parameters": []}
    changes = difference(held, wanted, salt)
    (item,) = changes.definitions["parameters"]
    assert item == {"component": "shovel", "name": "celery-fleet.customers", "vhost": "shop", "value": SHOVEL}
    assert "secret" not in str(changes.after) + str(wanted)
    foreign = {**item, "name": "my own"}
    held["parameters"] = [item, foreign, {**item, "vhost": "other"}]
    assert not difference(held, wanted, salt).any
    assert not difference(held, desired(parameters()), salt).any
    gone = difference(held, desired(parameters(shovels={})), salt)
    assert (gone.deleted_shovels, gone.definitions) == (["celery-fleet.customers"], {})
    assert "secret" not in str(gone.before)
    other = {**wanted.shovels["celery-fleet.customers"], "src-uri": ["amqp://new"]}
    replaced = difference(held, Desired(vhost="shop", shovels={"celery-fleet.customers": other}), salt)
    assert replaced.definitions["parameters"][0]["value"] == other
