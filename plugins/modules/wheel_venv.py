#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Make a virtual environment of an artifact's wheels."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wheel_venv
short_description: Make a virtual environment of an artifact's wheels, without an index
description:
  - Makes C(<root>/<version>-<checksum>/venv) of a file that M(fleet.celery.celery_artifact) built.
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.unpacked]
options:
  python:
    description: The Python that the environment is made with.
    type: path
    default: /usr/bin/python3
"""

EXAMPLES = r"""
- name: Make Flower's environment
  fleet.celery.wheel_venv:
    root: /opt/flower
    version: 2.2.0
    artifact: /var/cache/flower.tar
    sha256: "{{ artifact.sha256 }}"
  register: environment
"""

RETURN = r"""
venv: {description: The virtual environment's directory., type: str, returned: success}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._release import Record
from ansible_collections.fleet.celery.plugins.module_utils._unpacked import OPTIONS, answer
from ansible_collections.fleet.celery.plugins.module_utils._venv import install, unpacked


def main() -> None:
    python = {"type": "path", "default": "/usr/bin/python3"}
    module = AnsibleModule(argument_spec={**OPTIONS, "python": python}, supports_check_mode=True)
    given = module.params

    def make(directory: Path) -> None:
        with unpacked(Path(given["artifact"]), given["sha256"], directory.parent) as (source, wheels):
            record = Record(given["version"], given["sha256"], wheels=wheels)
            install(module.run_command, given["python"], source, record, directory)

    answer(module, "venv", make)


if __name__ == "__main__":
    main()
