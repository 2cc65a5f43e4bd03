#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Unpack the packages of a Node.js program."""

from __future__ import annotations

DOCUMENTATION = r"""
module: npm_packages
short_description: Unpack the packages of a Node.js program, without npm
description:
  - Creates C(<root>/<version>-<checksum>/node_modules) from an artifact of M(fleet.celery.npm_artifact).
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.unpacked]
"""

EXAMPLES = r"""
- name: Unpack the packages of the Redis UI
  fleet.celery.npm_packages:
    root: /opt/redis-ui
    version: "{{ artifact.version }}"
    artifact: /var/cache/redis-ui.tar
    sha256: "{{ artifact.sha256 }}"
  register: packages
"""

RETURN = r"""
node_modules:
  description: Path of C(node_modules).
  type: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._npm import install
from ansible_collections.fleet.celery.plugins.module_utils._release import Record
from ansible_collections.fleet.celery.plugins.module_utils._unpacked import OPTIONS, run_module


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    params = module.params

    def make(directory: Path) -> None:
        install(Path(params["artifact"]), Record(params["version"], params["sha256"]), directory)

    run_module(module, "node_modules", make)


if __name__ == "__main__":
    main()
