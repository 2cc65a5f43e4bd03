from __future__ import annotations

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url, result_url
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


@pytest.mark.parametrize(("kind", "scheme"), [("rabbitmq", "amqps"), ("redis", "rediss")])
def test_a_url_says_that_a_connection_has_tls(kind: str, scheme: str) -> None:
    broker = {**BROKER, "kind": kind, "database": 0, "result_database": 1, "tls_port": 5671}
    assert broker_url(broker, "x").startswith(f"{scheme}://shop:x@")
    assert result_url(broker, "x").startswith("rediss://") == (kind == "redis")


def test_redis_has_a_database_for_tasks_and_one_for_results() -> None:
    broker = {**BROKER, "kind": "redis", "database": 0, "result_database": 1}
    assert broker_url(broker, "a/b") == "redis://shop:a%2Fb@10.0.0.1:5672/0"
    assert result_url(broker, "a/b") == "redis://shop:a%2Fb@10.0.0.1:5672/1"
    assert result_url(BROKER, "x") == ""
