"""Make and replace the keys that sign messages, on the controller."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretError, open_store
from ansible_collections.fleet.celery.plugins.plugin_utils._signing_keys import SigningKeys, as_json

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "secrets_dir": {"type": "path", "required": True, "no_log": False},
    "senders": {"type": "dict", "required": True},
    "keep_seconds": {"type": "int", "required": True, "no_log": False},
    "state": {"type": "str", "choices": ["present", "prepared", "current", "ended", "forgotten"], "default": "present"},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Run on the controller."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the private keys, and those that receivers trust."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        store = open_store(options["secrets_dir"], self, task_vars or {}).below("signing")
        keys = SigningKeys(store, options["senders"], options["keep_seconds"])
        now, write = time.time(), not self._task.check_mode
        try:
            missing = any(not store.exists(f"{name}.key") for name in keys.senders)
            private = keys.private(write=write)
            retired = write and keys.retire(now)
            taken = write and _take(keys, options["state"], now)
            changed = missing or retired or taken
            if taken:
                private = keys.private(write=True)
            trusted = as_json(keys.trusted(private, now))
        except SecretError as error:
            return {"failed": True, "msg": str(error)}
        except (OSError, ValueError) as error:
            return {"failed": True, "msg": f"The signing keys in {store.directory} can't be used: {error}"}
        return {"changed": changed, "private": private, "trusted": trusted}


def _take(keys: SigningKeys, state: str, now: float) -> bool:
    steps = {
        "present": lambda: False,
        "prepared": keys.prepare,
        "current": keys.promote,
        "ended": lambda: keys.end(now),
        "forgotten": keys.forget,
    }
    return steps[state]()
