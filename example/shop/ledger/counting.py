"""Count what became of the tasks in a ledger."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

UNKNOWN = ""


@dataclass
class Tally:
    """How many tasks of a queue came to which end. A task is counted once, however often it ran."""

    sent: int = 0
    done: int = 0
    failed: int = 0
    #: Dropped by a worker because it had expired or was revoked.
    revoked: int = 0
    #: Sent, and neither done, failed nor revoked: waiting or running still, or lost.
    lost: int = 0
    #: Done more than once.
    repeated: int = 0
    #: Retries, not tasks.
    retried: int = 0

    def add(self, other: Tally) -> None:
        """Add another queue's figures to this one's."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class Count:
    """What a ledger says."""

    total: Tally = field(default_factory=Tally)
    queues: dict[str, Tally] = field(default_factory=dict)
    lost_ids: list[str] = field(default_factory=list)
    repeated_ids: list[str] = field(default_factory=list)
    #: Lines that are no JSON object with an event and an id, such as one cut short when a host lost power.
    unreadable: int = 0


@dataclass
class _Task:
    queue: str = UNKNOWN
    root: str = UNKNOWN
    events: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def count(lines: Iterable[str], roots: Collection[str] | None = None) -> Count:
    """Count the tasks in the lines of any number of ledgers, in any order.

    Clocks of hosts differ, so the order of lines and their times are not used. Until every worker is idle,
    `lost` includes the tasks that are still waiting or running.

    Args:
        lines: the ledgers' lines.
        roots: count only the tasks of these ids and what they sent in turn. By default all are counted.
    """
    result = Count()
    tasks: dict[str, _Task] = defaultdict(_Task)
    for line in lines:
        if not line.strip():
            continue
        entry = _parse(line)
        if entry is None:
            result.unreadable += 1
            continue
        task = tasks[entry["id"]]
        # Not every event knows the queue: a task killed at its hard time limit is only known by its id.
        task.queue = task.queue or str(entry.get("queue") or UNKNOWN)
        task.root = task.root or str(entry.get("root") or UNKNOWN)
        task.events[entry["event"]] += 1

    queues: dict[str, Tally] = defaultdict(Tally)
    for task_id, task in tasks.items():
        if roots is not None and task.root not in roots and task_id not in roots:
            continue
        tally = _tally(task.events)
        queues[task.queue].add(tally)
        result.total.add(tally)
        if tally.lost:
            result.lost_ids.append(task_id)
        if tally.repeated:
            result.repeated_ids.append(task_id)
    result.queues = dict(sorted(queues.items()))
    result.lost_ids.sort()
    result.repeated_ids.sort()
    return result


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    if not all(isinstance(entry.get(key), str) for key in ("event", "id")):
        return None
    return entry


def _tally(events: dict[str, int]) -> Tally:
    tally = Tally(sent=int("sent" in events), retried=events.get("retried", 0))
    # A task that failed on one host and was done on another, after its message was delivered again, is done.
    if "done" in events:
        tally.done = 1
        tally.repeated = int(events["done"] > 1)
    elif "failed" in events:
        tally.failed = 1
    elif "revoked" in events:
        tally.revoked = 1
    else:
        tally.lost = tally.sent
    return tally
