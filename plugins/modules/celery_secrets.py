#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Replace generated passwords on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_secrets
short_description: Replace generated passwords on the controller
description:
  - Replaces passwords that P(fleet.celery.secret#lookup) generated. Run it on the controller.
  - A new value is first prepared, then put in force. After an interruption, the prepared value is used.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Returns whether a password would change.}
  diff_mode: {support: none, description: Passwords are not shown.}
options:
  directory:
    description: Directory of the generated passwords.
    type: path
    required: true
  names:
    description: Names of the passwords' files.
    type: list
    elements: str
    required: true
  state:
    description:
      - With V(prepared), a new value of each password is generated, unless one is prepared.
      - With V(current), the prepared values replace the current ones. Passwords without a prepared value stay.
    type: str
    choices: [prepared, current]
    required: true
"""

EXAMPLES = r"""
- name: Generate a new password
  fleet.celery.celery_secrets:
    directory: ~/.local/share/celery-fleet/shop
    names: [rabbitmq_application]
    state: prepared
  delegate_to: localhost
"""

RETURN = r"""
names:
  description: The passwords that changed.
  type: list
  elements: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._secrets import prepare, promote


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True, "no_log": False},
            "names": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["prepared", "current"], "required": True},
        },
        supports_check_mode=True,
    )
    directory, prepared = Path(module.params["directory"]), module.params["state"] == "prepared"
    names = module.params["names"]
    if module.check_mode:
        changed = [name for name in names if (directory / f"{name}.next").exists() != prepared]
    else:
        changed = [name for name in names if (prepare if prepared else promote)(directory, name)]
    module.exit_json(changed=bool(changed), names=changed)


if __name__ == "__main__":
    main()
