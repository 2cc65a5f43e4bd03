"""Broker URLs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

_SCHEMES = {"rabbitmq": "amqp"}


def broker_url(broker: Mapping[str, Any], password: str) -> str:
    """Return the URL that Celery reaches a broker by.

    User, password and vhost are percent-encoded whole, as kombu decodes them, so that any character works.

    Args:
        broker: the plan's broker: kind, address, port, user, vhost.
    """
    user, secret, vhost = (quote(str(text), safe="") for text in (broker["user"], password, broker["vhost"]))
    address = str(broker["address"])
    host = f"[{address}]" if ":" in address else address
    return f"{_SCHEMES[broker['kind']]}://{user}:{secret}@{host}:{broker['port']}/{vhost}"
