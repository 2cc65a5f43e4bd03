"""Drain hosts until their workers have stopped."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.plugin_utils._ansible_fleet import AnsibleFleet
from ansible_collections.fleet.celery.plugins.plugin_utils._drain import Drain

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "app": {"type": "dict", "required": True},
    "hosts": {"type": "list", "elements": "str", "required": True},
    "plan": {"type": "dict", "required": True},
    "deadline": {"type": "int", "default": 0},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Run the drain on the controller."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the drain, and fail with the hosts that could not be drained."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        fleet = AnsibleFleet(self, task_vars or {})
        programs = {host: options["plan"][host]["programs"] for host in options["hosts"]}
        drain = Drain(options["app"], programs, options["deadline"], fleet)
        drain.run()
        result = {**fleet.result(), "interrupted": drain.interrupted}
        if drain.failures:
            lines = [f"  {host}: {failure}" for host, failure in drain.failures.items()]
            result |= {"failed": True, "msg": "\n".join(["These hosts could not be drained:", *lines])}
        return result
