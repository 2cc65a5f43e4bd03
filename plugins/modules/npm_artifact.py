#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Build an artifact of a Node.js program's packages on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: npm_artifact
short_description: Build an artifact of a Node.js program's packages on the controller
description:
  - Runs C(npm ci) on a lock file, and packs the installed packages into one file. Hosts need neither npm nor access to
    a registry.
  - The registry is that of the user's npm configuration. npm verifies each package against the lock file's SHA-512.
  - Install scripts are never run. Optional packages are left out.
  - An artifact of the same lock file is built once.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode:
    support: full
    description: Artifacts are a cache, so check mode builds them too. Otherwise the hosts' tasks could not be checked.
  diff_mode: {support: none, description: An artifact is a binary file.}
options:
  source:
    description: Directory that holds C(package.json) and C(package-lock.json).
    type: path
    required: true
  directory:
    description: The artifact cache, a directory on the controller.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Build the artifact of the Redis UI
  fleet.celery.npm_artifact:
    source: roles/redis_ui/files
    directory: ~/.cache/celery-fleet/artifacts
  delegate_to: localhost
  register: artifact
"""

RETURN = r"""
path:
  description: Path of the artifact.
  type: str
  returned: success
sha256:
  description: SHA-256 checksum of the artifact.
  type: str
  returned: success
version:
  description: The program's version in the lock file.
  type: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._npm import build
from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError, file_sha256


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "directory": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        artifact, version, built = build(Path(module.params["source"]), Path(module.params["directory"]))
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=built, path=str(artifact), sha256=file_sha256(artifact), version=version)


if __name__ == "__main__":
    main()
