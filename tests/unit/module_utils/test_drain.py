"""The deadline of a drain: workers return their tasks before anything is killed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._release import DRAINED
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services import drain as host_drain
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import Process
from ansible_collections.fleet.celery.plugins.modules import celery_drain

NAME = "shop-reports"


@dataclass
class Host:
    """A simulated host: its clock, a Supervisor with one worker, and what the worker was sent, by seconds since 0."""

    ignores: set[str]
    clock: float = 0.0
    state: str = "RUNNING"
    there: bool = True
    sent: list[tuple[str, int]] = field(default_factory=list)

    def _send(self, what: str) -> None:
        self.sent.append((what, round(self.clock)))
        if what not in self.ignores:
            self.state = "STOPPED"

    def processes(self) -> dict[str, Process]:
        return {NAME: Process(NAME, self.state, 7, "", "")} if self.there else {}

    def reread(self) -> None:
        pass

    def remove(self, _name: str) -> None:
        self.there = False

    def stop(self, _name: str) -> None:
        self.state = "STOPPING"
        self._send("TERM")

    def quit(self, _name: str) -> None:
        self._send("QUIT")

    def kill(self, _name: str) -> None:
        self._send("KILL")

    def sleep(self, seconds: float) -> None:
        self.clock += seconds


def drain(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: Host,
    deadline: int,
    *,
    slices: int = 40,
    without_cold_shutdown: tuple[str, ...] = (),
) -> Any:
    """Drain the host in calls of 15 seconds, as the playbook does, and return the results."""
    clock = SimpleNamespace(time=lambda: 1000 + host.clock, monotonic=lambda: host.clock, sleep=host.sleep)
    monkeypatch.setattr(celery_drain, "time", clock)
    monkeypatch.setattr(host_drain, "time", clock)
    monkeypatch.setattr(host_drain, "SocketServer", lambda _: host)
    monkeypatch.setattr(host_drain, "strays", lambda _: [])
    parameters = {
        "programs": [NAME],
        "without_cold_shutdown": without_cold_shutdown,
        "root": str(tmp_path),
        "state_dir": str(tmp_path),
        "directory": str(tmp_path),
        "app_name": "shop",
        "socket": "",
        "drained": True,
        "deadline": deadline,
        "seconds": 15,
    }
    results = []
    for _ in range(slices):
        module: Any = SimpleNamespace(params=parameters, check_mode=False)
        results.append(celery_drain.Drain(module).run())
        if results[-1]["done"]:
            break
    return results


def test_tasks_are_returned_before_the_deadline_and_nothing_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(ignores={"TERM"})
    results = drain(tmp_path, monkeypatch, host, 120)
    assert [what for what, _ in host.sent] == ["TERM", "QUIT"]
    assert host.sent[1][1] == pytest.approx(110, abs=2)
    assert results[-1]["done"]
    assert [name for result in results for name in result["broken_off"]] == [NAME]


def test_a_worker_that_does_not_return_its_tasks_is_killed_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(ignores={"TERM", "QUIT"})
    drain(tmp_path, monkeypatch, host, 120)
    assert [what for what, _ in host.sent] == ["TERM", "QUIT", "KILL"]
    assert 120 <= host.sent[2][1] < 125


def test_half_of_a_short_deadline_is_left_for_returning_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(ignores={"TERM", "QUIT"})
    drain(tmp_path, monkeypatch, host, 12)
    (_, _), (_, quit_at), (_, killed_at) = host.sent
    assert quit_at == pytest.approx(6, abs=1)
    assert killed_at - quit_at >= host_drain.HAND_BACK_SECONDS / 2
    assert killed_at >= 12


def test_tasks_that_end_in_time_and_drains_without_a_deadline_are_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(ignores=set())
    assert drain(tmp_path, monkeypatch, host, 120)[-1]["broken_off"] == []
    assert [what for what, _ in host.sent] == ["TERM"]
    (tmp_path / DRAINED).unlink()
    busy = Host(ignores={"TERM"})
    drain(tmp_path, monkeypatch, busy, 0, slices=20)
    assert [what for what, _ in busy.sent] == ["TERM"]


def test_a_controller_that_is_run_again_keeps_the_deadline_and_sends_no_second_quit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / DRAINED).write_text(json.dumps({"since": 1000 - 115, "handed_back": 1000 - 5}))
    host = Host(ignores={"TERM", "QUIT"}, state="STOPPING")
    drain(tmp_path, monkeypatch, host, 120)
    assert [what for what, _ in host.sent] == ["KILL"]
    assert host.sent[0][1] == pytest.approx(5, abs=1)


def test_a_worker_that_would_lose_its_tasks_by_a_cold_shutdown_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(ignores={"TERM"})
    results = drain(tmp_path, monkeypatch, host, 120, without_cold_shutdown=(NAME,))
    assert [what for what, _ in host.sent] == ["TERM", "KILL"]
    assert host.sent[1][1] >= 120
    assert [name for result in results for name in result["broken_off"]] == [NAME]
