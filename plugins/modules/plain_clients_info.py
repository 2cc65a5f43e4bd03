#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""List the clients that are connected to a broker without TLS."""

from __future__ import annotations

DOCUMENTATION = r"""
module: plain_clients_info
short_description: List the clients that are connected to a broker without TLS
description:
  - Reads the broker's own list of connections. A broker that is not installed or not running has none.
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
- name: Collect clients without TLS
  fleet.celery.plain_clients_info:
    flavor: rabbitmq
  register: plain
"""

RETURN = r"""
clients:
  description: The user and the host of each, with the number of connections.
  type: list
  elements: str
  returned: always
  sample: ["shop from worker1 (4 connections)"]
"""

from collections.abc import Iterable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._plain_clients import (
    Client,
    describe,
    rabbitmq_clients,
    redis_clients,
)
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq import as_rabbitmq, find_command
from ansible_collections.fleet.celery.plugins.module_utils._redis import Server, stored_password


def of_rabbitmq(module: AnsibleModule) -> Iterable[Client]:
    """Return the clients of RabbitMQ."""
    command = find_command(module, "rabbitmqctl")
    code, _, _ = module.run_command(["systemctl", "is-active", "--quiet", "rabbitmq-server"])
    if not command or code != 0:
        return []
    listed = ["list_connections", "--formatter", "json", "user", "peer_host", "ssl"]
    code, out, err = module.run_command(as_rabbitmq(command, "--silent", "--timeout", "60", *listed), cwd="/")
    if code != 0:
        module.fail_json(msg=f"RabbitMQ does not list its connections: {err.strip()[-2000:]}")
    return rabbitmq_clients(out)


def of_redis(module: AnsibleModule) -> Iterable[Client]:
    """Return the clients of Redis or Valkey."""
    flavor = module.params["flavor"]
    module.params["socket"] = f"/run/{flavor}/{flavor}.sock"
    if not Path(module.params["socket"]).exists():
        return []
    server = Server(module, stored_password(Path(f"/var/lib/celery-fleet/{flavor}")))
    if not server.password:
        module.fail_json(msg=f"The server refuses the password of {module.params['administrator']}: {server.error}")
    port = int(server.execute("CONFIG", "GET", "port").split()[-1])
    return redis_clients(server.execute("CLIENT", "LIST"), port)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "flavor": {"type": "str", "choices": ["rabbitmq", "redis", "valkey"], "required": True},
            "administrator": {"type": "str", "default": ""},
            "names": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    clients = of_rabbitmq(module) if module.params["flavor"] == "rabbitmq" else of_redis(module)
    module.exit_json(changed=False, clients=describe(clients, module.params["names"]))


if __name__ == "__main__":
    main()
