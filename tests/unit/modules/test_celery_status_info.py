"""How long the status module waits for tasks of a new release, on a clock of the test's own and with real counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import KINDS, CountsFile
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import Process
from ansible_collections.fleet.celery.plugins.modules import celery_status_info

DONE = KINDS.index("done")
STARTED = 1_800_000_000.0
SECONDS = 30


class Clock:
    """The time, which passes while the module sleeps."""

    def __init__(self) -> None:
        self.now = STARTED
        self.at: dict[float, Callable[[], None]] = {}

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(celery_status_info, "time", made)
    process = Process("shop-email", "RUNNING", 1, "", "", started=STARTED)
    monkeypatch.setattr(celery_status_info, "processes_of", lambda _: ({process.name: process}, {}))
    monkeypatch.setattr(celery_status_info, "state_of", lambda _: {"release": "2.0"})
    return made


def waited(clock: Clock, directory: Path, fewest: int = 3) -> float:
    params = {"version": "2.0", "tasks": 20, "seconds": SECONDS, "fewest": fewest}
    celery_status_info.wait_for_tasks(SimpleNamespace(params=params), directory)
    return clock.now - STARTED


def earlier(directory: Path, tasks: int) -> None:
    """Count tasks of the previous release."""
    file = CountsFile(directory, "shop-email@1.0")
    for number in range(tasks):
        file.count(DONE, "email", "mailer.send", STARTED - 1 - number)


def test_an_idle_host_is_not_waited_for(clock: Clock, tmp_path: Path) -> None:
    earlier(tmp_path, 0)
    assert waited(clock, tmp_path) == pytest.approx(celery_status_info.QUIET_SECONDS, abs=1)


def test_a_host_on_which_a_task_begins_is(clock: Clock, tmp_path: Path) -> None:
    file = CountsFile(tmp_path, "shop-email@2.0")
    clock.at[STARTED + 2] = lambda: file.begin("email", "mailer.send", clock.now)
    assert waited(clock, tmp_path) == pytest.approx(SECONDS, abs=1)


@pytest.mark.parametrize(("tasks", "seconds"), [(59, celery_status_info.QUIET_SECONDS), (60, SECONDS)])
def test_a_host_that_had_enough_tasks_is_waited_for(clock: Clock, tmp_path: Path, tasks: int, seconds: float) -> None:
    earlier(tmp_path, tasks)
    assert waited(clock, tmp_path) == pytest.approx(seconds, abs=1)


def test_without_a_number_of_tasks_no_host_is_idle(clock: Clock, tmp_path: Path) -> None:
    assert waited(clock, tmp_path, fewest=0) == pytest.approx(SECONDS, abs=1)
