#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Make a Redis server apply its ACL file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_users
short_description: Make a Redis server apply its ACL file
description:
  - Applies the ACL file if it changed since it was last applied, or if users were changed at run time.
  - The server is not restarted. Connections of removed users are closed. Those of other users stay open, even if
    their password changed. C(CLIENT KILL USER) closes the connections of a user.
  - Logs in as an administrator with O(password), or with the password that was valid before.
  - Stores that password in a file of O(state_dir) that only root can read.
author: Celery Fleet (@celery-fleet)
requirements:
  - C(redis-cli) of Redis 7.0 or later, or C(valkey-cli), run as root on the server's host
attributes:
  check_mode: {support: full, description: Reports whether the ACL file would be applied.}
  diff_mode: {support: none, description: The ACL file holds secrets.}
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
  acl_file:
    description: The server's ACL file.
    type: path
    required: true
  state_dir:
    description: Directory of root in which the administrator's password is stored. It is created if missing.
    type: path
    required: true
  administrator:
    description: User of the ACL file with all permissions.
    type: str
    required: true
  password:
    description: Password of O(administrator) in the ACL file.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Apply the ACL file
  fleet.celery.redis_users:
    socket: /run/redis/redis.sock
    acl_file: /etc/redis/users.acl
    state_dir: /var/lib/celery-fleet/redis
    administrator: shop-admin
    password: "{{ vault_redis_administrator_password }}"
"""

RETURN = r"""
loaded:
  description: Whether the ACL file was applied. In check mode, whether it would be.
  type: bool
  returned: always
"""

import hashlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._config_files import make_parents
from ansible_collections.fleet.celery.plugins.module_utils._files import make_directory, write_file
from ansible_collections.fleet.celery.plugins.module_utils._redis import ADMINISTRATOR_FILE, Server, stored_password


def state_of(acl_file: Path, users: str) -> str:
    """Return a digest of an ACL file and of the server's users.

    Redis 7.0 lists a user's commands in another order after each start, so they are sorted. It names sanitize-payload,
    which is the default, only until the next start.
    """
    listed = sorted(" ".join(sorted(set(user.split(" ")) - {"sanitize-payload"})) for user in users.splitlines())
    text = "\n".join([acl_file.read_text(encoding="utf-8"), *listed])
    return hashlib.sha256(text.encode()).hexdigest()


def commands_for(acl_file: str, users: str) -> list[list[str]]:
    """Return the commands that apply an ACL file. Unlike ACL LOAD, they close no connection of users that stay.

    Args:
        users: output of ACL LIST.
    """
    wanted = [line.split(" ") for line in acl_file.splitlines() if line]
    gone = {line.split(" ")[1] for line in users.splitlines() if line} - {words[1] for words in wanted}
    changes = [["ACL", "SETUSER", name, "reset", *filter(None, rules)] for _, name, *rules in wanted]
    return changes + [["ACL", "DELUSER", name] for name in sorted(gone)]


def read(path: Path) -> str:
    """Return the content of a file; empty if it does not exist."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "flavor": {"type": "str", "choices": ["redis", "valkey"], "default": "redis"},
            "socket": {"type": "path", "required": True},
            "acl_file": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "administrator": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    params: dict[str, Any] = module.params
    acl_file = Path(params["acl_file"])
    state_dir = Path(params["state_dir"])
    password_file, state_file = state_dir / ADMINISTRATOR_FILE, state_dir / "users.loaded"
    if module.check_mode and not Path(params["socket"]).exists():
        module.exit_json(changed=True, loaded=True)

    server = Server(module, params["password"], stored_password(state_dir))
    if not server.password:
        module.fail_json(
            msg=f"The server accepts neither the password of {params['administrator']} nor its previous one: "
            f"{server.error}. Its users were changed at run time. Restart the server to load {acl_file} again"
        )
    users = server.execute("ACL", "LIST")
    stale = read(state_file) != state_of(acl_file, users)
    changed = stale or stored_password(state_dir) != params["password"]
    if changed and not module.check_mode:
        if stale:
            server.execute_hidden(commands_for(read(acl_file), users))
        server = Server(module, params["password"])
        if not server.password:
            module.fail_json(
                msg=f"{acl_file} has another password of {params['administrator']} than this task: {server.error}"
            )
        make_parents(password_file)
        make_directory(state_dir, 0o700, "root", "root")
        write_file(password_file, params["password"], 0o600, "root")
        write_file(state_file, state_of(acl_file, server.execute("ACL", "LIST")), 0o600, "root")
    module.exit_json(changed=changed, loaded=stale)


if __name__ == "__main__":
    main()
