"""The rollout lock on several hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.plugin_utils._rollout_lock import Lock, acquire, release

HOSTS = ("broker1", "broker2", "broker3")
CONTROLLER = {"user": "ann", "machine": "control", "process": "1.1", "processes": []}
LOST = {"unreachable": True, "msg": "Timeout"}
OTHERS = {"failed": True, "msg": "Another rollout holds the lock: bob@laptop"}


@dataclass
class Hosts:
    """Hosts that answer as they are told, and succeed otherwise."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def run(self, _module: str, arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        self.asked += arguments
        return {name: dict(self.answers.get(name, {"message": ""})) for name in arguments}

    def now(self) -> float:
        return 0.0

    def report(self, lines: Iterable[str]) -> None: ...

    def write_page(self, _directory: str, name: str, _content: str) -> str:
        return name


def lock(*hosts: str) -> Lock:
    return Lock(hosts, "/run/shop.lock", "run1", CONTROLLER)


@pytest.mark.parametrize(
    ("hosts", "answers", "held", "refused"),
    [
        (HOSTS, {}, True, False),
        (HOSTS, {"broker1": LOST}, True, False),
        (HOSTS, {"broker2": OTHERS}, True, True),
        (HOSTS, {"broker1": LOST, "broker2": LOST}, False, False),
        (HOSTS, {"broker1": LOST, "broker2": OTHERS}, False, True),
        (HOSTS[:1], {"broker1": LOST}, False, False),
        (HOSTS[:1], {}, True, False),
    ],
)
def test_most_of_the_hosts_decide(
    hosts: tuple[str, ...], answers: dict[str, dict[str, Any]], held: bool, refused: bool
) -> None:
    found = acquire(lock(*hosts), Hosts(answers))
    assert (found.held, found.refused) == (held, refused)
    assert len(found.failures) == len(answers)


def test_two_runs_cannot_both_have_most_of_the_hosts() -> None:
    """Each host refuses one of them."""
    for first in range(8):
        refusals = {name: OTHERS for place, name in enumerate(HOSTS) if first >> place & 1}
        other = {name: OTHERS for name in HOSTS if name not in refusals}
        assert acquire(lock(*HOSTS), Hosts(refusals)).held != acquire(lock(*HOSTS), Hosts(other)).held


def test_it_is_released_on_all_hosts() -> None:
    hosts = Hosts({"broker1": LOST})
    assert release(lock(*HOSTS), hosts).held
    assert hosts.asked == list(HOSTS)
