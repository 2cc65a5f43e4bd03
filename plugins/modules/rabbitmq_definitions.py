#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Configure a vhost of RabbitMQ and its users."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_definitions
short_description: Configure a vhost of RabbitMQ and its users
description:
  - Compares the broker's definitions with the declared ones, and imports only the differences.
  - Waits until the broker has started.
  - Passwords are passed to the broker as salted hashes. They appear in no process list, log or diff.
  - Users, permissions, policies, queues and exchanges that are not declared are left alone. The exception are other
    permissions of a declared user, which are removed unless the user is an administrator.
author: Celery Fleet (@celery-fleet)
requirements:
  - C(rabbitmqctl) of RabbitMQ 3.10 or later, run as root on the broker's host
attributes:
  check_mode:
    support: full
    description: Reports the changes. If the broker is not running yet, these are all declared definitions.
  diff_mode: {support: full, description: "Shows the changes, but no passwords."}
options:
  vhost:
    description: The vhost. Everything but users belongs to it.
    type: str
    required: true
  default_queue_type:
    description:
      - Type of queues that clients declare without one, such as V(quorum). RabbitMQ's own default if empty.
      - It is set when the vhost is created. RabbitMQ 3.10 can't change it later.
    type: str
    default: ""
  users:
    description: Users that must exist.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The user's name.
        type: str
        required: true
      tags:
        description: The user's tags. A user without tags can't log in to the management API.
        type: list
        elements: str
        default: []
  passwords:
    description: The users' passwords, by user name.
    type: dict
    default: {}
  absent_users:
    description: Users that must not exist.
    type: list
    elements: str
    default: []
  permissions:
    description: The users' permissions in the vhost, as regular expressions of names.
    type: list
    elements: dict
    default: []
    suboptions:
      user:
        description: The user's name.
        type: str
        required: true
      configure:
        description: Names that the user may declare and delete.
        type: str
        required: true
      write:
        description: Names that the user may publish to and bind.
        type: str
        required: true
      read:
        description: Names that the user may consume from.
        type: str
        required: true
  add_permissions:
    description:
      - Whether the users keep the permissions that they have in the vhost, beside the declared ones.
      - For a change while clients run that still need their old permissions.
    type: bool
    default: false
  limits:
    description: Limits of the vhost. Without it, they are left alone.
    type: dict
    suboptions:
      max_connections:
        description: Number of connections above which the broker refuses more.
        type: int
        required: true
      max_queues:
        description: Number of queues above which the broker refuses more.
        type: int
        required: true
  shovels:
    description:
      - Definitions of shovels by their names, which begin with C(celery-fleet.), but without C(src-uri). Others with
        such a name are removed. Without it, all are left alone.
      - Needs the plugin C(rabbitmq_shovel).
    type: dict
  shovel_uris:
    description: The shovels' C(src-uri). It may contain passwords.
    type: list
    elements: str
    default: []
  exchanges:
    description: Durable exchanges that must exist.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The exchange's name.
        type: str
        required: true
      type:
        description: The exchange's type.
        type: str
        default: direct
  queues:
    description: Queues that must exist.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The queue's name.
        type: str
        required: true
      durable:
        description: Whether the queue survives a restart of the broker.
        type: bool
        default: true
      arguments:
        description: The queue's arguments, e.g. C(x-queue-type).
        type: dict
        default: {}
  bindings:
    description: Bindings that must exist, each of a queue or of another exchange to an exchange.
    type: list
    elements: dict
    default: []
    suboptions:
      exchange:
        description: The exchange's name.
        type: str
        required: true
      queue:
        description: The queue's name. Mutually exclusive with O(bindings[].destination_exchange).
        type: str
      destination_exchange:
        description: Name of the exchange that gets the messages.
        type: str
      routing_key:
        description: The routing key.
        type: str
        default: ""
  policies:
    description: Policies that must exist.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The policy's name.
        type: str
        required: true
      pattern:
        description: Regular expression of the names that the policy applies to.
        type: str
        required: true
      apply_to:
        description: Kind of objects that the policy applies to.
        type: str
        choices: [all, queues, exchanges]
        default: queues
      definition:
        description: The policy's definition.
        type: dict
        required: true
      priority:
        description: Priority of the policy. Of several that match, the highest applies.
        type: int
        default: 0
  timeout:
    description: Seconds within which the broker must have started.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Configure the application's vhost
  fleet.celery.rabbitmq_definitions:
    vhost: shop
    users:
      - name: shop
    passwords:
      shop: "{{ vault_shop_password }}"
    permissions:
      - user: shop
        configure: ^shop\.
        write: ^shop\.
        read: ^shop\.
    absent_users: [guest]
