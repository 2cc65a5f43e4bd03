"""Broker URLs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

_ANY = {"0.0.0.0", "::"}  # noqa: S104 - what users write
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SCHEMES = {"rabbitmq": "amqp", "redis": "redis"}


def broker_url(broker: Mapping[str, Any], password: str) -> str:
    """Return the URL that Celery reaches a broker by.

    User, password and vhost are percent-encoded whole, as kombu decodes them, so that any character works.

    Args:
        broker: the plan's broker: kind, address, port, user, and its vhost or database.
    """
    return _url(broker, password, broker["vhost"] if broker["kind"] == "rabbitmq" else broker["database"])


def result_url(broker: Mapping[str, Any], password: str) -> str:
    """Return the URL of the result backend that comes with a broker; empty where none does.

    Args:
        broker: the plan's broker: kind, address, port, user, result_database.
    """
    return _url(broker, password, broker["result_database"]) if broker["kind"] == "redis" else ""


def _url(broker: Mapping[str, Any], password: str, path: object) -> str:
    user, secret, last = (quote(str(text), safe="") for text in (broker["user"], password, path))
    return f"{_SCHEMES[broker['kind']]}://{user}:{secret}@{_bracketed(broker['address'])}:{broker['port']}/{last}"


def management_url(broker: Mapping[str, Any], listen_address: str, port: int, client: str) -> str:
    """Return the address of RabbitMQ's management API as one of the hosts reaches it; empty if it can't.

    Args:
        broker: the plan's broker: kind, host, address.
        listen_address: where the API listens.
        port: on which.
        client: inventory name of the host that asks.
    """
    if broker["kind"] != "rabbitmq" or (listen_address in LOOPBACK and client != broker["host"]):
        return ""
    address = broker["address"] if listen_address in _ANY else listen_address
    return f"http://{_bracketed(address)}:{port}/api/"


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
