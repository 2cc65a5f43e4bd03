"""The hosts of the inventory as a fleet, from within an action plugin."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.fleet.celery.plugins.plugin_utils._module_runner import ModuleRunner


class AnsibleFleet:
    """The fleet."""

    def __init__(self, action: ActionBase, variables: Mapping[str, Any]) -> None:
        self._runner = ModuleRunner(action, int(variables["ansible_forks"]))
        self._changed = False
        self._diff: list[dict[str, Any]] = []

    def run(self, module: str, arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Run a module on hosts at the same time, and return the result of each host."""
        results = self._runner.run(module, arguments)
        for name, result in results.items():
            self._changed = self._changed or bool(result.get("changed"))
            for diff in result.get("diff") or []:
                headers = {key: f"{name}: {diff[key]}" for key in ("before_header", "after_header") if key in diff}
                self._diff.append({**diff, **headers})
        return results

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""
        return time.time()

    def report(self, lines: Iterable[str]) -> None:
        """Show lines to the user at once."""
        for line in lines:
            Display().display(line)

    def write_page(self, directory: str, name: str, content: str) -> str:
        """Write a page to a file that only its user can read, and return its path, or why it could not be written."""
        path = Path(directory).expanduser() / name
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            return f"The report could not be written: {error}"
        return str(path)

    def result(self) -> dict[str, Any]:
        """Return what all modules changed, as the result of the action."""
        result: dict[str, Any] = {"changed": self._changed, "diff": self._diff}
        return result | ({"warnings": list(self._runner.warnings.values())} if self._runner.warnings else {})
