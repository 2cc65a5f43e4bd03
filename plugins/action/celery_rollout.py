"""Activate a release in batches, check each batch, and roll back a failed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.module_utils._controller import this_run
from ansible_collections.fleet.celery.plugins.module_utils._judge import Margins
from ansible_collections.fleet.celery.plugins.plugin_utils._ansible_fleet import AnsibleFleet
from ansible_collections.fleet.celery.plugins.plugin_utils._rollout import Hooks, Order, Part, Rollout
from ansible_collections.fleet.celery.plugins.plugin_utils._rollout_lock import Lock

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "app": {"type": "dict", "required": True},
    "hosts": {"type": "dict", "required": True},
    "lock_hosts": {"type": "list", "elements": "str", "required": True},
    "lock_path": {"type": "path", "required": True},
    "run": {"type": "str", "required": True},
    "label": {"type": "str", "required": True},
    "report_dir": {"type": "path", "required": True},
    "queues": {"type": "list", "elements": "str", "default": []},
    "batches": {"type": "list", "elements": "raw", "default": ["1", "25%", "100%"]},
    "only": {"type": "list", "elements": "str", "default": []},
    "stop_by": {"type": "str", "choices": ["supervisor", "remote_control"], "default": "supervisor"},
    "start_timeout": {"type": "int", "default": 180},
    "keep_releases": {"type": "int", "default": 5},
    "observe_tasks": {"type": "int", "default": 20},
    "observe_seconds": {"type": "int", "default": 30},
    "margins": {"type": "dict", "default": {}},
    "auto_rollback": {"type": "bool", "default": True},
    "hooks": {
        "type": "dict",
        "default": {},
        "options": {
            name: {"type": "list", "elements": "dict", "default": []}
            for name in ("after_activate", "after_rollback", "after_success")
        },
    },
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Run the rollout on the controller."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the rollout, and fail with its verdict."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _, options = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        fleet = AnsibleFleet(self, variables)
        failure = Rollout(_order(options, check=bool(variables["ansible_check_mode"])), fleet).run()
        return fleet.result() | ({"failed": True, "msg": failure} if failure else {})


def _order(options: Mapping[str, Any], *, check: bool) -> Order:
    controller = asdict(this_run())
    hosts: Mapping[str, Mapping[str, Any]] = options["hosts"]
    parts = {
        name: Part(
            version=str(host["version"]),
            programs=host["programs"],
            restart_before=float(host.get("restart_before", 0)),
            staged=host.get("staged", {}),
        )
        for name, host in hosts.items()
    }
    return Order(
        label=options["label"],
        app=options["app"],
        lock=Lock(
            tuple(options["lock_hosts"]),
            options["lock_path"],
            options["run"],
            controller | {"processes": list(controller["processes"])},
        ),
        parts=parts,
        workers={name: host["workers"] for name, host in hosts.items()},
        report_dir=options["report_dir"],
        queues=options["queues"],
        sizes=options["batches"],
        only=options["only"],
        stop_by=options["stop_by"],
        start_timeout=options["start_timeout"],
        keep_releases=options["keep_releases"],
        observe_tasks=options["observe_tasks"],
        observe_seconds=options["observe_seconds"],
        margins=Margins(**{name: type(getattr(Margins, name))(value) for name, value in options["margins"].items()}),
        auto_rollback=options["auto_rollback"],
        hooks=Hooks(**options["hooks"]),
        check=check,
    )
