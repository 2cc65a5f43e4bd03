#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Import an application from its artifact on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_import_check
short_description: Import an application from its artifact on the controller
description:
  - Imports the application with the fleet's settings in a temporary virtual environment, and evaluates the report as
    M(fleet.celery.celery_release) does on each host. It runs on the controller, before any host is changed.
  - Fails if the application does not import on any machine, or does not fit the fleet's declaration.
  - Fails if the application names a variable that its environment does not set, because hosts do not set it either.
  - Does not fail for an error that the controller may cause, such as a missing file. RV(reason) reports it.
  - Caches successful imports, and does not repeat them with the same artifact, settings and environment.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: It changes only its own cache.}
  diff_mode: {support: none, description: It changes only its own cache.}
options:
  artifact:
    description: Path of the artifact.
    type: path
    required: true
  app:
    description: The application, as C(celery -A) takes it.
    type: str
    required: true
  python:
    description:
      - Python version of the hosts, such as C(3.11.2). Without a Python of the same minor version on the controller,
        nothing is imported.
    type: str
    required: true
  environment:
    description: Content of the environment file. Never logged.
    type: str
    required: true
  settings:
    description: Content of the settings module.
    type: str
    required: true
  runtime:
    description: Contents of the package that the application's processes import, by path.
    type: dict
    required: true
  app_memory:
    description: Bytes of a process that has imported the application, as planned. V(0) does not compare them.
    type: int
    default: 0
  child_caps:
    description: For each program, bytes above which its children are replaced. V(0) for a program without a cap.
    type: dict
    default: {}
  state_directory:
    description:
      - The application's directory on hosts. A temporary directory replaces it in O(environment), because an import may
        write there.
    type: str
    default: ""
  directory:
    description: Directory of artifacts, downloaded wheels and reports of earlier imports.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Import the shop on the controller
  fleet.celery.celery_import_check:
    artifact: "{{ artifact.path }}"
    app: shop.celery:app
    python: 3.11.2
    environment: "{{ environment_text }}"
    settings: "{{ settings_text }}"
    runtime: "{{ query('fleet.celery.runtime_files') | items2dict('path', 'content') }}"
    directory: ~/.cache/celery-fleet/artifacts
  delegate_to: localhost
"""

RETURN = r"""
imported: {description: Whether the application was imported., type: bool, returned: success}
reason: {description: "Why the application was not imported; empty if it was.", type: str, returned: success}
findings:
  description: Remarks of the release check that are no errors, such as settings that differ.
  type: list
  elements: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._environment import secrets_in
from ansible_collections.fleet.celery.plugins.module_utils._import_check import import_application
from ansible_collections.fleet.celery.plugins.module_utils._release import SETTINGS, ReleaseError
from ansible_collections.fleet.celery.plugins.module_utils._release_check import release_findings, release_problems


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "artifact": {"type": "path", "required": True},
            "app": {"type": "str", "required": True},
            "python": {"type": "str", "required": True},
            "environment": {"type": "str", "required": True, "no_log": True},
            "settings": {"type": "str", "required": True},
            "runtime": {"type": "dict", "required": True},
            "app_memory": {"type": "int", "default": 0},
            "child_caps": {"type": "dict", "default": {}},
            "state_directory": {"type": "str", "default": ""},
            "directory": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    # A traceback of the application may contain values of its environment.
    module.no_log_values |= secrets_in(module.params["environment"])
    app = module.params["app"]
    try:
        result = import_application(
            Path(module.params["artifact"]),
            app=app,
            python=module.params["python"],
            environment=module.params["environment"],
            modules={SETTINGS: module.params["settings"], **module.params["runtime"]},
            directory=Path(module.params["directory"]),
            state_directory=module.params["state_directory"],
        )
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    findings: list[str] = []
    if result.report:
        if problems := release_problems(result.report, app, module.params["child_caps"]):
            module.fail_json(msg="\n".join(problems))
        findings = release_findings(result.report, module.params["app_memory"])
    module.exit_json(changed=False, imported=bool(result.report), reason=result.reason, findings=findings)


if __name__ == "__main__":
    main()
