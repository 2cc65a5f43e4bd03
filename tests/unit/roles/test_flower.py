"""The role's settings keep any secret unchanged."""

from __future__ import annotations

import ast
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from role import Role

ROLE = Role("flower", flower_broker_url="amqp://a:b@c/d", flower_basic_auth_password="secret")


def names(**given: Any) -> dict[str, Any]:
    """Return the variables of the rendered flowerconfig.py."""
    nodes = ast.parse(ROLE.render_with_filters("flowerconfig.py.j2", **given)).body
    assigned = (node for node in nodes if isinstance(node, ast.Assign))
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assigned}


@settings(max_examples=50)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_any_password_is_passed_unchanged(password: str) -> None:
    got = names(
        flower_basic_auth_password=password,
        flower_broker_api="http://10.0.0.11:15672/api",
        flower_broker_api_user="monitor",
        flower_broker_api_password=password,
    )
    assert got["basic_auth"] == [f"flower:{password}"]
    url = urlsplit(got["broker_api"])
    assert (url.hostname, url.port, url.path) == ("10.0.0.11", 15672, "/api/")
    assert unquote(url.password or "") == password


def test_without_a_management_api_there_is_none() -> None:
    assert "broker_api" not in names()


def test_the_management_api_is_verified_with_its_authority() -> None:
    assert "\nAsyncHTTPClient.configure(BrokerApiClient)\n" in ROLE.render_with_filters("flowerconfig.py.j2")
    text = ROLE.render_with_filters("flowerconfig.py.j2", flower_broker_api_ca="/etc/ca.crt")
    assert "\nAsyncHTTPClient.configure(BrokerApiClient, defaults={'ca_certs': '/etc/ca.crt'})\n" in text.replace(
        '"', "'"
    )


@pytest.mark.parametrize(("url", "is_amqp"), [("amqps://a:b@c/d", True), ("rediss://a:b@c:6379/0", False)])
def test_a_broker_with_tls_is_of_the_same_kind(url: str, is_amqp: bool) -> None:
    assert (
        "event_exchange.no_declare = True" in ROLE.render_with_filters("flowerconfig.py.j2", flower_broker_url=url)
    ) is is_amqp
    assert ("broker_transport_options" in names(flower_broker_url=url)) is is_amqp


def test_the_fleets_settings_win() -> None:
    own = names(flower_celery_settings={"broker_transport_options": {"read_timeout": 3}, "control_exchange": "shop"})
    assert own["broker_transport_options"] == {"read_timeout": 3}
    assert own["control_exchange"] == "shop"
    assert own["event_queue_exclusive"] is False
    # Options of RabbitMQ's connections are unknown to Redis.
    assert "broker_transport_options" not in names(flower_broker_url="redis://10.0.0.11/0")


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"flower_basic_auth_user": "a:b"}, "colon"),
        ({"flower_basic_auth_password": "é"}, "printable ASCII"),
        ({"flower_basic_auth_password": ""}, "must not be empty"),
        ({"flower_tls_key": "/key.pem"}, "Set both or none"),
        ({"flower_broker_api": "10.0.0.11:15672"}, "flower_broker_api"),
        ({"flower_memory_max": "512"}, "needs a unit"),
        ({"flower_broker_api_ca": "ca.crt"}, "flower_broker_api_ca: 'ca.crt' is not an absolute path"),
        (
            {"flower_broker_api_ca": "/etc/ca.crt", "flower_broker_api": "http://10.0.0.11:15672/api/"},
            "flower_broker_api_ca: has no effect",
        ),
    ],
)
def test_invalid_values_are_refused(variables: dict[str, str], problem: str) -> None:
    problems = ROLE.problems(**variables)
    assert len(problems) == 1
    assert problem in problems[0]


def test_the_defaults_are_valid() -> None:
    assert ROLE.problems() == []
    api = {"flower_broker_api": "https://10.0.0.11:15671/api/", "flower_broker_api_ca": "/etc/ca.crt"}
    assert ROLE.problems(**api) == []


@pytest.mark.parametrize(("given_", "limit"), [("512MB", "512M"), ("2GiB", "2G"), ("700M", "700M")])
def test_memory_is_written_as_systemd_reads_it(given_: str, limit: str) -> None:
    text = ROLE.render("flower.service.j2", flower_memory_max=given_, __flower_venv="/opt/flower/venv")
    assert f"\nMemoryMax={limit}\n" in text
