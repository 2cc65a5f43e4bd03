"""Record the wall seconds of a playbook's tasks by kind of work, each as a line of JSON, in the file $FLEET_SPENT.

ANSIBLE_CALLBACK_PLUGINS=lab/callback_plugins ANSIBLE_CALLBACKS_ENABLED=spent FLEET_SPENT=FILE ansible-playbook …
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: spent
type: aggregate
short_description: Record the wall seconds of a playbook's tasks by kind of work
description: A task lasts until the next one begins. The time before the first task is "Ansible starts".
requirements: [to be enabled, and the name of a file in FLEET_SPENT]
"""

#: Kinds by the last part of an action's name. The costs of all others are those of Ansible and of starting Python.
KINDS = {
    "apt": "Debian packages",
    "celery_artifact": "Python packages",
    "celery_release": "Python packages",
    "wheel_venv": "Python packages",
    "npm_artifact": "npm packages",
    "npm_packages": "npm packages",
    "celery_activate": "workers start and end",
    "celery_rollout": "workers start and end",
    "celery_drain_hosts": "workers start and end",
    "supervisor_programs": "workers start and end",
    "celery_status_info": "tasks are awaited and counted",
    "rabbitmq_definitions": "broker",
    "redis_users": "broker",
    "systemd_service": "services start and stop",
    "wait_for_connection": "hosts boot",
    "podman_container": "hosts boot",
}
OTHERS = "Ansible's small tasks"


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Adds up the seconds of each kind, and writes them at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "spent"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._spent: dict[str, float] = defaultdict(float)
        self._kind = "Ansible starts"
        self._since = time.monotonic()

    def _next(self, kind: str) -> None:
        now = time.monotonic()
        self._spent[self._kind] += now - self._since
        self._kind, self._since = kind, now

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ANN401, ARG002
        self._next(KINDS.get(str(task.action).rpartition(".")[2], OTHERS))

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:  # noqa: ANN401
        self.v2_playbook_on_task_start(task, is_conditional=False)

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ANN401, ARG002
        self._next(OTHERS)
        lines = [json.dumps({"kind": kind, "seconds": round(seconds, 3)}) for kind, seconds in self._spent.items()]
        if path := os.environ.get("FLEET_SPENT"):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
