#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Build the artifact of an application on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_artifact
short_description: Build an artifact of an application and its dependencies, on the controller
description:
  - Builds the application's wheel, resolves its dependencies for the hosts' Python and machine with uv, downloads their
    wheels, and packs all wheels into one file. Hosts need neither an index nor a compiler.
  - A directory without a build, which has neither a C(setup.py) nor a package's C(pyproject.toml), is packed unchanged,
    without files that git ignores. A C(pyproject.toml) is a package's if it has a build system or entry points.
  - A dependency without a wheel is built. If it contains compiled code, it is refused unless this machine is of the
    same type as the hosts, with the same Python and a glibc that is no newer. Build its wheel on a host then.
  - The package index is that of pip's configuration, or O(index_url).
  - An artifact of the same source, requirements and Python is built once. Included requirements files and the targets
    of links in the source belong to it.
  - An artifact that was built elsewhere is verified and returned unchanged. It is for one version of Python and, with
    compiled code, for one machine.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode:
    support: full
    description: Artifacts are a cache, so check mode builds them too. Otherwise the hosts' tasks could not be checked.
  diff_mode: {support: none, description: An artifact is a binary file.}
options:
  source:
    description:
      - A directory with a C(pyproject.toml), a C(setup.py) or only a C(requirements.txt), an sdist, a wheel, or an
        artifact (C(.tar)).
      - Or the name and the version of a distribution in the index, e.g. C(pretix==2026.7.2).
    type: path
  url:
    description:
      - URL (http, https or file) of an sdist, a wheel or an artifact, in place of O(source). Its path must end with the
        file's name.
      - Or a git URL as pip takes it, e.g. C(git+https://git.example.com/shop.git@v1.4#subdirectory=web).
      - It is downloaded with the environment's proxies and certificates, and with the user and password of the URL or
        of C(~/.netrc). The file is stored in O(directory).
      - It may contain a password, so it is never logged.
    type: str
  sha256:
    description:
      - SHA-256 checksum of the file of O(source) or O(url). A file with another checksum is refused and removed.
      - With it, a URL is downloaded once. Without it, it is downloaded each time.
    type: str
    default: ""
  wheelhouse:
    description:
      - A directory of wheels, in place of an index. Without O(requirements), the newest version of each distribution
        in it is used.
    type: path
  requirements:
    description:
      - A requirements file. If it has hashes, it must be complete, and only files with these hashes are used.
      - The default is the first of C(requirements.lock), C(requirements.txt) and C(uv.lock) of a source directory, or
        the dependencies in the C(pyproject.toml) of a directory without a build.
    type: path
  index_url:
    description:
      - URL of the package index, in place of pip's own. It may contain a password, so it is never logged.
    type: str
    default: ""
  packages:
    description:
      - Debian packages that the hosts get for the application. The module reports the shared libraries that compiled
        dependencies need besides these packages.
    type: list
    elements: str
    default: []
  directory:
    description: The artifact cache, a directory on the controller.
    type: path
    required: true
  python:
    description: Version of the hosts' Python, e.g. C(3.11.2).
    type: str
    required: true
  machine:
    description: Machine type of the hosts, as C(uname -m) prints it.
    type: str
    default: x86_64
"""

EXAMPLES = r"""
- name: Build the artifact of the shop
  fleet.celery.celery_artifact:
    source: example
    directory: ~/.cache/celery-fleet/artifacts
    python: 3.11.2
  delegate_to: localhost
  register: artifact

- name: Download an artifact that CI has built
  fleet.celery.celery_artifact:
    url: https://ci.example.com/shop/shop-1.4.0-py311.tar
    sha256: 6a3c1e0b4d0f6c6f8c1a6ad8f5ab3d4f0b9a7b9bb1a86fbbd5a8b9c4f8e2d713
    directory: ~/.cache/celery-fleet/artifacts
    python: 3.11.2
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
name:
  description: Name of the distribution.
  type: str
  returned: success
version:
  description: Version of the distribution.
  type: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._artifact import (
    Inputs,
    build,
    find_requirements,
    manifest_of,
    ready_artifact,
    unread_locks,
)
from ansible_collections.fleet.celery.plugins.module_utils._libraries import library_report
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
            "packages": {"type": "list", "elements": "str", "default": []},
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
        requirements = given["requirements"] or find_requirements(source, directory / "locks")
        for name in unread_locks(source, requirements):
            module.warn(
                f"{name} in {source} does not decide the versions of dependencies. Export it to requirements.lock"
            )
        inputs = Inputs(
            source,
            package,
            given["wheelhouse"],
            requirements,
            {"UV_DEFAULT_INDEX": index, "PIP_INDEX_URL": index} if index else {},
        )
        hosts = {"python": module.params["python"], "machine": module.params["machine"]}
        ready = ready_artifact(inputs, **hosts)
        artifact, built = (ready, False) if ready else build(inputs, directory=directory, **hosts)
        manifest = manifest_of(artifact)
        if lacking := library_report(manifest.get("libraries", "").split(), module.params["packages"]):
            module.warn(lacking)
        if missing := manifest.get("left_out", "").split():
            module.warn(
                f"The wheel of {manifest['name']} lacks {len(missing)} data files of its packages, such as "
                f"{missing[0]}. If the application reads them, add them to the package data of its build"
            )
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
