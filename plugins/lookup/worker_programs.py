# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Return the Supervisor programs of a host's workers."""

from __future__ import annotations

DOCUMENTATION = r"""
name: worker_programs
short_description: Return the Supervisor programs of a host's workers, one for each slot
description: A worker with C(activation) C(handover) has two slots, each a Supervisor program.
author: Celery Fleet (@celery-fleet)
options:
  _terms:
    description: The workers, C(programs) of the plan's host.
    required: true
  app:
    description: The plan's C(app).
    type: dict
    required: true
  template:
    description: Template of a program's configuration file, with the variables C(program) and C(app).
    type: str
    required: true
  only_handover:
    description: Whether to leave C(config) empty for workers with one slot.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Set the programs
  ansible.builtin.set_fact:
    programs: "{{ query('fleet.celery.worker_programs', celery_plan.hosts.worker1.programs, app=celery_plan.app,
                        template='program.conf.j2') }}"
"""

RETURN = r"""
_raw:
  description: Each program, as in O(fleet.celery.celery_activate#module:programs).
  type: list
  elements: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase
from ansible_collections.fleet.celery.plugins.module_utils._worker_programs import worker_programs


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible has no types
    """The lookup."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - as Ansible calls it
        self.set_options(var_options=variables, direct=kwargs)
        renderer = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)

        def render(program: Mapping[str, Any]) -> str:
            template_vars = {"program": program, "app": self.get_option("app")}
            (text,) = renderer.run([self.get_option("template")], variables, template_vars=template_vars)
            return str(text)

        return worker_programs(self._flatten(terms), render, only_handover=self.get_option("only_handover"))
