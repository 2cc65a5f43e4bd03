"""Check the certificates of a fleet on the controller, before any host is changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.plugin_utils._host_certificate import fleet_problems
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import open_store

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "hosts": {"type": "dict", "required": True},
    "secrets_dir": {"type": "path", "required": True},
    "days": {"type": "int", "default": 90},
    "strict": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Run the check on the controller."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with all problems."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        problems = fleet_problems(
            options["hosts"],
            open_store(options["secrets_dir"], self, task_vars or {}),
            options["days"],
            datetime.now(UTC),
            strict=options["strict"],
        )
        if problems:
            return {"failed": True, "msg": "\n".join(map(str, problems))}
        return {"changed": False}
