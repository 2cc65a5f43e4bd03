# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Acquire or release the rollout lock. Documentation only: the action plugin of this name does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_rollout_lock
short_description: Acquire or release the rollout lock
description:
  - Runs on the controller, and runs M(fleet.celery.celery_lock) on the hosts that hold the lock.
  - The run that holds the lock on most of the hosts holds it, so that a rollout is possible while some are down.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Reports whether the lock could be acquired.}
  diff_mode: {support: none, description: Nothing is rendered.}
options:
  hosts:
    description: Hosts that hold the lock.
    type: list
    elements: str
    required: true
  path:
    description: Path of the lock on these hosts.
    type: path
    required: true
  run:
    description: Identifier of this run.
    type: str
    required: true
  held:
    description: Whether to acquire or renew the lock. Otherwise, it is released.
    type: bool
    default: true
  take_over:
    description: Whether to take the lock from another run.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Acquire the rollout lock
  fleet.celery.celery_rollout_lock:
    hosts: "{{ celery_plan.broker.members | list }}"
    path: /var/lib/celery-fleet/shop/rollout.lock
    run: "{{ run }}"
  run_once: true
"""

RETURN = r"""
message:
  description: The stale lock that was taken over, and hosts that did not answer. Empty if there was neither.
  type: str
  returned: success
"""
