"""The hosts of a fleet, as a rollout or a drain acts on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ansible_collections.fleet.celery.plugins.module_utils._rollout import UNREACHABLE

# Seconds between two polls of hosts that are not done.
SLICE_SECONDS = 15
# The longest time between two reports of progress, in seconds.
REPORT_SECONDS = 300

Result = Mapping[str, Any]


class Fleet(Protocol):
    """The hosts, and the machine that controls them."""

    def run(self, module: str, arguments: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Result]:
        """Run a module on hosts at the same time, and return the result of each host.

        Args:
            arguments: of each host that runs the module.
        """

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""

    def report(self, lines: Iterable[str]) -> None:
        """Show lines to the user."""

    def write_page(self, directory: str, name: str, content: str) -> str:
        """Write a page to a file, and return its path."""


def failure_of(result: Result) -> str:
    """Return why a module failed on a host; empty if it succeeded."""
    if result.get("unreachable"):
        return UNREACHABLE
    return str(result.get("msg") or "the module failed") if result.get("failed") else ""


class ProgressReports:
    """Reports what is waited for: the longer the wait, the less often."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._began = self._reported = fleet.now()

    def show(self, lines: Sequence[str]) -> None:
        """Show lines, unless others were shown a short time ago."""
        now = self._fleet.now()
        if lines and now - self._reported >= min((now - self._began) / 20, REPORT_SECONDS):
            self._fleet.report(lines)
            self._reported = now
