# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Return the user, the machine and the process of this run of Ansible."""

from __future__ import annotations

DOCUMENTATION = r"""
name: controller
short_description: Return the user, the machine and the process of this run of Ansible
description:
  - Identifies this run, and lists the processes of all runs of Ansible on the controller.
  - M(fleet.celery.celery_lock) takes the lock from a run whose process has ended.
author: Celery Fleet (@celery-fleet)
options: {}
"""

EXAMPLES = r"""
- name: Show the run
  ansible.builtin.debug:
    msg: "{{ lookup('fleet.celery.controller') }}"
"""

RETURN = r"""
_raw:
  description: One mapping of C(user), C(machine), C(process) and C(processes).
  type: list
  elements: dict
"""

from dataclasses import asdict
from typing import Any

from ansible.plugins.lookup import LookupBase
from ansible_collections.fleet.celery.plugins.module_utils._controller import this_run


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible has no types
    """The lookup."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:  # noqa: ANN401, ARG002 - as Ansible calls it
        run = asdict(this_run())
        return [run | {"processes": list(run["processes"])}]
