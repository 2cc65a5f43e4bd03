"""Replace the fleet's certificate authority, step by step."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.plugin_utils._authority import (
    begin_rollover,
    distrust_previous,
    finish_rollover,
    promote,
    rollover_phase,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._certificates import CertificateError
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretError, SecretStore, open_store

#: The phase in which each step has something to do.
PHASES = {"next_trusted": "", "next_signs": "trust", "next_alone": "issue", "finished": "distrust"}
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "secrets_dir": {"type": "path", "required": True},
    "state": {"type": "str", "required": True, "choices": list(PHASES)},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Run a step on the controller."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Change the files of the authority."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        store, state = open_store(options["secrets_dir"], self, task_vars or {}).below("ca"), options["state"]
        try:
            changed = rollover_phase(store.directory) == PHASES[state]
            if not self._task.check_mode:
                _take(store, state)
        except (CertificateError, SecretError, OSError, ValueError) as error:
            return {"failed": True, "msg": f"The certificate authority in {store.directory} can't be replaced: {error}"}
        return {"changed": changed}


def _take(store: SecretStore, state: str) -> None:
    if state == "next_trusted":
        begin_rollover(store, datetime.now(UTC))
        return
    {"next_signs": promote, "next_alone": distrust_previous, "finished": finish_rollover}[state](store)
