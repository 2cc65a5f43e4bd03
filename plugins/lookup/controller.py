# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Tell which run of Ansible this is."""

from __future__ import annotations

DOCUMENTATION = r"""
name: controller
short_description: Tell which run of Ansible this is, and which others there are on the controller
description: So that a run that was killed can be told from one that is still at work.
author: Celery Fleet (@celery-fleet)
options: {}
"""

EXAMPLES = r"""
- name: Tell which run this is
  ansible.builtin.debug:
    msg: "{{ lookup('fleet.celery.controller') }}"
"""

RETURN = r"""
_raw: {description: "One entry: user, machine, process and processes.", type: list, elements: dict}
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
