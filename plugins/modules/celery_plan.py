#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Derive the plan of a Celery fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_plan
short_description: Derive the programs, settings and memory budgets of a Celery fleet from its declaration
description:
  - Validates the declaration of queues and workers against the inventory and the hosts' facts, and derives the plan.
  - Changes nothing. Run it once, on the controller.
  - An invalid declaration fails with all of its errors at once.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Changes nothing.}
  diff_mode: {support: none, description: Changes nothing.}
options:
  declaration:
    description: The user's variables. Their names lack the prefix C(celery_).
    type: dict
    required: true
  groups:
    description: The inventory's groups, each with the list of its hosts.
    type: dict
    required: true
  facts:
    description: For each host, the result of P(fleet.celery.host_facts#filter).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Derive the plan
  fleet.celery.celery_plan:
    declaration: {app_name: shop, app_module: "shop.celery:app", queues: [], workers: []}
    groups: "{{ groups }}"
    facts: "{{ hostvars | fleet.celery.host_facts(groups.all) }}"
  delegate_to: localhost
  run_once: true
  register: celery_plan
"""

RETURN = r"""
app:
  description: Names and directories of the application.
  type: dict
  returned: success
broker:
  description: Address, limits and needs of the broker.
  type: dict
  returned: success
settings:
  description: Celery's settings, each with its reason.
  type: dict
  returned: success
queues:
  description: The queues, as the broker declares them.
  type: list
  elements: dict
  returned: success
thresholds:
  description: For each queue, the thresholds of its alerts.
  type: dict
  returned: success
alerts:
  description: Settings of all alerts, by name.
  type: dict
  returned: success
runbook_base:
  description: Prefix of the alerts' runbook_url.
  type: str
  returned: success
certificates:
  description: Endpoints whose certificates are monitored.
  type: list
  elements: str
  returned: success
routes:
  description: Patterns of task names, each with its queue.
  type: list
  elements: dict
  returned: success
hosts:
  description: For each host, its programs, duties and memory budget.
  type: dict
  returned: success
beat_host:
  description: The host that runs beat. Empty if there is none.
  type: str
  returned: success
flower_host:
  description: The host that runs Flower. Empty if there is none.
  type: str
  returned: success
monitor_host:
  description: The host that runs Prometheus and Alertmanager. Empty if there is none.
  type: str
  returned: success
table:
  description: The plan as lines of text.
  type: list
  elements: str
  returned: success
advice:
  description: Warnings about declarations that are valid, but may surprise.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._plan import make_plan
from ansible_collections.fleet.celery.plugins.module_utils._table import plan_tables


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "declaration": {"type": "dict", "required": True},
            "groups": {"type": "dict", "required": True},
            "facts": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    plan = make_plan(module.params["declaration"], module.params["groups"], module.params["facts"])
    if plan.problems:
        problems = [str(problem) for problem in plan.problems]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        module.fail_json(
            "\n".join([f"The declaration has {count}. No host was touched.", *(f"- {line}" for line in problems)])
        )
    module.exit_json(changed=False, **plan.values, table=plan_tables(plan.fleet), advice=list(plan.warnings))


if __name__ == "__main__":
    main()
