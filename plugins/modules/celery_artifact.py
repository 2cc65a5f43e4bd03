#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Build an application's artifact on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_artifact
short_description: Build an application and its dependencies into one file, once, on the controller
description:
  - Builds the wheel of a source, resolves its dependencies for the Python and machine of the hosts by uv, fetches
    their wheels, and packs all of them into one file. Hosts that install it need no index and no compiler.
  - A directory without a build (neither C(setup.py) nor a C(pyproject.toml) of a package) is packed as it is, without
    what git ignores. Its C(requirements.txt) says what it needs.
  - A dependency that has no wheel is built if what comes of it runs on any machine. Otherwise it is refused; a
    directory of wheels that were built on such a host is the way out.
  - pip's own configuration says where packages come from, unless O(index_url) does.
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
    description:
      - A directory with a C(pyproject.toml), a C(setup.py) or only a C(requirements.txt); an sdist, a wheel, or an
        artifact (C(.tar)).
      - Or the name and version of a distribution of the index, such as C(pretix==2026.7.2).
    type: path
  url:
    description:
      - An http, https or file URL of an sdist, a wheel or an artifact, in place of O(source). Its path has to end in
        the file's name.
      - Or a git URL as pip takes it, such as C(git+https://git.example.com/shop.git@v1.4#subdirectory=web).
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
    description:
      - A directory of wheels that is used in place of an index. Without O(requirements), all that is in it is taken, of
        each distribution the newest version.
    type: path
  requirements:
    description:
      - A requirements file. If it has hashes, it must be complete, and only files with these hashes are taken.
      - C(requirements.lock) or C(requirements.txt) in a source directory if not given.
    type: path
  index_url:
    description:
      - Of a package index in place of pip's own. It may hold user and password, so it is never shown.
    type: str
    default: ""
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
    Inputs,
    build,
    find_requirements,
    manifest_of,
    ready_artifact,
)
from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError, file_sha256
from ansible_collections.fleet.celery.plugins.module_utils._source import is_package, obtain


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path"},
            "url": {"type": "str", "no_log": True},
            "sha256": {"type": "str", "default": ""},
            "wheelhouse": {"type": "path"},
            "requirements": {"type": "path"},
            "index_url": {"type": "str", "no_log": True, "default": ""},
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
    package = ""
    if given["source"] and is_package(str(given["source"])) and not given["source"].exists():
        package, given["source"] = str(given["source"]), None
    index = module.params["index_url"]
    try:
        source, new = obtain(given["source"], module.params["url"], module.params["sha256"], directory / "fetched")
        inputs = Inputs(
            source,
            package,
            given["wheelhouse"],
            given["requirements"] or find_requirements(source),
            {"UV_DEFAULT_INDEX": index, "PIP_INDEX_URL": index} if index else {},
        )
        hosts = {"python": module.params["python"], "machine": module.params["machine"]}
        ready = ready_artifact(inputs, **hosts)
        artifact, built = (ready, False) if ready else build(inputs, directory=directory, **hosts)
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
