#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Count the messages in the queues of a RabbitMQ vhost."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_messages_info
short_description: Count the messages in the queues of a RabbitMQ vhost
description:
  - Asks each queue itself, since the statistics of C(rabbitmqctl list_queues) are up to some seconds old.
  - Unacknowledged messages count, and delayed tasks too. Queues of one process each, which expire with it, do not.
author: Celery Fleet (@celery-fleet)
requirements:
  - C(rabbitmqctl) of RabbitMQ 3.10 or later, run as root on the broker's host
attributes:
  check_mode: {support: full, description: Reads only.}
  diff_mode: {support: none, description: Changes nothing.}
options:
  vhost:
    description: The vhost.
    type: str
    required: true
  timeout:
    description: Seconds to wait until there are no messages.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Count the messages of RabbitMQ
  fleet.celery.rabbitmq_messages_info:
    vhost: shop
  register: counted

- name: Fail if there is any
  ansible.builtin.assert:
    that: counted.queues.values() | sum == 0
"""

RETURN = r"""
queues:
  description: The number of messages in each queue.
  type: dict
  returned: success
  sample: {customers: 0, celery_delayed_8: 2}
moved:
  description: >-
    The number of messages that present consumers have acknowledged, by queue. These are the shovels of another broker
    if no worker is connected.
  type: dict
  returned: success
  sample: {customers: 120}
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq import as_rabbitmq, find_command
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq_messages import counting, read_counts

INTERVAL_SECONDS = 1.0


def main() -> None:
    module = AnsibleModule(
        argument_spec={"vhost": {"type": "str", "required": True}, "timeout": {"type": "int", "default": 0}},
        supports_check_mode=True,
    )
    deadline = time.monotonic() + module.params["timeout"]
    while sum((counts := count(module))[0].values()) and time.monotonic() < deadline:
        time.sleep(INTERVAL_SECONDS)
    queues, moved = counts
    module.exit_json(changed=False, queues=queues, moved=moved)


def count(module: AnsibleModule) -> tuple[dict[str, int], dict[str, int]]:
    """Return the result of read_counts."""
    command = find_command(module, "rabbitmqctl")
    if command is None:
        module.fail_json(msg="There is no rabbitmqctl on this host: install rabbitmq-server first")
    argv = as_rabbitmq("timeout", "120", str(command), "--silent", "eval", counting(module.params["vhost"]))
    code, out, err = module.run_command(argv, cwd="/")
    try:
        return read_counts("" if code else out)
    except ValueError:
        module.fail_json(msg=f"RabbitMQ does not count its messages: {(err or out).strip()[-2000:]}")
        raise


if __name__ == "__main__":
    main()
