"""What a fault did to a fleet: from what was seen to figures. Nothing here touches a host."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

#: What a handover puts at the end of a worker's name.
SLOT = re.compile(r"-[ab]$")
#: In what the doctor says of processes that were killed.
LAST_AT = re.compile(r"\blast at (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")
#: What Prometheus and the kernel may differ by, and how exact the doctor's times are.
CLOCK_SECONDS = 2


@dataclass(frozen=True)
class Outcome:
    """What became of the tasks.

    Attributes:
        sent: tasks whose sender was told that they were sent.
        refused: tasks whose sender was told that they were not.
        done: tasks of those sent that were done, once or more often.
        failed: tasks of those sent that failed.
        lost: tasks of those sent that neither were done nor failed.
        lost_begun: tasks of those lost that a worker had begun.
        repeated: tasks that were done more than once.
        begun_again: tasks that were begun more than once, as their process was killed or their message redelivered.
        refused_done: tasks that were done although their sender was told that they were not sent.
        lost_at: how many of the lost are of each queue and event, the last that was heard of them.
    """

    sent: int
    refused: int
    done: int
    failed: int
    lost: int
    lost_begun: int
    repeated: int
    begun_again: int
    refused_done: int
    lost_at: dict[str, int]


def events_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the entries of ledgers, in the order of their times, without lines that were cut short."""
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"event", "id", "time"} <= set(entry):
            found.append(entry)
    return sorted(found, key=lambda entry: str(entry["time"]))


def outcome(entries: Iterable[Mapping[str, Any]], sent: Collection[str], refused: Collection[str]) -> Outcome:
    """Return what became of tasks.

    Args:
        entries: of the ledgers, in the order of their times.
        sent: ids of the tasks whose sender was told that they were sent.
        refused: ids of those whose sender was told that they were not.
    """
    events: dict[str, Counter[str]] = {task: Counter() for task in (*sent, *refused)}
    last: dict[str, str] = {}
    for entry in entries:
        task = entry["id"]
        if task in events:
            events[task][entry["event"]] += 1
            queue = entry.get("queue") or last.get(task, "?").split()[0]
            last[task] = f"{queue} {entry['event']} on {entry.get('host', '?')}"
    of_sent = {task: events[task] for task in sent}
    lost = [task for task, seen in of_sent.items() if not (seen["done"] or seen["failed"])]
    return Outcome(
        sent=len(sent),
        refused=len(refused),
        done=sum(seen["done"] > 0 for seen in of_sent.values()),
        failed=sum(seen["failed"] > 0 and not seen["done"] for seen in of_sent.values()),
        lost=len(lost),
        lost_begun=sum(events[task]["started"] > 0 for task in lost),
        repeated=sum(seen["done"] > 1 for seen in events.values()),
        begun_again=sum(seen["started"] > 1 for seen in events.values()),
        refused_done=sum(events[task]["done"] > 0 for task in refused),
        lost_at=dict(Counter(last.get(task, "? unheard of") for task in lost)),
    )


def moment(entry: Mapping[str, Any]) -> float:
    """Return when an entry was written, in seconds since the epoch."""
    return datetime.fromisoformat(entry["time"]).timestamp()


def done_by(entries: Iterable[Mapping[str, Any]], until: float) -> float:
    """Return when the last of the tasks that were sent before a moment was first done; 0 if none was."""
    sent: set[str] = set()
    done: dict[str, float] = {}
    for entry in entries:
        if entry["event"] == "sent" and moment(entry) <= until:
            sent.add(entry["id"])
        elif entry["event"] == "done":
            done.setdefault(entry["id"], moment(entry))
    return max((at for task, at in done.items() if task in sent), default=0.0)


def takers(entries: Iterable[Mapping[str, Any]], since: float) -> dict[tuple[str, str], float]:
    """Return when each host first began a task of each queue that was sent after a moment."""
    sent: set[str] = set()
    found: dict[tuple[str, str], float] = {}
    for entry in entries:
        if entry["event"] == "sent" and moment(entry) > since:
            sent.add(entry["id"])
        elif entry["event"] == "started" and entry["id"] in sent:
            found.setdefault((entry["queue"], entry["host"]), moment(entry))
    return found


def running(entries: Iterable[Mapping[str, Any]], queue: str, host: str) -> dict[int, float]:
    """Return the process of each task of a queue that is at work on a host, and when it began."""
    found: dict[str, tuple[int, float]] = {}
    for entry in entries:
        if entry["event"] == "started" and (entry.get("queue"), entry.get("host")) == (queue, host):
            found[entry["id"]] = (entry["pid"], moment(entry))
        elif entry["event"] in {"done", "failed", "retried", "revoked"}:
            found.pop(entry["id"], None)
    return dict(found.values())


