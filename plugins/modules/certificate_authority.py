#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""The documentation of the action plugin certificate_authority, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_authority
short_description: Replace the fleet's certificate authority step by step
description:
  - Each value of O(state) is a step. Between them, M(fleet.celery.host_certificate) has to run on all hosts, so that no
    client meets a certificate that it does not trust. C(playbooks/renew_ca.yml) does all of it.
  - The files of the authority tell which steps are done. A step that is done changes nothing, so a rollover that was
    interrupted is continued by the same steps.
  - Runs on the controller.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Reports whether the step is yet to be taken.}
  diff_mode: {support: none, description: Shows nothing.}
options:
  secrets_dir:
    description: Directory on the controller. Its C(ca) has the fleet's certificate authority.
    type: path
    required: true
  state:
    description:
      - V(next_trusted) makes the next authority. Clients trust both, and the present one still signs.
      - V(next_signs) has the next authority sign. All clients must trust it. The key of the previous one is removed.
      - V(next_alone) ends the trust in the previous one. All services must serve certificates of the next one.
      - V(finished) ends the rollover. All hosts must trust the next one only.
    type: str
    required: true
    choices: [next_trusted, next_signs, next_alone, finished]
"""

EXAMPLES = r"""
- name: Make the next certificate authority
  fleet.celery.certificate_authority:
    secrets_dir: "{{ celery_plan.secrets_dir }}"
    state: next_trusted
  run_once: true
"""

RETURN = r"""
{}
"""
