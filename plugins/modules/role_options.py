#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""The documentation of the action plugin role_options, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: role_options
short_description: Validate the options of a role
description:
  - Checks what the types of the role's specification do not say, such as options that need each other.
  - Runs on the controller and changes nothing. It fails with all errors at once.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Changes nothing.}
  diff_mode: {support: none, description: Changes nothing.}
options:
  role:
    description: The role. Its options are the variables with its prefix.
    type: str
    required: true
    choices:
      - alertmanager
      - broker_backup
      - celery_task_log
      - flower
      - grafana_dashboards
      - node_exporter
      - prometheus
      - rabbitmq
      - redis
      - redis_exporter
      - redis_ui
"""

EXAMPLES = r"""
- name: Validate the options of Redis
  fleet.celery.role_options:
    role: redis
"""

RETURN = r"""
{}
"""