def consume(seen: Mapping[str, Collection[str]], expected: Mapping[tuple[str, str], Collection[str]]) -> bool:
    """Return whether each worker consumes its queues.

    Args:
        seen: the queues of each worker that answers, by its node's name.
        expected: the queues of each worker on each host.
    """
    queues: dict[tuple[str, str], set[str]] = {}
    for node, consumed in seen.items():
        worker, _, host = node.partition("@")
        queues.setdefault((SLOT.sub("", worker), host), set()).update(consumed)
    return all(set(wanted) <= queues.get(worker, set()) for worker, wanted in expected.items())


# ---- Who reports it ----


def alerts_since(alerts: Iterable[Mapping[str, Any]], began: float) -> dict[str, float]:
    """Return the alerts that began to fire after a moment, each with the time at which Prometheus says that it did.

    Args:
        alerts: as Alertmanager lists them.
        began: seconds since the epoch, as what is returned.
    """
    found: dict[str, float] = {}
    for alert in alerts:
        at = datetime.fromisoformat(str(alert["startsAt"]).replace("Z", "+00:00")).timestamp()
        name = alert["labels"]["alertname"]
        if at >= began - CLOCK_SECONDS:
            found[name] = min(at, found.get(name, at))
    return found


def findings_since(checks: Mapping[str, Sequence[Mapping[str, str]]], began: float) -> list[str]:
    """Return what the doctor found, without processes that were killed before a moment.

    Args:
        checks: of the doctor's JSON.
        began: seconds since the epoch.
    """
    found = []
    for check, findings in checks.items():
        for finding in findings:
            if last := LAST_AT.search(finding["what"]):
                at = datetime.fromisoformat(last[1]).replace(tzinfo=UTC).timestamp()
                if at < began - CLOCK_SECONDS:
                    continue
            found.append(f"{check}: {finding['where']}: {finding['what']}")
    return found


def status_says(statuses: Mapping[str, Mapping[str, Any]], hosts: Collection[str]) -> list[str]:
    """Return what playbooks/status.yml shows that is not as it should be.

    Args:
        statuses: its JSON, by host.
        hosts: those that should be there.
    """
    if not statuses:
        return ["it does not come to its end"]
    found = [f"{host} is not there" for host in sorted(set(hosts) - set(statuses))]
    releases: dict[str, list[str]] = {}
    for host, status in sorted(statuses.items()):
        if "programs" not in status:
            found.append(f"{host} can't be examined")
            continue
        releases.setdefault(status["current"], []).append(host)
        found += [
            f"{program['name']} on {host} is {program['state']}"
            for program in status["programs"]
            if program["state"] not in {"RUNNING", "STOPPING"}
        ]
        found += [f"{stray['program']} on {host} is no Supervisor's" for stray in status.get("strays", ())]
    if len(releases) > 1:
        found.append("releases: " + "; ".join(f"{name}: {', '.join(on)}" for name, on in sorted(releases.items())))
    return found


# ---- What is told ----


@dataclass(frozen=True)
class Result:
    """What a fault did.

    Attributes:
        seconds: until the fleet was whole; of a fault that is held, from the moment at which it was taken back. None:
            it was not whole in time.
        held: seconds that it was held; 0: it is over at once.
        alerts: the seconds after which each alert fired.
        doctor: what the doctor found.
        status: what playbooks/status.yml showed.
        watchdog: what the watchdog's journals say.
        notes: what else is to be told.
    """

    fault: str
    broker: str
    outcome: Outcome
    seconds: float | None
    held: float
    alerts: dict[str, float]
    doctor: list[str]
    status: list[str]
    watchdog: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def result_of(values: Mapping[str, Any]) -> Result:
    """Return a result from its JSON, which may say more, or less."""
    known = {each.name: values[each.name] for each in fields(Result) if each.name in values}
    return Result(**known | {"outcome": Outcome(**values["outcome"])})


HEADINGS = ("fault", "sent", "done", "lost", "repeated", "refused", "whole after", "alerts", "doctor")


def table(results: Iterable[Result], names: Mapping[str, str] | None = None) -> list[str]:
    """Return the lines of a table, as Markdown has it.

    Args:
        names: what each fault is called there; by default by its own name.
    """
    rows = [HEADINGS, tuple("---" for _ in HEADINGS)]
    for result in results:
        what = result.outcome
        alerts = sorted(result.alerts.items(), key=lambda item: item[1])
        checks = sorted({finding.partition(":")[0] for finding in result.doctor})
        rows.append(
            (
                (names or {}).get(result.fault, result.fault),
                *(str(number) for number in (what.sent, what.done, what.lost, what.repeated, what.refused)),
                "never" if result.seconds is None else f"{result.seconds:.0f} s",
                ", ".join(f"{name} ({seconds:.0f} s)" for name, seconds in alerts) or "none",
                ", ".join(checks) or "nothing",
            )
        )
    return ["| " + " | ".join(row) + " |" for row in rows]
