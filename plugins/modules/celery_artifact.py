#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Build an application's artifact on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_artifact
short_description: Build an application and its dependencies into one file, once, on the controller
description:
  - Builds the wheel of a source, fetches the wheels of its dependencies for the Python of the hosts, and packs them
    into one file. Hosts that install it need no index and no compiler.
  - A dependency that has no wheel is built if the controller's Python and machine are the hosts', and what comes of it
    runs on any machine. Otherwise it is refused; a wheelhouse is the way out.
  - An artifact whose source, requirements and Python are the same is not built again. Files that a requirements file
    includes count too, and so does what links in the source lead to.
  - An artifact that was built before, here or elsewhere, is checked and returned as it is. It is for one Python and, if
    it holds compiled code, for one machine.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode:
    support: full
    description: Artifacts are a cache. A check run builds them too, so that the hosts' part can be checked.
  diff_mode: {support: none, description: An artifact is not a text.}
options:
  source:
    description: A directory with a C(pyproject.toml), an sdist, a wheel, or an artifact (C(.tar)).
    type: path
  url:
    description:
      - An http, https or file URL of an sdist, a wheel or an artifact, in the place of O(source). Its path has to end
        in the file's name.
      - It is fetched with the environment's proxies and certificates, and with user and password from the URL or from
        C(~/.netrc). It is kept in O(directory).
      - It may hold a password, so it is never shown.
    type: str
  sha256:
    description:
      - What the file of O(source) or O(url) must have. If it has another, it is refused and not kept.
      - A URL whose sum is given is fetched once. Without it, it is fetched each time.
    type: str
    default: ""
  wheelhouse:
    description: A directory of ready wheels. Nothing is fetched then.
    type: path
  requirements:
    description:
      - A requirements file, with hashes if it has them.
      - C(requirements.lock) or C(requirements.txt) in a source directory if not given.
    type: path
  directory:
    description: Where artifacts are kept on the controller.
    type: path
    required: true
  python:
    description: The hosts' Python, such as C(3.11.2).
    type: str
    required: true
  machine:
    description: The hosts' machine.
    type: str
    default: x86_64
"""

EXAMPLES = r"""
- name: Build the shop
  fleet.celery.celery_artifact:
    source: example
    directory: ~/.cache/celery-fleet/artifacts
    python: 3.11.2
  delegate_to: localhost
  register: artifact

- name: Take what was built elsewhere
  fleet.celery.celery_artifact:
    url: https://ci.example.com/shop/shop-1.4.0-py311.tar
    sha256: 6a3c1e0b4d0f6c6f8c1a6ad8f5ab3d4f0b9a7b9bb1a86fbbd5a8b9c4f8e2d713
    directory: ~/.cache/celery-fleet/artifacts
    python: 3.11.2
  delegate_to: localhost
  register: artifact
"""

RETURN = r"""
path: {description: The artifact's file., type: str, returned: success}
sha256: {description: Its checksum., type: str, returned: success}
name: {description: The distribution's name., type: str, returned: success}
version: {description: The distribution's version., type: str, returned: success}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._artifact import (
    build,
    find_requirements,
    manifest_of,
    ready_artifact,
)
from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError, file_sha256
from ansible_collections.fleet.celery.plugins.module_utils._source import obtain


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path"},
            "url": {"type": "str", "no_log": True},
            "sha256": {"type": "str", "default": ""},
            "wheelhouse": {"type": "path"},
            "requirements": {"type": "path"},
            "directory": {"type": "path", "required": True},
            "python": {"type": "str", "required": True},
            "machine": {"type": "str", "default": "x86_64"},
        },
        mutually_exclusive=[("source", "url")],
        required_one_of=[("source", "url", "wheelhouse", "requirements")],
        supports_check_mode=True,
    )
    given = {
        name: Path(module.params[name]) if module.params[name] else None
        for name in ("source", "wheelhouse", "requirements")
    }
    directory = Path(module.params["directory"])
    try:
        source, new = obtain(given["source"], module.params["url"], module.params["sha256"], directory / "fetched")
        what = (source, given["wheelhouse"], given["requirements"] or find_requirements(source))
        hosts = {"python": module.params["python"], "machine": module.params["machine"]}
        ready = ready_artifact(*what, **hosts)
        artifact, built = (ready, False) if ready else build(*what, directory=directory, **hosts)
        manifest = manifest_of(artifact)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=built or new,
        path=str(artifact.absolute()),
        sha256=file_sha256(artifact),
        name=manifest["name"],
        version=manifest["version"],
    )


if __name__ == "__main__":
    main()
