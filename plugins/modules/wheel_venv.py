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
  - Another content of the same version gets a directory of its own, so what runs on the old one is not disturbed. The
    one before is kept, older ones are removed.
  - Restarts nothing.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: It says what it would make.}
  diff_mode: {support: full, description: It names the directory that is made.}
options:
  root:
    description: Directory that holds the environments.
    type: path
    required: true
  version:
    description: Begins the directory's name.
    type: str
    required: true
  artifact:
    description: The artifact's file on the host.
    type: path
    required: true
  sha256:
    description: The artifact's checksum.
    type: str
    required: true
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
from ansible_collections.fleet.celery.plugins.module_utils._release import Record, ReleaseError, read_record
from ansible_collections.fleet.celery.plugins.module_utils._venv import directory_of, install, prune, unpacked


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "artifact": {"type": "path", "required": True},
            "sha256": {"type": "str", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        supports_check_mode=True,
    )
    given = module.params
    root = Path(given["root"])
    directory = directory_of(root, given["version"], given["sha256"])
    found = read_record(directory)
    changed = found is None or found.sha256 != given["sha256"]
    if changed and not module.check_mode:
        try:
            with unpacked(Path(given["artifact"]), given["sha256"], root) as (source, wheels):
                record = Record(given["version"], given["sha256"], wheels=wheels)
                install(module.run_command, given["python"], source, record, directory)
        except ReleaseError as error:
            module.fail_json(msg=str(error))
        prune(root, directory)
    diff = {"before": "", "after": f"{directory}/venv\n"} if changed else {"before": "", "after": ""}
    module.exit_json(changed=changed, venv=f"{directory}/venv", diff=diff)


if __name__ == "__main__":
    main()
