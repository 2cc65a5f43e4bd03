#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""The documentation of the action plugin celery_drain_hosts, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_drain_hosts
short_description: Drain hosts until their workers have stopped
description:
  - Runs on the controller, once for all hosts. It runs M(fleet.celery.celery_drain) on the hosts until each is done, at
    most C(forks) at the same time, with the connections and the privileges of the play. Keywords of the task itself do
    not apply to it.
  - Shows what it waits for. A host that fails does not end the drain of the others.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Reports the programs that would be stopped.}
  diff_mode: {support: none, description: There is no configuration to compare.}
options:
  app:
    description: The plan's C(app).
    type: dict
    required: true
  hosts:
    description: Hosts to drain.
    type: list
    elements: str
    required: true
  plan:
    description: The plan's C(hosts).
    type: dict
    required: true
  deadline:
    description: Seconds after which tasks are interrupted. V(0) waits for the last task.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Drain the workers
  fleet.celery.celery_drain_hosts:
    app: "{{ celery_plan.app }}"
    hosts: [worker2]
    plan: "{{ celery_plan.hosts }}"
    deadline: 300
  run_once: true
"""

RETURN = r"""
interrupted:
  description: For each host, the programs that did not finish before the deadline.
  type: dict
  returned: always
"""
