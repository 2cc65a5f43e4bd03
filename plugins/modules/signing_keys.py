#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""The documentation of the action plugin signing_keys, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: signing_keys
short_description: Make and replace the keys with which senders sign messages
description:
  - Each sender has an Ed25519 key in the directory C(signing) of the secrets. A key that is missing is made. That of
    one that is no sender any more is removed, and trusted for what it signed before.
  - Keys are replaced step by step. Between the steps, the role P(fleet.celery.celery_signing#role) has to run on all
    hosts, so that no receiver gets a message whose key it does not trust. C(playbooks/rotate.yml) does all of it.
  - Runs on the controller.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Keys that are missing are made in memory only. Nothing is replaced.}
  diff_mode: {support: none, description: Shows nothing.}
options:
  secrets_dir:
    description: Directory of the secrets on the controller.
    type: path
    required: true
  senders:
    description: For each sender, whether it may control workers.
    type: dict
    required: true
  keep_seconds:
    description: For how long a message that was signed with an earlier key may be valid.
    type: int
    required: true
  state:
    description:
      - V(present) makes the keys that are missing.
      - V(prepared) makes the next key of each sender, which is trusted and not used yet.
      - V(current) puts the next keys in force. The earlier ones stay trusted.
      - V(ended) ends the use of the earlier keys. They are trusted for messages that they signed before, for
        O(keep_seconds).
      - V(forgotten) ends the trust in all earlier keys.
    type: str
    choices: [present, prepared, current, ended, forgotten]
    default: present
"""

EXAMPLES = r"""
- name: Make the signing keys
  fleet.celery.signing_keys:
    secrets_dir: "{{ celery_plan.secrets_dir }}"
    senders: {worker1: false, worker1.operator: true}
    keep_seconds: 90000
  run_once: true
  no_log: true
  register: keys
"""

RETURN = r"""
private:
  description: The private key of each sender, in PEM.
  type: dict
  returned: success
trusted:
  description: The public keys that receivers trust, as JSON.
  type: str
  returned: success
"""
