"""The role's settings hold any secret as it is, and what can't work is named."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.filter.fleet import FilterModule
from hypothesis import given, settings
from hypothesis import strategies as st
from role import Role

ROLE = Role(
    "redis_ui",
    redis_ui_redis_host="10.0.0.11",
    redis_ui_redis_user="ui",
    redis_ui_redis_password="secret",
    redis_ui_basic_auth_password="secret",
)


def connections(**given: Any) -> list[dict[str, Any]]:
    """Return the connections of the rendered settings."""
    found: list[dict[str, Any]] = json.loads(ROLE.render("local.json.j2", **given))["connections"]
    return found


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_password_is_passed_unchanged(password: str) -> None:
    databases = [{"name": password, "db": 0}, {"name": "results", "db": 1}]
    found = connections(redis_ui_redis_password=password, redis_ui_databases=databases)
    assert [(one["label"], one["password"], one["dbIndex"]) for one in found] == [
        (password, password, 0),
        ("results", password, 1),
    ]


def test_redis_is_verified_with_its_authority_alone() -> None:
    packages = {"node_modules": "/opt/redis-ui"}
    text = ROLE.render("redis-ui.service.j2", __redis_ui_packages=packages)
    assert "\nExecStart=/usr/bin/node --require " in text
    assert "REDIS_CA_FILE" not in text
    assert "tls" not in connections()[0]
    text = ROLE.render("redis-ui.service.j2", __redis_ui_packages=packages, redis_ui_redis_ca="/etc/ca.crt")
    assert "\nEnvironment=REDIS_CA_FILE=/etc/ca.crt\n" in text
    assert " --require /etc/redis-ui/listen.js --require /etc/redis-ui/authority.js /" in text
    assert connections(redis_ui_redis_ca="/etc/ca.crt")[0]["tls"] is True


@pytest.mark.parametrize("password", ["secret", "a:b {x} $é"])
def test_nginx_accepts_the_hash_of_the_password(password: str) -> None:
    salted_sha1 = FilterModule().filters()["salted_sha1"]
    text = salted_sha1(password, "debian12")
    assert text == salted_sha1(password, "debian12")
    assert text != salted_sha1(password, "debian13")
    raw = base64.b64decode(text.removeprefix("{SSHA}"))
    assert raw[:20] == hashlib.sha1(password.encode() + raw[20:], usedforsecurity=False).digest()


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"redis_ui_redis_password": ""}, "must not be empty"),
        ({"redis_ui_databases": []}, "redis_ui_databases: must not be empty"),
        ({"redis_ui_databases": [{"name": "a", "db": 1}, {"name": "b", "db": 1}]}, "a database twice"),
        ({"redis_ui_databases": [{"name": "a", "db": -1}]}, "below zero"),
        ({"redis_ui_basic_auth_user": "a:b"}, "colon"),
        ({"redis_ui_basic_auth_password": "é"}, "printable ASCII"),
        ({"redis_ui_basic_auth_password": ""}, "must not be empty"),
        ({"redis_ui_tls_certificate": "/cert.pem"}, "Set both or none"),
        ({"redis_ui_memory_max": "512"}, "needs a unit"),
        ({"redis_ui_redis_ca": "ca.crt"}, "redis_ui_redis_ca: 'ca.crt' is not an absolute path"),
    ],
)
def test_invalid_values_are_refused(variables: dict[str, Any], problem: str) -> None:
    problems = ROLE.problems(**variables)
    assert len(problems) == 1
    assert problem in problems[0]


def test_the_defaults_are_valid() -> None:
    assert ROLE.problems() == []
