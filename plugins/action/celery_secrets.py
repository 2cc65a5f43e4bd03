"""Check, encrypt or replace the secrets on the controller. No other process gets the vault password of the run."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import (
    NEXT,
    SecretError,
    SecretStore,
    open_store,
    prepare,
    promote,
)

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "directory": {"type": "path", "required": True, "no_log": False},
    "names": {"type": "list", "elements": "str", "default": []},
    "state": {"type": "str", "choices": ["checked", "encrypted", "prepared", "current"], "required": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Run on the controller."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the names of the secrets that changed."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        store = open_store(options["directory"], self, task_vars or {})
        try:
            if options["state"] == "checked":
                problems = store.problems()
                if problems:
                    return {"failed": True, "msg": "\n".join(["No host was touched.", *map(str, problems)])}
                return {"changed": False, "names": []}
            take = _preview if self._task.check_mode else _take
            names = take(store, options["state"], options["names"])
        except SecretError as error:
            return {"failed": True, "msg": str(error)}
        except OSError as error:
            return {"failed": True, "msg": f"The secrets in {store.directory} can't be read or written: {error}"}
        return {"changed": bool(names), "names": names}


def _preview(store: SecretStore, state: str, names: list[str]) -> list[str]:
    if state == "encrypted":
        return store.plain_names()
    return [name for name in names if store.exists(name + NEXT) == (state == "current")]


def _take(store: SecretStore, state: str, names: list[str]) -> list[str]:
    if state == "encrypted":
        return [name for name in store.names() if store.encrypt(name)]
    return [name for name in names if (prepare if state == "prepared" else promote)(store, name)]
