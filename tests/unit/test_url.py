from __future__ import annotations

from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url
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
