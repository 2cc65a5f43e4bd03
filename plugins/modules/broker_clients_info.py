#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""List the clients that are connected to a broker."""

from __future__ import annotations

DOCUMENTATION = r"""
module: broker_clients_info
short_description: List the clients that are connected to a broker
description:
  - Reads the broker's own list of connections, with their users. A broker that is not installed or not running has
    none.
  - Connections by a Unix socket are not listed.
author: Celery Fleet (@celery-fleet)
requirements:
  - C(rabbitmqctl) of RabbitMQ 3.10 or later, C(redis-cli) of Redis 7.0 or later, or C(valkey-cli), run as root on the
    broker's host
attributes:
  check_mode: {support: full, description: Reads only.}
  diff_mode: {support: none, description: Changes nothing.}
options:
  flavor:
    description: The broker's kind.
    type: str
    choices: [rabbitmq, redis, valkey]
    required: true
  administrator:
    description: User of Redis with all permissions. Its password is the one that M(fleet.celery.redis_users) stored.
    type: str
    default: ""
  names:
    description: Names of hosts, by their addresses.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Collect the clients of RabbitMQ
  fleet.celery.broker_clients_info:
    flavor: rabbitmq
  register: connected

- name: Show those without TLS
  ansible.builtin.debug:
    msg: "{{ connected.clients | rejectattr('tls') | map(attribute='description') }}"
"""

RETURN = r"""
clients:
  description: An entry for each user, host and kind of connection.
  type: list
  elements: dict
  returned: success
  contains:
    user:
      description: The user. Empty if the client has not logged in.
      type: str
    host:
      description: Name or address of the client's host.
      type: str
    tls:
      description: Whether the connections are encrypted.
      type: bool
    connections:
      description: Number of connections.
      type: int
    description:
      description: All of it, for a message.
      type: str
  sample:
    - {user: shop, host: worker1, tls: true, connections: 4, description: "shop from worker1 (4 connections)"}
running:
  description: Whether the broker runs.
  type: bool
  returned: success
"""

from collections.abc import Iterable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._broker_clients import (
    Connection,
    clients,
    rabbitmq_connections,
    redis_connections,
)
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq import as_rabbitmq, find_command
from ansible_collections.fleet.celery.plugins.module_utils._redis import Server, socket_of


def of_rabbitmq(module: AnsibleModule) -> Iterable[Connection] | None:
    """Return the connections to RabbitMQ; None if it does not run."""
    command = find_command(module, "rabbitmqctl")
    code, _, _ = module.run_command(["systemctl", "is-active", "--quiet", "rabbitmq-server"])
    if not command or code != 0:
        return None
    listed = ["list_connections", "--formatter", "json", "user", "peer_host", "ssl"]
    code, out, err = module.run_command(as_rabbitmq(command, "--silent", "--timeout", "60", *listed), cwd="/")
    if code != 0:
        module.fail_json(msg=f"RabbitMQ does not list its connections: {err.strip()[-2000:]}")
    return rabbitmq_connections(out)


def of_redis(module: AnsibleModule) -> Iterable[Connection] | None:
    """Return the connections to Redis or Valkey; None if it does not run."""
    if not Path(socket_of(module.params["flavor"])).exists():
        return None
    server = Server.of_host(module)
    port = int(server.execute("CONFIG", "GET", "port").split()[-1])
    return redis_connections(server.execute("CLIENT", "LIST"), port)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "flavor": {"type": "str", "choices": ["rabbitmq", "redis", "valkey"], "required": True},
            "administrator": {"type": "str", "default": ""},
            "names": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    connections = of_rabbitmq(module) if module.params["flavor"] == "rabbitmq" else of_redis(module)
    found = clients(connections or (), module.params["names"])
    module.exit_json(changed=False, running=connections is not None, clients=found)


if __name__ == "__main__":
    main()
