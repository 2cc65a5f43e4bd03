"""Configuration of the service that moves the messages of a previous broker where shovels of RabbitMQ can't. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._settings import sentinel_options
from ansible_collections.fleet.celery.plugins.module_utils._tls import client_settings
from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url

# Seconds between two heartbeats of RabbitMQ.
_HEARTBEAT = 30


def forwarder_config(plan: Mapping[str, Any], source: Mapping[str, str], target: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of celery-fleet-forwarder: options of kombu's connections, and names of queues.

    Args:
        plan: with a previous broker.
        source: user and password of an administrator of the previous broker.
        target: the same of the new broker.
    """
    broker, ca = plan["broker"], plan["tls"].get("ca", "")
    to_rabbitmq = broker["kind"] == "rabbitmq"
    queues = [queue["name"] for queue in plan["queues"]]
    # Only Celery's own quorum queues have exchanges of delayed messages beside them.
    delays = to_rabbitmq and any(queue["type"] == "quorum" for queue in plan["queues"])
    # Redis has a queue of dead letters for refused messages only.
    dead_letters = broker["dead_letter_queue"] if to_rabbitmq else plan["signing"] and plan["signing"]["dead_letters"]
    return {
        "source": _connection(broker["previous"], source, ca) | {"heartbeat": _HEARTBEAT},
        # The service runs on the first host of the new broker.
        "target": _connection({**broker, "address": broker["members"][broker["host"]]["address"]}, target, ca),
        "queues": queues + [dead_letters] * bool(dead_letters),
        "delayed_queues": queues * delays,
    }


def _connection(broker: Mapping[str, Any], login: Mapping[str, str], ca: str) -> dict[str, Any]:
    """Return the options of kombu's connection to a broker."""
    url = broker_url({**broker, "user": login["user"]}, login["password"])
    tls: dict[str, Any] = client_settings(broker["kind"], ca)["broker_use_ssl"] if ca and broker["tls_port"] else {}
    if broker["kind"] == "rabbitmq":
        options: dict[str, Any] = {"confirm_publish": True, "read_timeout": 15, "write_timeout": 15}
        tls = {**tls, "server_hostname": broker["address"]} if tls else {}
    else:
        options = {
            "global_keyprefix": broker["key_prefix"],
            "visibility_timeout": broker["visibility_timeout"],
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            **sentinel_options(broker, ca if tls else ""),
        }
        if "sentinel_kwargs" in options:
            options["sentinel_kwargs"] |= {"username": login["user"], "password": login["password"]}
    return {"hostname": url, "transport_options": options, "ssl": tls or False}
