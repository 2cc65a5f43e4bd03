#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Check a broker of the user's own, and declare what the fleet needs of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: own_broker
short_description: Check a broker that the fleet does not install, and declare the fleet's queues there
description:
  - Connects to the broker, logs in, and tries all that Celery does there. Fails with all that is missing at once.
  - It needs no client library on the host.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: "Only checks the broker."}
  diff_mode: {support: none, description: "The result lists what was declared."}
options:
  broker:
    description: The plan's C(broker).
    type: dict
    required: true
  app_name:
    description: Name of the application.
    type: str
    required: true
  host:
    description: Name of the host that the module runs on, for messages.
    type: str
    required: true
  password:
    description: Password of the broker's user.
    type: str
    required: true
  authorities:
    description: Authorities that may have issued the certificate of the broker, in PEM. By default, those of the host.
    type: str
    default: ""
  state:
    description:
      - V(checked) checks the broker, and leaves nothing behind.
      - V(present) declares the exchanges, queues and bindings that RabbitMQ lacks. Redis has none.
    type: str
    choices: [checked, present]
    default: checked
"""

EXAMPLES = r"""
- name: Check the broker
  fleet.celery.own_broker:
    broker: "{{ celery_plan.broker }}"
    app_name: shop
    host: worker1
    password: "{{ celery_broker_url | fleet.celery.broker_url_password }}"
"""

RETURN = r"""
missing:
  description: Exchanges and queues that RabbitMQ lacked.
  type: list
  elements: str
  returned: success
  sample: [exchange shop, queue video]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._amqp import AmqpError, Connection
from ansible_collections.fleet.celery.plugins.module_utils._own_broker_check import (
    Findings,
    RedisConnection,
    RedisError,
    check_rabbitmq,
    check_redis,
    connect,
    connection_problem,
    prepare_rabbitmq,
)


def examine(module: AnsibleModule) -> Findings:
    """Return what the broker lacks. With state present, RabbitMQ lacks nothing afterwards that may be declared."""
    params = module.params
    broker, login = params["broker"], (params["broker"]["user"], params["password"])
    try:
        with connect(broker, params["authorities"]) as stream:
            if broker["kind"] == "redis":
                redis = RedisConnection(stream, *login)
                return check_redis(redis, broker) if params["state"] == "checked" else Findings()
            rabbitmq = Connection(stream, *login, broker["vhost"])
            if params["state"] == "present" and not module.check_mode:
                return prepare_rabbitmq(rabbitmq, broker)
            return check_rabbitmq(rabbitmq, broker, params["app_name"])
    except (OSError, AmqpError, RedisError) as error:
        return Findings([connection_problem(error, broker, params["host"])])


def main() -> None:
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "broker": {"type": "dict", "required": True},
            "app_name": text,
            "host": text,
            "password": {**text, "no_log": True},
            "authorities": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["checked", "present"], "default": "checked"},
        },
        supports_check_mode=True,
    )
    found = examine(module)
    for warning in found.warnings:
        module.warn(warning)
    if found.problems:
        module.fail_json("\n".join(["The broker can't be used.", *(f"- {problem}" for problem in found.problems)]))
    changed = module.params["state"] == "present" and bool(found.missing)
    module.exit_json(changed=changed, missing=found.missing)


if __name__ == "__main__":
    main()
