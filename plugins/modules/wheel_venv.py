#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Create a virtual environment from the wheels of an artifact."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wheel_venv
short_description: Create a virtual environment from the wheels of an artifact, without an index
description:
  - Creates C(<root>/<version>-<checksum>/venv) from an artifact of M(fleet.celery.celery_artifact).
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.unpacked]
options:
  python:
    description: Python interpreter of the virtual environment.
    type: path
    default: /usr/bin/python3
"""

EXAMPLES = r"""
- name: Create Flower's virtual environment
  fleet.celery.wheel_venv:
    root: /opt/flower
    version: 2.2.0
    artifact: /var/cache/flower.tar
    sha256: "{{ artifact.sha256 }}"
  register: environment
"""

RETURN = r"""
venv:
  description: Path of the virtual environment.
  type: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._release import Record
from ansible_collections.fleet.celery.plugins.module_utils._unpacked import OPTIONS, run_module
from ansible_collections.fleet.celery.plugins.module_utils._venv import install, unpacked


def main() -> None:
    python = {"type": "path", "default": "/usr/bin/python3"}
    module = AnsibleModule(argument_spec={**OPTIONS, "python": python}, supports_check_mode=True)
    params = module.params

    def make(directory: Path) -> None:
        with unpacked(Path(params["artifact"]), params["sha256"], directory.parent) as (source, wheels):
            record = Record(params["version"], params["sha256"], wheels=wheels)
            install(module.run_command, params["python"], source, record, directory)

    run_module(module, "venv", make)


if __name__ == "__main__":
    main()
