"""The demo's fault: a host of the broker loses its power while tasks are sent, and returns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._report import Timeline, document

from lab.fleet import LOGS, Fleet, LabError, podman, remote

PAGE = LOGS / "broker-host-without-power.html"
#: The alert of a broker's host that is down.
ALERTS = {"rabbitmq": "CeleryBrokerNodeDown", "redis": "CeleryRedisReplicas"}
# No packet tells the others that the host's processes end.
_SILENCE = "table inet silence { chain out { type filter hook output priority -300; policy drop; }; }"
_ROLE = (
    "REDISCLI_AUTH=$(cat /var/lib/celery-fleet/redis/administrator.password) "
    "redis-cli -e --no-auth-warning --user {app}-admin -s /run/redis/redis.sock info replication"
)


@dataclass
class Fault:
    """A power failure. All times are seconds since the epoch.

    Attributes:
        ended: of the load.
    """

    host: str
    kind: str
    began: float = 0.0
    cut: float = 0.0
    alerted: float = 0.0
    booted: float = 0.0
    resolved: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What the fault cost.

    Attributes:
        gaps: for each worker host, the most seconds after the cut in which it finished no task.
        fleet_gap: the same of all of them.
        seconds: second, tasks done and tasks failed, in order.
    """

    sent: int
    done: int
    failed: int
    lost: int
    repeated: int
    fleet_gap: float
    gaps: Mapping[str, float]
    seconds: list[tuple[int, int, int]] = field(default_factory=list)

    def text(self) -> str:
        """Return the figures for people."""
        host, gap = max(self.gaps.items(), key=lambda item: item[1], default=("", 0.0))
        return (
            f"{self.sent} tasks were sent, {self.done} done, {self.lost} lost, and {self.repeated} ran twice. The "
            f"longest time without a task was {self.fleet_gap:.0f} s on the whole fleet, {gap:.0f} s on {host}"
        )


def _control(*arguments: str) -> None:
    """Run podman as root.

    Raises:
        LabError: it failed.
    """
    done = podman(*arguments)
    if done.returncode != 0:
        raise LabError(f"`podman {' '.join(arguments)}` failed: {done.stderr.strip()}")


def victim(fleet: Fleet) -> str:
    """Return the host whose loss is felt most: the first node of RabbitMQ, or the primary of Redis."""
    if fleet.kind == "rabbitmq":
        return fleet.broker
    command = ["sudo", "-n", "sh", "-c", _ROLE.format(app=fleet.app)]
    primaries = [host for host in fleet.brokers if "role:master" in remote(fleet, host, command)]
    if len(primaries) != 1:
        raise LabError(f"{' and '.join(primaries) or 'No server'} is the primary of Redis, instead of one")
    return primaries[0]


def cut_power(fleet: Fleet, host: str) -> None:
    """Stop a host without a word to the others."""
    _control("exec", f"{fleet.network}-{host}", "nft", _SILENCE)
    _control("kill", f"{fleet.network}-{host}")


def boot(fleet: Fleet, host: str) -> None:
    """Boot a host."""
    _control("start", f"{fleet.network}-{host}")


def parsed(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the entries of ledgers. A line that was cut short has no part in times."""
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def moment(entry: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(entry["time"]).timestamp()


def longest_gap(moments: Iterable[float], began: float, ended: float) -> float:
    """Return the most seconds between two of these moments, or between one and the begin or the end."""
    inside = sorted(each for each in moments if began <= each <= ended)
    return max(after - before for before, after in pairwise([began, *inside, ended]))


def outcome_of(count: Any, entries: Iterable[Mapping[str, Any]], workers: Iterable[str], fault: Fault) -> Outcome:  # noqa: ANN401 - shop's Count
    """Return what the fault cost.

    Args:
        count: of the tasks that were sent.
        entries: of all ledgers.
        workers: the hosts with workers.
    """
    ends = [entry for entry in entries if entry["event"] in {"done", "failed"} and moment(entry) >= fault.began]
    done = [(entry["host"], moment(entry)) for entry in ends if entry["event"] == "done"]
    per_second: dict[str, Counter[int]] = {"done": Counter(), "failed": Counter()}
    for entry in ends:
        per_second[entry["event"]][int(moment(entry))] += 1
    total = count.total
    return Outcome(
        sent=total.sent,
        done=total.done,
        failed=total.failed,
        lost=total.lost,
        repeated=total.repeated,
        fleet_gap=longest_gap((at for _, at in done), fault.cut, fault.ended),
        gaps={
            host: longest_gap((at for name, at in done if name == host), fault.cut, fault.ended)
            for host in sorted(workers)
        },
        seconds=[
            (second, per_second["done"][second], per_second["failed"][second])
            for second in sorted(per_second["done"] | per_second["failed"])
        ],
    )


def page(fleet: Fleet, fault: Fault, outcome: Outcome) -> str:
    """Return the HTML page of the fault."""
    alert = ALERTS[fault.kind]
    facts = (
        ("fault", f"{fault.host} loses its power, and is booted {fault.booted - fault.cut:.0f} s later"),
        ("tasks sent", f"{outcome.sent:,}"),
        ("tasks done", f"{outcome.done:,}"),
        ("tasks failed", f"{outcome.failed:,}"),
        ("tasks lost", f"{outcome.lost:,}"),
        ("tasks that ran twice", f"{outcome.repeated:,}"),
        ("longest time without a task", f"{outcome.fleet_gap:.1f} s on the whole fleet"),
        *(("", f"{gap:.1f} s on {host}") for host, gap in outcome.gaps.items()),
        (
            alert,
            f"fired after {fault.alerted - fault.cut:.0f} s, was resolved after {fault.resolved - fault.cut:.0f} s",
        ),
    )
    steady = [(fault.began, "up")]
    phases = {
        host: {
            fault.kind: steady
            if host != fault.host
            else [*steady, (fault.cut, "down"), (fault.booted, "starting"), (fault.resolved, "up")]
        }
        for host in fleet.brokers
    }
    timeline = Timeline(began=fault.began, ended=fault.ended, phases=phases, seconds=outcome.seconds)
    return document(f"{fleet.app}: a host of the broker without power", facts, timeline)


def write(text: str, path: Path = PAGE) -> Path:
    """Write the page, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
