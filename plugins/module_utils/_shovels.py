"""Shovels of RabbitMQ, which move the messages of a previous broker to this one. Pure.

Sources: https://www.rabbitmq.com/docs/shovel-dynamic, https://www.rabbitmq.com/docs/uri-query-parameters
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

#: Prefix of the names of a fleet's shovels.
PREFIX = "celery-fleet."
# Seconds after which a shovel that lost its connection connects again.
_RECONNECT = 5


def shovel_uris(previous: Mapping[str, Any], password: str, vhost: str) -> list[str]:
    """Return the URIs by which shovels connect to the hosts of a previous broker.

    Args:
        previous: its hosts, each with an address and the name in its certificate, its port, the user to log in as, and
            ca, a file of the authorities that this broker trusts; empty without TLS.
    """
    login, space = ":".join(quote(text, safe="") for text in (previous["user"], password)), quote(vhost, safe="")
    uris = []
    for host in previous["hosts"]:
        end = f"{login}@{host['address']}:{previous['port']}/{space}"
        if previous["ca"]:
            name = host["server_name"]
            tls = {"cacertfile": previous["ca"], "verify": "verify_peer", "server_name_indication": name}
            uris.append(f"amqps://{end}?{urlencode(tls, safe='/')}")
        else:
            uris.append(f"amqp://{end}")
    return uris


def celery_shovels(targets: Mapping[str, str], vhost: str) -> dict[str, dict[str, Any]]:
    """Return a shovel for each queue, by its name, as an option of the module rabbitmq_definitions.

    A message is removed from the previous broker once this one has confirmed it. It arrives as if it was sent to its
    queue directly: the routing key is the queue's name.

    Args:
        targets: for each queue, the exchange by which this broker puts messages into it.
        vhost: of this broker.
    """
    return {
        f"{PREFIX}{queue}": {
            "src-protocol": "amqp091",
            "src-queue": queue,
            "dest-protocol": "amqp091",
            # By no network, as a user of the broker's own.
            "dest-uri": [f"amqp:///{quote(vhost, safe='')}"],
            "dest-exchange": exchange,
            "dest-exchange-key": queue,
            "ack-mode": "on-confirm",
            "reconnect-delay": _RECONNECT,
        }
        for queue, exchange in targets.items()
    }
