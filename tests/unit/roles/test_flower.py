"""The role's settings keep any secret unchanged."""

from __future__ import annotations

import ast
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from ansible.plugins.filter.core import FilterModule as AnsibleFilters
from ansible_collections.fleet.celery.plugins.filter.fleet import FilterModule
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment, FileSystemLoader, StrictUndefined, meta
from role import Role

ROLE = Role("flower", flower_broker_url="amqp://a:b@c/d", flower_basic_auth_password="secret")


def render(template: str, **given: Any) -> str:
    """Render a template of the role with its variables."""
    filters = FilterModule().filters()
    loader = FileSystemLoader(ROLE.path / "templates")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True)  # noqa: S701 - not HTML
    environment.filters |= AnsibleFilters().filters() | {f"fleet.celery.{name}": filters[name] for name in filters}
    source = (ROLE.path / "templates" / template).read_text(encoding="utf-8")
    values = {name: ROLE.value(name, **given) for name in meta.find_undeclared_variables(environment.parse(source))}
    return environment.get_template(template).render(values)


def names(**given: Any) -> dict[str, Any]:
    """Return the variables of the rendered flowerconfig.py."""
    nodes = ast.parse(render("flowerconfig.py.j2", **given)).body
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
    ],
)
def test_invalid_values_are_refused(variables: dict[str, str], problem: str) -> None:
    problems = ROLE.problems(**variables)
    assert len(problems) == 1
    assert problem in problems[0]


def test_the_defaults_are_valid() -> None:
    assert ROLE.problems() == []


@pytest.mark.parametrize(("given_", "limit"), [("512MB", "512M"), ("2GiB", "2G"), ("700M", "700M")])
def test_memory_is_written_as_systemd_reads_it(given_: str, limit: str) -> None:
    text = ROLE.render("flower.service.j2", flower_memory_max=given_, __flower_venv="/opt/flower/venv")
    assert f"\nMemoryMax={limit}\n" in text
