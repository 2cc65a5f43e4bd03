#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""The documentation of the action plugin celery_rollout, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_rollout
short_description: Activate a staged release in batches, and roll back a failed batch
description:
  - Collects the baseline, computes the batches, activates the release on one batch after the other, and checks each
    batch against the baseline. A failed batch ends the rollout, and all hosts that it had reached are rolled back.
  - Runs on the controller, once for all hosts. It runs M(fleet.celery.celery_activate),
    M(fleet.celery.celery_status_info) and M(fleet.celery.celery_lock) on the hosts, at most C(forks) at the same time,
    with the connections and the privileges of the play. Keywords of the task itself do not apply to them.
  - Shows what it does and waits for at once, renews the rollout lock at each step, and releases it at the end.
  - The run that it belongs to must have acquired the lock.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Reports the programs that would be restarted.}
  diff_mode: {support: full, description: Shows for each host the release that C(current) points to.}
options:
  app:
    description: The plan's C(app).
    type: dict
    required: true
  hosts:
    description:
      - For each host of the rollout, in the order of the inventory, C(version), the release to activate; C(programs)
        and C(restart_before), the options of M(fleet.celery.celery_activate); C(workers), the plan's programs; and
        C(staged), the result of M(fleet.celery.celery_release).
    type: dict
    required: true
  lock_hosts:
    description: Hosts that hold the rollout lock. This run has acquired it on most of them.
    type: list
    elements: str
    required: true
  lock_path:
    description: Path of the rollout lock on these hosts.
    type: path
    required: true
  run:
    description: Identifier of this run, which has acquired the lock.
    type: str
    required: true
  label:
    description: Name of the rollout in reports.
    type: str
    required: true
  report_dir:
    description: Directory on the controller for the HTML report.
    type: path
    required: true
  queues:
    description: Queues whose depth is compared with the baseline.
    type: list
    elements: str
    default: []
  batches:
    description: Size of each batch per workload, as a number of hosts or a percentage.
    type: list
    elements: raw
    default: ["1", "25%", "100%"]
  only:
    description: Restart only these programs, or programs of these workers. Empty restarts all.
    type: list
    elements: str
    default: []
  stop_by:
    description: How workers are stopped, by Supervisor's signal or by Celery's remote control.
    type: str
    choices: [supervisor, remote_control]
    default: supervisor
  start_timeout:
    description: Seconds within which each program must be up.
    type: int
    default: 180
  keep_releases:
    description: Number of releases that a host keeps.
    type: int
    default: 5
  observe_tasks:
    description: Number of finished tasks per host after which a batch is checked.
    type: int
    default: 20
  observe_seconds:
    description: Seconds after which a batch is checked, even if fewer tasks have finished.
    type: int
    default: 30
  margins:
    description: >-
      Allowed regression against the baseline, C(failures), C(min_failures), C(depth_factor) and C(min_depth).
    type: dict
    default: {}
  auto_rollback:
    description: Whether a failed batch rolls back all hosts that were changed.
    type: bool
    default: true
  hooks:
    description: Commands of the release, by moment, each with C(argv), C(hosts) and C(timeout).
    type: dict
    default: {}
    suboptions:
      after_activate:
        description: After the activation of a batch. A failed command fails the batch.
        type: list
        elements: dict
        default: []
      after_rollback:
        description: After the rollback of a failed batch.
        type: list
        elements: dict
        default: []
      after_success:
        description: After a rollout that succeeded.
        type: list
        elements: dict
        default: []
"""

EXAMPLES = r"""
- name: Activate the release in batches
  fleet.celery.celery_rollout:
    app: "{{ celery_plan.app }}"
    hosts: "{{ hosts }}"
    lock_hosts: "{{ celery_plan.lock_hosts }}"
    lock_path: /run/celery-fleet/shop.lock
    run: "{{ run }}"
    label: Release 1.4.0
    report_dir: ~/rollouts
  run_once: true
"""

RETURN = r"""
msg:
  description: Why the rollout failed, and the release of each host that it had reached.
  type: str
  returned: failure
"""
