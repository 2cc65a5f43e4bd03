"""URLs of brokers and result backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

ANY = {"0.0.0.0", "::"}  # noqa: S104 - values that users set
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SCHEMES = {"rabbitmq": ("amqp", "amqps"), "redis": ("redis", "rediss")}


def broker_url(broker: Mapping[str, Any], password: str) -> str:
    """Return the URL of a broker for Celery.

    User, password and vhost are percent-encoded, as kombu decodes them, so they may contain any character.

    Args:
        broker: the plan's broker, with kind, address, port, user, vhost or database, tls_port if it has TLS, and
            sentinel if it has several servers of Redis.
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
    if sentinel := broker.get("sentinel"):
        return ";".join(
            f"sentinel://{user}:{secret}@{bracketed(address)}:{sentinel['port']}/{last}"
            for address in sentinel["addresses"]
        )
    scheme = _SCHEMES[broker["kind"]][bool(broker.get("tls_port"))]
    return f"{scheme}://{user}:{secret}@{bracketed(broker['address'])}:{broker['port']}/{last}"


def bracketed(address: str) -> str:
    """Return an address as a part of a URL."""
    return f"[{address}]" if ":" in address else address
