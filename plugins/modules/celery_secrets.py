#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""The documentation of the action plugin celery_secrets, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_secrets
short_description: Check, encrypt or replace the secrets of a fleet on the controller
description:
  - The secrets are the passwords that P(fleet.celery.secret#lookup) generated, and the private keys in the directories
    below them, as that of the certificate authority.
  - If the variable C(celery_secrets_encrypted) is true, they are written encrypted with Ansible Vault, with the vault
    password of the run. They are read whichever form they have.
  - A new value of a password is first prepared, then put in force. After an interruption, the prepared value is used.
  - Runs on the controller.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Returns which secrets would change.}
  diff_mode: {support: none, description: Secrets are not shown.}
options:
  directory:
    description: Directory of the secrets.
    type: path
    required: true
  names:
    description: Names of the passwords' files, for O(state=prepared) and O(state=current).
    type: list
    elements: str
    default: []
  state:
    description:
      - With V(checked), the module fails if this run can't read a secret, or if secrets are to be encrypted and it has
        no vault password.
      - With V(encrypted), secrets that are not encrypted are encrypted if C(celery_secrets_encrypted) is true.
      - With V(prepared), a new value of each password is generated, unless one is prepared.
      - With V(current), the prepared values replace the current ones. Passwords without a prepared value stay.
    type: str
    choices: [checked, encrypted, prepared, current]
    required: true
"""

EXAMPLES = r"""
- name: Generate a new password
  fleet.celery.celery_secrets:
    directory: ~/.local/share/celery-fleet/shop
    names: [rabbitmq_application]
    state: prepared
  run_once: true
"""

RETURN = r"""
names:
  description: The secrets that changed.
  type: list
  elements: str
  returned: success
"""
