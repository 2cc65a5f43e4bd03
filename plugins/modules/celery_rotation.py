#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Record which passwords of a fleet are being rotated."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_rotation
short_description: Record which passwords of a fleet are being rotated
description:
  - Records on the broker's host which passwords are being rotated, and which of two users of RabbitMQ has each.
  - The plan reads the record as a fact of the host.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Returns whether the record would change.}
  diff_mode: {support: none, description: The result has the record.}
options:
  app_name:
    description: The application's name.
    type: str
    required: true
  names:
    description: Names of passwords.
    type: list
    elements: str
    required: true
  state:
    description:
      - With V(begun), the earlier values of the passwords stay valid. A rotation that was begun before continues.
      - With V(ended), the earlier values are no longer valid.
    type: str
    choices: [begun, ended]
    required: true
"""

EXAMPLES = r"""
- name: Begin a rotation
  fleet.celery.celery_rotation:
    app_name: shop
    names: [rabbitmq_application]
    state: begun
"""

RETURN = r"""
rotation:
  description: The passwords that are being rotated, and those that the second of two users has.
  type: dict
  returned: success
  sample: {rotating: [rabbitmq_application], second: [rabbitmq_application]}
"""

import json
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._config_files import make_parents
from ansible_collections.fleet.celery.plugins.module_utils._files import write_file
from ansible_collections.fleet.celery.plugins.module_utils._rotation import FACTS, State, read_state


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app_name": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["begun", "ended"], "required": True},
        },
        supports_check_mode=True,
    )
    path = Path(FACTS) / f"{module.params['app_name']}.fact"
    old = read_state(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else State()
    new = (old.begin if module.params["state"] == "begun" else old.end)(module.params["names"])
    if new != old and not module.check_mode:
        make_parents(path)
        write_file(path, json.dumps(asdict(new)) + "\n", 0o644, "root")
    module.exit_json(changed=new != old, rotation=asdict(new))


if __name__ == "__main__":
    main()
