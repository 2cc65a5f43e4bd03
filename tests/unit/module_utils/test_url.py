from __future__ import annotations

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url, management_url, result_url
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.url import parse_url

BROKER = {"kind": "rabbitmq", "address": "10.0.0.1", "port": 5672, "user": "shop", "vhost": "shop"}


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1))
def test_kombu_reads_back_any_password(password: str) -> None:
    parts = parse_url(broker_url(BROKER, password))
    assert parts["password"] == password
    assert (parts["userid"], parts["hostname"], parts["port"], parts["virtual_host"]) == (
        "shop",
        "10.0.0.1",
        5672,
        "shop",
    )


def test_an_ipv6_address_is_bracketed() -> None:
    assert parse_url(broker_url({**BROKER, "address": "fd00::1"}, "x"))["hostname"] == "fd00::1"


@pytest.mark.parametrize(
    ("listen", "client", "url"),
    [
        ("127.0.0.1", "flower1", ""),
        ("127.0.0.1", "broker1", "http://127.0.0.1:15672/api/"),
        ("10.0.0.1", "flower1", "http://10.0.0.1:15672/api/"),
        ("0.0.0.0", "flower1", "http://[fd00::1]:15672/api/"),  # noqa: S104
    ],
)
def test_the_management_api_is_asked_where_it_can_be_reached(listen: str, client: str, url: str) -> None:
    broker = {**BROKER, "host": "broker1", "address": "fd00::1"}
    assert management_url(broker, listen, 15672, client) == url
    assert management_url({**broker, "kind": "redis"}, listen, 15672, client) == ""


def test_redis_has_a_database_for_tasks_and_one_for_results() -> None:
    broker = {**BROKER, "kind": "redis", "database": 0, "result_database": 1}
    assert broker_url(broker, "a/b") == "redis://shop:a%2Fb@10.0.0.1:5672/0"
    assert result_url(broker, "a/b") == "redis://shop:a%2Fb@10.0.0.1:5672/1"
    assert result_url(BROKER, "x") == ""
