# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Acquire or release the rollout lock."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.module_utils._controller import this_run
from ansible_collections.fleet.celery.plugins.plugin_utils._ansible_fleet import AnsibleFleet
from ansible_collections.fleet.celery.plugins.plugin_utils._rollout_lock import Lock, acquire, release

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "path": {"type": "path", "required": True},
    "run": {"type": "str", "required": True},
    "held": {"type": "bool", "default": True},
    "take_over": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Hold the lock on most of its hosts, or on none."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module celery_lock on the hosts."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        controller = asdict(this_run())
        controller["processes"] = list(controller["processes"])
        lock = Lock(tuple(options["hosts"]), options["path"], options["run"], controller)
        fleet = AnsibleFleet(self, task_vars or {})
        if not options["held"]:
            found = release(lock, fleet)
        elif not (found := acquire(lock, fleet, take_over=options["take_over"])).held:
            release(lock, fleet)
        failure = {} if found.held else {"failed": True, "msg": "; ".join(found.failures)}
        return {**fleet.result(), "changed": False, "message": " ".join(found.messages + found.failures), **failure}
