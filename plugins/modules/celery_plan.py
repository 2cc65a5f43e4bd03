#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Derive the plan of a Celery fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_plan
short_description: Derive programs, settings and budgets of a Celery fleet from its declaration
description:
  - Checks a declaration of queues and workers against the inventory and the hosts' facts, and derives everything else
    from it.
  - Changes nothing. Run it once, on the controller.
  - A declaration that can't work is refused with all of its problems at once.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: It changes nothing.}
  diff_mode: {support: none, description: There is nothing to differ.}
options:
  declaration:
    description: The user's variables, named without their prefix C(celery_).
    type: dict
    required: true
  groups:
    description: The inventory's groups, a list of hosts each.
    type: dict
    required: true
  facts:
    description: For each host C(memory_mb), C(processors), C(address) and C(declared_memory).
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
app: {description: Names and directories of the application., type: dict, returned: success}
broker: {description: Where the broker is and what it must allow., type: dict, returned: success}
settings: {description: Celery's settings with their reasons., type: dict, returned: success}
queues: {description: Queues as Celery declares them., type: list, returned: success}
thresholds: {description: From when on somebody is told of each queue., type: dict, returned: success}
alerts: {description: What people are told of, and from when on., type: dict, returned: success}
certificates: {description: Endpoints whose certificates are watched., type: list, returned: success}
routes: {description: Which tasks go to which queue., type: list, returned: success}
hosts: {description: Programs and budgets of each host., type: dict, returned: success}
beat_host: {description: The one host that runs beat., type: str, returned: success}
flower_host: {description: The one host that runs Flower., type: str, returned: success}
monitor_host: {description: The one host that runs Prometheus and Alertmanager., type: str, returned: success}
table: {description: The plan as lines of text., type: list, returned: success}
advice: {description: What works, but not as one might think., type: list, returned: success}
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
    module.exit_json(changed=False, **plan.values, table=plan_tables(plan.values), advice=list(plan.warnings))


if __name__ == "__main__":
    main()
