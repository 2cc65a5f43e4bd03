#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Fetch a Node.js program's packages on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: npm_artifact
short_description: Fetch the packages of a Node.js program into one file, once, on the controller
description:
  - Runs C(npm ci) on a lock and packs what it installs into one file. Hosts that unpack it need no npm and no registry.
  - npm's own configuration says which registry is asked. Each package is checked against the lock's SHA-512.
  - Install scripts of packages never run, and optional packages are left out.
  - An artifact of the same lock is not built again.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode:
    support: full
    description: Artifacts are a cache. A check run builds them too, so that the hosts' part can be checked.
  diff_mode: {support: none, description: An artifact is not a text.}
options:
  source:
    description: A directory with C(package.json) and C(package-lock.json).
    type: path
    required: true
  directory:
    description: Where artifacts are kept on the controller.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Fetch the Redis UI's packages
  fleet.celery.npm_artifact:
    source: roles/redis_ui/files
    directory: ~/.cache/celery-fleet/artifacts
  delegate_to: localhost
  register: artifact
"""

RETURN = r"""
path: {description: The artifact's file., type: str, returned: success}
sha256: {description: Its checksum., type: str, returned: success}
version: {description: The version that the lock is for., type: str, returned: success}
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
