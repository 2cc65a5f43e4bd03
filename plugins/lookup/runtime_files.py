# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Return files of the runtime package."""

from __future__ import annotations

DOCUMENTATION = r"""
name: runtime_files
short_description: Return files of the package that runs beside the application
description:
  - The package C(celery_fleet_runtime) contains what the application's processes import, and the services of a host
    with workers.
author: Celery Fleet (@celery-fleet)
options:
  _terms:
    description:
      - Files of the package, such as C(services/watchdog.py). Without any, those that the application's processes
        import.
  directory:
    description: Directory of the package on the host. Precedes the paths.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Install the watchdog
  fleet.celery.config_files:
    files: "{{ query('fleet.celery.runtime_files', 'services/watchdog.py', directory='/srv/shop/runtime') }}"
"""

RETURN = r"""
_raw:
  description: Files with C(path) and C(content).
  type: list
  elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

PACKAGE = Path(__file__).parents[1] / "module_utils" / "celery_fleet_runtime"


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible has no types
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:  # noqa: ANN401 - as Ansible calls it
        self.set_options(var_options=variables, direct=kwargs)
        directory = Path(self.get_option("directory"))
        names = terms or sorted(path.name for path in PACKAGE.glob("*.py"))
        return [
            {
                "path": str(directory / PACKAGE.name / name),
                "content": (PACKAGE / name).read_text(encoding="utf-8"),
            }
            for name in names
        ]
