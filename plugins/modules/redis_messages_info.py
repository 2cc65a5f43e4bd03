#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Count the messages of Celery in a Redis or Valkey server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_messages_info
short_description: Count the messages of Celery in a Redis or Valkey server
description:
  - Counts the messages in lists of each priority, and those that clients hold and have not acknowledged.
author: Celery Fleet (@celery-fleet)
requirements:
  - C(redis-cli) of Redis 7.0 or later, or C(valkey-cli), run as root on the server's host
attributes:
  check_mode: {support: full, description: Reads only.}
  diff_mode: {support: none, description: Changes nothing.}
options:
  flavor:
    description: The server's kind.
    type: str
    choices: [redis, valkey]
    default: redis
  administrator:
    description: User with all permissions. Its password is the one that M(fleet.celery.redis_users) stored.
    type: str
    required: true
  database:
    description: Database of the queues.
    type: int
    default: 0
  key_prefix:
    description: Prefix of all keys, C(global_keyprefix) of kombu.
    type: str
    default: ""
  queues:
    description: Names of the queues.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds to wait until there are no messages.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Count the messages of Redis
  fleet.celery.redis_messages_info:
    administrator: shop-admin
    key_prefix: "shop:"
    queues: [customers]
  register: counted

- name: Fail if there is any
  ansible.builtin.assert:
    that: counted.queues.values() | sum == 0
"""

RETURN = r"""
queues:
  description: The number of messages in each queue, and as C(unacked) those that clients hold.
  type: dict
  returned: success
  sample: {customers: 0, unacked: 2}
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._redis import Server

INTERVAL_SECONDS = 1.0
# Between the name of a queue and a priority, of which 0 has none. Source: kombu.transport.redis.
SEPARATOR = "\x06\x16"
PRIORITIES = range(1, 10)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "flavor": {"type": "str", "choices": ["redis", "valkey"], "default": "redis"},
            "administrator": {"type": "str", "required": True},
            "database": {"type": "int", "default": 0},
            "key_prefix": {"type": "str", "default": "", "no_log": False},
            "queues": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    server = Server.of_host(module)
    deadline = time.monotonic() + module.params["timeout"]
    while sum((queues := count(module, server)).values()) and time.monotonic() < deadline:
        time.sleep(INTERVAL_SECONDS)
    module.exit_json(changed=False, queues=queues)


def count(module: AnsibleModule, server: Server) -> dict[str, int]:
    """Return the number of messages in each queue."""
    prefix, database = module.params["key_prefix"], str(module.params["database"])
    counts = {}
    for queue in module.params["queues"]:
        keys = [prefix + queue, *(f"{prefix}{queue}{SEPARATOR}{priority}" for priority in PRIORITIES)]
        counts[queue] = sum(int(server.execute("-n", database, "LLEN", key)) for key in keys)
    return {**counts, "unacked": int(server.execute("-n", database, "HLEN", f"{prefix}unacked"))}


if __name__ == "__main__":
    main()
