#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Unpack a Node.js program's packages."""

from __future__ import annotations

DOCUMENTATION = r"""
module: npm_packages
short_description: Unpack the packages of a Node.js program, without npm
description:
  - Makes C(<root>/<version>-<checksum>/node_modules) of a file that M(fleet.celery.npm_artifact) built.
  - Another content of the same version gets a directory of its own, so what runs on the old one is not disturbed. The
    one before is kept, older ones are removed.
  - Restarts nothing.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: It says what it would make.}
  diff_mode: {support: full, description: It names the directory that is made.}
options:
  root:
    description: Directory that holds the directories of packages.
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
"""

EXAMPLES = r"""
- name: Unpack the Redis UI
  fleet.celery.npm_packages:
    root: /opt/redis-ui
    version: "{{ artifact.version }}"
    artifact: /var/cache/redis-ui.tar
    sha256: "{{ artifact.sha256 }}"
  register: packages
"""

RETURN = r"""
node_modules: {description: The directory of the packages., type: str, returned: success}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._npm import install
from ansible_collections.fleet.celery.plugins.module_utils._release import Record, ReleaseError, read_record
from ansible_collections.fleet.celery.plugins.module_utils._venv import directory_of, prune


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "artifact": {"type": "path", "required": True},
            "sha256": {"type": "str", "required": True},
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
            install(Path(given["artifact"]), Record(given["version"], given["sha256"]), directory)
        except ReleaseError as error:
            module.fail_json(msg=str(error))
        prune(root, directory)
    path = f"{directory}/node_modules"
    module.exit_json(changed=changed, node_modules=path, diff={"before": "", "after": f"{path}\n" if changed else ""})


if __name__ == "__main__":
    main()
