"""A drain of hosts: their workers finish their tasks, and stay stopped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.fleet.celery.plugins.plugin_utils._fleet import (
    SLICE_SECONDS,
    Fleet,
    ProgressReports,
    failure_of,
)

DRAIN = "fleet.celery.celery_drain"


def slots_of(workers: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the slots of the plan's programs."""
    return [slot["name"] for worker in workers for slot in worker["slots"]]


class Drain:
    """A drain.

    Attributes:
        interrupted: for each host, the programs that did not finish before the deadline.
        failures: for each host on which the drain failed, why.
    """

    def __init__(
        self,
        app: Mapping[str, Any],
        programs: Mapping[str, Sequence[Mapping[str, Any]]],
        deadline: int,
        fleet: Fleet,
    ) -> None:
        """Prepare the drain.

        Args:
            app: the plan's app.
            programs: for each host, the plan's programs.
            deadline: seconds after which tasks are interrupted; 0: never.
        """
        self._arguments = {
            host: {
                "app_name": app["name"],
                "root": app["root"],
                "state_dir": app["state_dir"],
                "programs": slots_of(workers),
                "without_cold_shutdown": slots_of(each for each in workers if not each["cold_shutdown"]),
                "deadline": deadline,
                "seconds": SLICE_SECONDS,
            }
            for host, workers in programs.items()
        }
        self._fleet = fleet
        self.interrupted: dict[str, list[str]] = {}
        self.failures: dict[str, str] = {}

    def run(self) -> None:
        """Drain the hosts. One that fails does not end the drain of the others, which have a deadline to keep."""
        reports = ProgressReports(self._fleet)
        waiting = dict(self._arguments)
        while waiting:
            results = self._fleet.run(DRAIN, waiting)
            for host, result in results.items():
                if failure := failure_of(result):
                    self.failures[host] = failure
                else:
                    interrupted = {*self.interrupted.get(host, ()), *result["broken_off"]}
                    self.interrupted[host] = sorted(interrupted)
            waiting = {
                host: arguments
                for host, arguments in waiting.items()
                if host not in self.failures and not results[host]["done"]
            }
            reports.show([f"{host}: {text}" for host, result in results.items() for text in result.get("waits", [])])
