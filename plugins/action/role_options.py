"""Validate the options of a role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.module_utils._role_options import OPTION_CHECKS

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "role": {"type": "str", "required": True, "choices": sorted(OPTION_CHECKS)},
}


class RoleVariables(Mapping[str, Any]):
    """A role's variables, without its prefix. Each is rendered when it is read, as that may create a password."""

    def __init__(self, variables: Mapping[str, Any], role: str, templar: Any) -> None:  # noqa: ANN401 - Ansible's
        prefix = f"{role}_"
        self._variables = {
            name.removeprefix(prefix): value for name, value in variables.items() if name.startswith(prefix)
        }
        self._templar = templar

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - YAML gives anything
        return self._templar.template(self._variables[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Run the check of a role on the controller."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with all problems of the options."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        role = arguments["role"]
        variables = task_vars or {}
        options = RoleVariables(variables, role, self._templar)
        problems = OPTION_CHECKS[role](options, variables.get("ansible_facts", {}))
        if problems:
            return {"failed": True, "msg": "\n".join(map(str, problems))}
        return {"changed": False}
