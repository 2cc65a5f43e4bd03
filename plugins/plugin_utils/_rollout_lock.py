"""The rollout lock on the broker's hosts: the run that has it on most of them holds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.plugin_utils._fleet import Fleet, failure_of

LOCK = "fleet.celery.celery_lock"


@dataclass(frozen=True)
class Lock:
    """The rollout lock.

    Attributes:
        hosts: the hosts that hold it.
        path: its path there.
        controller: this run of Ansible, as the lookup fleet.celery.controller returns it.
        run: identifier of this run.
    """

    hosts: tuple[str, ...]
    path: str
    run: str
    controller: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The result of an attempt to acquire, renew or release the lock.

    Attributes:
        held: whether it succeeded on most of the hosts.
        failures: reasons of the hosts on which it failed.
        refused: whether one of these hosts answered.
        messages: of the other hosts.
    """

    held: bool
    failures: tuple[str, ...]
    refused: bool
    messages: tuple[str, ...]


def acquire(lock: Lock, fleet: Fleet, *, take_over: bool = False) -> Outcome:
    """Acquire or renew the lock."""
    controller = lock.controller
    owner = f"{controller['user']}@{controller['machine']}"
    return _run(lock, fleet, {"owner": owner, "controller": dict(controller), "take_over": take_over})


def release(lock: Lock, fleet: Fleet) -> Outcome:
    """Release the lock."""
    return _run(lock, fleet, {"held": False})


def _run(lock: Lock, fleet: Fleet, options: Mapping[str, Any]) -> Outcome:
    arguments = {"path": lock.path, "run": lock.run, **options}
    results = fleet.run(LOCK, {name: dict(arguments) for name in lock.hosts})
    failed = {name: failure for name, result in results.items() if (failure := failure_of(result))}
    return Outcome(
        held=2 * len(failed) < len(lock.hosts),
        failures=tuple(f"{name}: {failure}" for name, failure in failed.items()),
        refused=any(not results[name].get("unreachable") for name in failed),
        messages=tuple(dict.fromkeys(_messages(results.values()))),
    )


def _messages(results: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    return (str(result["message"]) for result in results if result.get("message"))
