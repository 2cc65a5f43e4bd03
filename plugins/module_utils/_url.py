"""URLs of brokers, result backends and RabbitMQ's management API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

_ANY = {"0.0.0.0", "::"}  # noqa: S104 - values that users set
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SCHEMES = {"rabbitmq": "amqp", "redis": "redis"}


def broker_url(broker: Mapping[str, Any], password: str) -> str:
    """Return the URL of a broker for Celery.

    User, password and vhost are percent-encoded, as kombu decodes them, so they may contain any character.

    Args:
        broker: the plan's broker, with kind, address, port, user, and vhost or database.
    """
    return _url(broker, password, broker["vhost"] if broker["kind"] == "rabbitmq" else broker["database"])


def result_url(broker: Mapping[str, Any], password: str) -> str:
    """Return the URL of a broker's result backend; empty if it has none.

    Args:
        broker: the plan's broker, with kind, address, port, user, and result_database.
    """
    return _url(broker, password, broker["result_database"]) if broker["kind"] == "redis" else ""


def _url(broker: Mapping[str, Any], password: str, path: object) -> str:
    user, secret, last = (quote(str(text), safe="") for text in (broker["user"], password, path))
    return f"{_SCHEMES[broker['kind']]}://{user}:{secret}@{_bracketed(broker['address'])}:{broker['port']}/{last}"


def management_url(broker: Mapping[str, Any], listen_address: str, port: int, client: str) -> str:
    """Return the URL of RabbitMQ's management API for a host; empty if it is not reachable from there.

    Args:
        broker: the plan's broker, with kind, host and address.
        listen_address: address on which the API listens.
        port: port on which the API listens.
        client: inventory name of the host that connects.
    """
    if broker["kind"] != "rabbitmq" or (listen_address in LOOPBACK and client != broker["host"]):
        return ""
    address = broker["address"] if listen_address in _ANY else listen_address
    return f"http://{_bracketed(address)}:{port}/api/"


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
