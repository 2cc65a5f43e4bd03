#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Set settings of a running Redis server, which may be secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_settings
short_description: Set settings of a running Redis server
description:
  - Sets those settings of a server that differ, by C(CONFIG SET). Values appear in no process list.
  - The server forgets them when it restarts, so they must be in its configuration file, too.
author: Celery Fleet (@celery-fleet)
requirements:
  - C(redis-cli) of Redis 7.0 or later, or C(valkey-cli), run as root on the server's host
attributes:
  check_mode: {support: full, description: Reports whether settings would change.}
  diff_mode: {support: none, description: The settings may be secrets.}
options:
  flavor:
    description: The server's kind.
    type: str
    choices: [redis, valkey]
    default: redis
  socket:
    description: The server's Unix socket.
    type: path
    required: true
  administrator:
    description: User with all permissions. Its password is the one that M(fleet.celery.redis_users) stored.
    type: str
    required: true
  state_dir:
    description: Directory in which M(fleet.celery.redis_users) stored the password.
    type: path
    required: true
  settings:
    description: The settings as they are in the configuration file.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Set the password for the primary
  fleet.celery.redis_settings:
    socket: /run/redis/redis.sock
    administrator: shop-admin
    state_dir: /var/lib/celery-fleet/redis
    settings: {masterauth: "{{ vault_replication_password }}"}
"""

RETURN = r"""
names:
  description: Names of the settings that changed.
  type: list
  elements: str
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._redis import Server, stored_password


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "flavor": {"type": "str", "choices": ["redis", "valkey"], "default": "redis"},
            "socket": {"type": "path", "required": True},
            "administrator": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "settings": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    settings = {name: str(value) for name, value in module.params["settings"].items()}
    if module.check_mode and not Path(module.params["socket"]).exists():
        module.exit_json(changed=True, names=sorted(settings))
    server = Server(module, stored_password(Path(module.params["state_dir"])))
    if not server.password:
        module.fail_json(msg=f"The server refuses the password of {module.params['administrator']}: {server.error}")
    present = {name: server.execute("CONFIG", "GET", name).split("\n", 2)[1:2] for name in settings}
    differing = {name: value for name, value in settings.items() if present[name] != [value]}
    if differing and not module.check_mode:
        server.execute_hidden([["CONFIG", "SET", *(word for pair in differing.items() for word in pair)]])
    module.exit_json(changed=bool(differing), names=sorted(differing))


if __name__ == "__main__":
    main()