"""

RETURN = r"""
made:
  description: Names of the objects that were created or changed, by kind.
  type: dict
  returned: always
  sample: {users: [shop], vhosts: [shop]}
removed:
  description: Names of the objects that were removed, by kind.
  type: dict
  returned: always
  sample: {users: [guest]}
"""

import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._files import give, write_file
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq import (
    SALT_BYTES,
    USER,
    DefinitionsError,
    Desired,
    Difference,
    User,
    as_rabbitmq,
    difference,
    find_command,
)

EPMD = ("127.0.0.1", 4369)


class Broker:
    """The broker on this host, through its own command."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._command = find_command(module, "rabbitmqctl")

    def _run(self, *arguments: str) -> tuple[int, str, str]:
        code, out, err = self._module.run_command(as_rabbitmq(str(self._command), "--silent", *arguments), cwd="/")
        return int(code), str(out), str(err)

    def _import(self, text: str) -> tuple[int, str, str]:
        """Import definitions from a file that only RabbitMQ can read: through a pipe, RabbitMQ 4.0 waits for ever."""
        with tempfile.TemporaryDirectory(dir="/run", prefix="celery-fleet-") as directory:
            give(Path(directory), 0o710, USER)
            file = Path(directory) / "definitions.json"
            write_file(file, text, 0o640, USER)
            return self._run("import_definitions", str(file))

    def _fail(self, what: str, err: str) -> NoReturn:
        self._module.fail_json(msg=f"RabbitMQ did not {what}: {err.strip()[-2000:]}")
        raise SystemExit(1)  # fail_json has ended the process

    def export(self) -> dict[str, Any] | None:
        """Return what the broker holds, or nothing if none runs and this is only a check."""
        # Where no port mapper runs, rabbitmqctl would leave one behind.
        if self._module.check_mode and (self._command is None or not _answers(EPMD)):
            return None
        if self._command is None:
            self._module.fail_json(msg="There is no rabbitmqctl on this host: install rabbitmq-server first")
        code, out, err = self._run("export_definitions", "-")
        if code and self._module.check_mode:
            return None
        if code:
            # rabbitmqctl waits without end for a node that does not answer, but this long for one that boots.
            code, _, err = self._run("--timeout", str(self._module.params["timeout"]), "await_startup")
            if code:
                self._fail("start", err)
            code, out, err = self._run("export_definitions", "-")
            if code:
                self._fail("say what it holds", err)
        held: dict[str, Any] = json.loads(out[out.index("{") :])
        return held

    def apply(self, changes: Difference) -> None:
        """Import what is new and remove what must go."""
        queue_type = self._module.params["default_queue_type"]
        if queue_type and "vhosts" in changes.definitions:
            name = self._module.params["vhost"]
            code, out, err = self._run("add_vhost", "--default-queue-type", queue_type, "--", name)
            if code:
                self._fail(f"create the vhost {name}", err or out)
            del changes.definitions["vhosts"]
        if changes.definitions:
            code, out, err = self._import(json.dumps(changes.definitions))
            if code:
                why = err or out
                for item in changes.definitions.get("users", []):
                    why = why.replace(item["password_hash"], "(hidden)")
                for uri in self._module.params["shovel_uris"]:
                    why = why.replace(uri, "(hidden)")
                self._fail("take the definitions", why)
        for vhost, user in changes.cleared_permissions:
            code, out, err = self._run("clear_permissions", "--vhost", vhost, "--", user)
            if code:
                self._fail(f"clear the permissions of {user} on {vhost}", err or out)
        for name in changes.deleted_shovels:
            code, out, err = self._run("clear_parameter", "--vhost", self._module.params["vhost"], "shovel", name)
            if code:
                self._fail(f"delete the shovel {name}", err or out)
        for name in changes.deleted_users:
            code, out, err = self._run("delete_user", "--", name)
            if code:
                self._fail(f"delete the user {name}", err or out)


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def desired(parameters: dict[str, Any]) -> Desired:
    """Return what the module's parameters declare, in RabbitMQ's own format.

    Raises:
        DefinitionsError: a user has no password.
    """
    passwords = parameters["passwords"]
    missing = [user["name"] for user in parameters["users"] if not passwords.get(user["name"])]
    if missing:
        raise DefinitionsError(f"no password is given for: {', '.join(missing)}. Name each in 'passwords'")
    return Desired(
        vhost=parameters["vhost"],
        users=tuple(
            User(user["name"], str(passwords[user["name"]]), tuple(user["tags"])) for user in parameters["users"]
        ),
        permissions={item["user"]: item for item in parameters["permissions"]},
        exchanges=[
            {**item, "durable": True, "auto_delete": False, "arguments": {}} for item in parameters["exchanges"]
        ],
        queues=[{**item, "auto_delete": False} for item in parameters["queues"]],
        bindings=[
            {
                "source": item["exchange"],
                "destination": item["queue"] or item["destination_exchange"],
                "destination_type": "queue" if item["queue"] else "exchange",
                "routing_key": item["routing_key"],
                "arguments": {},
            }
            for item in parameters["bindings"]
        ],
        policies=[
            {
                "name": item["name"],
                "pattern": item["pattern"],
                "apply-to": item["apply_to"],
                "definition": item["definition"],
                "priority": item["priority"],
            }
            for item in parameters["policies"]
        ],
        absent_users=tuple(parameters["absent_users"]),
        add_permissions=parameters["add_permissions"],
        shovels=None
        if parameters["shovels"] is None
        else {name: {**value, "src-uri": parameters["shovel_uris"]} for name, value in parameters["shovels"].items()},
        limits={name.replace("_", "-"): value for name, value in (parameters["limits"] or {}).items()},
    )


