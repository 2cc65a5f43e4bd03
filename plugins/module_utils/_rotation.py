"""Rotation of passwords: which a fleet has, and which users of the broker have them.

While a password is rotated, the broker accepts the earlier value and the new one. A user of Redis can have several
passwords. A user of RabbitMQ has one, so two users take turns. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Directory of facts on the broker's host. The file <application>.fact has the state of its rotations.
FACTS = "/etc/celery-fleet/facts"
#: Suffix of the second of two users that take turns.
SECOND = "-b"
#: Passwords of users that take turns, with the suffixes of the first users' names. No client has those of others open.
TURNS = {"rabbitmq_application": "", "rabbitmq_producer": "-producer", "rabbitmq_flower": "-flower"}


@dataclass(frozen=True)
class State:
    """The state of the rotations, as the broker's host has it.

    Attributes:
        second: passwords that the second of two users has.
        rotating: passwords whose earlier value is still valid.
    """

    second: tuple[str, ...] = ()
    rotating: tuple[str, ...] = ()

    def begin(self, names: Iterable[str]) -> State:
        """Return the state in which these passwords are rotated. A rotation that was interrupted continues."""
        new = set(names) - set(self.rotating)
        return State(_sorted(set(self.second) ^ (new & TURNS.keys())), _sorted(new | set(self.rotating)))

    def end(self, names: Iterable[str]) -> State:
        """Return the state in which the earlier values of these passwords are no longer valid."""
        return State(self.second, _sorted(set(self.rotating) - set(names)))

    def user(self, app: str, name: str) -> str:
        """Return the user that has a password of TURNS."""
        return f"{app}{TURNS[name]}{SECOND if name in self.second else ''}"

    def earlier_user(self, app: str, name: str) -> str:
        """Return the user that had a password before; empty if it is the same user."""
        return f"{app}{TURNS[name]}{'' if name in self.second else SECOND}" if name in TURNS else ""


def read_state(raw: object) -> State:
    """Return a state from its file's content."""
    values: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    return State(*(_sorted(map(str, values.get(key) or ())) for key in ("second", "rotating")))


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


def passwords_of(
    kind: str,
    *,
    broker: str,
    producers: bool,
    flower: str,
    monitor: str,
    signing: bool = False,
    backups: bool = False,
    sentinel: bool = False,
) -> dict[str, str]:
    """Return the names of a fleet's passwords, each with the host whose variable sets it.

    Args:
        kind: of the broker.
        producers: whether there are hosts that only send tasks.
        broker, flower, monitor: names of hosts; empty if there is none. Without a host of the broker, its passwords are
            not the fleet's.
        signing: whether messages are signed, so that there is a replay cache.
        backups: whether the broker is backed up.
        sentinel: whether several servers of Redis replicate, and Sentinels monitor them.
    """
    users = ["application", "administrator", "monitoring"]
    users += ["producer"] * producers + ["flower"] * bool(flower)
    if kind == "redis":
        users += ["metrics", "reader", "ui_basic_auth", *["backup"] * backups]
    users += ["replication", "failover", "sentinel"] * sentinel
    found = {f"{kind}_{user}": broker for user in users} if broker else {}
    if signing:
        # Beside RabbitMQ, the replay cache is a Redis of its own.
        found |= dict.fromkeys(("redis_administrator", "redis_replay"), broker)
    if flower:
        found["flower_basic_auth"] = flower
    if monitor:
        found |= dict.fromkeys(("prometheus", "alertmanager", "node_exporter"), monitor)
    return found


def absent_users(state: State, app: str, used: Iterable[str]) -> tuple[str, ...]:
    """Return the users of RabbitMQ that must not exist.

    Args:
        used: the passwords that the fleet has.
    """
    kept = {state.user(app, name) for name in used if name in TURNS}
    kept |= {state.earlier_user(app, name) for name in state.rotating}
    return _sorted({f"{app}{suffix}{second}" for suffix in TURNS.values() for second in ("", SECOND)} - kept)
