#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Make a Redis server load its ACL file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_users
short_description: Make a Redis server load its ACL file
description:
  - Loads the ACL file if it changed since the server loaded it, or if users were changed at run time.
  - The server is not restarted. Connections of removed users are closed. Those of other users stay open, even if
    their password changed. Redis 7.0 closes those too. C(CLIENT KILL USER) closes the connections of a user.
  - Logs in as an administrator with O(password), or with the password that was valid before.
  - Stores that password in a file of O(state_dir) that only root can read.
author: Celery Fleet (@celery-fleet)
requirements:
  - C(redis-cli) of Redis 7.0 or later, or C(valkey-cli), run as root on the server's host
attributes:
  check_mode: {support: full, description: Reports whether the ACL file would be loaded.}
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
- name: Load the ACL file
  fleet.celery.redis_users:
    socket: /run/redis/redis.sock
    acl_file: /etc/redis/users.acl
    state_dir: /var/lib/celery-fleet/redis
    administrator: shop-admin
    password: "{{ vault_redis_administrator_password }}"
"""

RETURN = r"""
loaded:
  description: Whether the ACL file was loaded. In check mode, whether it would be.
  type: bool
  returned: always
"""

import hashlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._config_files import make_parents
from ansible_collections.fleet.celery.plugins.module_utils._files import make_directory, write_file


class Server:
    """A server as its administrator reaches it on its host.

    Attributes:
        password: one that the server takes; empty if it took none.
        said: why it took none.
    """

    def __init__(self, module: AnsibleModule, *passwords: str) -> None:
        self._module = module
        self.said = ""
        self.password = next(filter(self._takes, filter(None, passwords)), "")

    def _takes(self, password: str) -> bool:
        code, _, self.said = self._run(password, "PING")
        return code == 0

    def _run(self, password: str, *command: str) -> tuple[int, str, str]:
        given = self._module.params
        code, output, errors = self._module.run_command(
            # -e: an error of the server is one of the program.
            [f"{given['flavor']}-cli", "-e", "-s", given["socket"], "--user", given["administrator"], *command],
            # Not an argument, which every user of the host could read.
            environ_update={"REDISCLI_AUTH": password},
        )
        return code, str(output), f"{errors} {output}".strip()

    def ask(self, *command: str) -> str:
        """Return the server's answer; an error ends the module."""
        code, answer, said = self._run(self.password, *command)
        if code != 0:
            self._module.fail_json(msg=f"The server refuses {' '.join(command)}: {said}")
        return answer


def state_of(acl_file: Path, users: str) -> str:
    """Identify an ACL file together with the users that the server has.

    Redis 7.0 lists a user's commands in an order that differs from one start to the next.
    """
    listed = sorted(" ".join(sorted(user.split(" "))) for user in users.splitlines())
    text = "\n".join([acl_file.read_text(encoding="utf-8"), *listed])
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: Path) -> str:
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
    given: dict[str, Any] = module.params
    acl_file = Path(given["acl_file"])
    state_dir = Path(given["state_dir"])
    password_file, state_file = state_dir / "administrator.password", state_dir / "users.loaded"
    if module.check_mode and not Path(given["socket"]).exists():
        module.exit_json(changed=True, loaded=True)

    server = Server(module, given["password"], read(password_file))
    if not server.password:
        module.fail_json(
            msg=f"The server takes neither the password of {given['administrator']} nor the one that it had before: "
            f"{server.said}. Its users were changed by other hands; restart it, and it has those of {acl_file} again"
        )
    stale = read(state_file) != state_of(acl_file, server.ask("ACL", "LIST"))
    changed = stale or read(password_file) != given["password"]
    if changed and not module.check_mode:
        if stale:
            server.ask("ACL", "LOAD")
        server = Server(module, given["password"])
        if not server.password:
            module.fail_json(msg=f"{acl_file} has another password of {given['administrator']}: {server.said}")
        make_parents(password_file)
        make_directory(state_dir, 0o700, "root", "root")
        write_file(password_file, given["password"], 0o600, "root")
        write_file(state_file, state_of(acl_file, server.ask("ACL", "LIST")), 0o600, "root")
    module.exit_json(changed=changed, loaded=stale)


if __name__ == "__main__":
    main()