def _text(side: dict[str, Any]) -> str:
    return json.dumps(side, indent=2, sort_keys=True, ensure_ascii=False) + "\n" if side else ""


def main() -> None:
    text: dict[str, Any] = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "vhost": text,
            "default_queue_type": {"type": "str", "default": ""},
            "users": _objects(name=text, tags={"type": "list", "elements": "str", "default": []}),
            # Not beside the user's name: a list of users with a secret in it would be logged as a whole, where a
            # password that Python writes with an escape would not be found to be hidden.
            "passwords": {"type": "dict", "default": {}, "no_log": True},
            "absent_users": {"type": "list", "elements": "str", "default": []},
            "permissions": _objects(user=text, configure=text, write=text, read=text),
            "exchanges": _objects(name=text, type={"type": "str", "default": "direct"}),
            "queues": _objects(
                name=text, durable={"type": "bool", "default": True}, arguments={"type": "dict", "default": {}}
            ),
            "add_permissions": {"type": "bool", "default": False},
            "limits": {
                "type": "dict",
                "options": {name: {"type": "int", "required": True} for name in ("max_connections", "max_queues")},
            },
            "shovels": {"type": "dict"},
            "shovel_uris": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "bindings": {
                **_objects(
                    exchange=text,
                    queue={"type": "str"},
                    destination_exchange={"type": "str"},
                    routing_key={"type": "str", "default": "", "no_log": False},
                ),
                "required_one_of": [["queue", "destination_exchange"]],
                "mutually_exclusive": [["queue", "destination_exchange"]],
            },
            "policies": _objects(
                name=text,
                pattern=text,
                apply_to={"type": "str", "choices": ["all", "queues", "exchanges"], "default": "queues"},
                definition={"type": "dict", "required": True},
                priority={"type": "int", "default": 0},
            ),
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    broker = Broker(module)
    held = broker.export()
    if held is None:
        module.warn("No broker runs here yet, so all that is declared counts as new")
    try:
        changes = difference(held or {}, desired(module.params), lambda: os.urandom(SALT_BYTES))
    except DefinitionsError as error:
        module.fail_json(msg=str(error))
    if not module.check_mode:
        broker.apply(changes)
    module.exit_json(
        changed=changes.any,
        made={kind: sorted(items) for kind, items in changes.after.items()},
        removed={
            kind: gone
            for kind, items in changes.before.items()
            if (gone := sorted(items.keys() - changes.after.get(kind, {}).keys()))
        },
        diff={"before": _text(changes.before), "after": _text(changes.after)},
    )


def _objects(**options: dict[str, Any]) -> dict[str, Any]:
    return {"type": "list", "elements": "dict", "default": [], "options": options}


if __name__ == "__main__":
    main()
