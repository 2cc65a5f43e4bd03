"""What is wrong with a fleet, in the order in which an engineer would look, from what its hosts say of themselves.

Pure: observations go in, findings come out. Each says what it means and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

#: Seconds beyond its limit after which a task is overdue: a pool takes some to end it, and hosts' clocks differ.
GRACE = 10


@dataclass(frozen=True)
class KnownBug:
    """A bug of a part of the application's environment that loses or stops tasks.

    Attributes:
        part: its name on the Python Package Index.
        first: the version that has it first; mended: the one that has it no more.
        broker: the kind that it takes; empty: any.
        what: it does to tasks.
        source: the thread that describes it, or its mend.
    """

    part: str
    first: str
    mended: str
    broker: str
    what: str
    source: str


KNOWN_BUGS: Sequence[KnownBug] = (
    KnownBug(
        "kombu",
        "5.0",
        "5.3.3",
        "redis",
        "A task that is put back into its queue may be lost",
        "https://github.com/celery/kombu/issues/1800",
    ),
    KnownBug(
        "kombu",
        "5.2.3",
        "5.4",
        "redis",
        "A worker may take no more tasks once its connection to Redis was lost",
        "https://github.com/celery/celery/issues/8030",
    ),
    KnownBug(
        "kombu",
        "5.4",
        "5.7",
        "redis",
        "A worker whose connection to Redis was lost may answer, and yet take no more tasks",
        "https://github.com/celery/kombu/pull/2492",
    ),
    KnownBug(
        "kombu",
        "5.6",
        "5.7",
        "redis",
        "A restart of Redis may end a worker by a KeyError, and the tasks that it runs with it",
        "https://github.com/celery/kombu/issues/2582",
    ),
    KnownBug(
        "celery",
        "4.0",
        "5.5",
        "",
        "The children of a prefork worker may hang on a pipe: it takes tasks and runs none",
        "https://github.com/celery/celery/issues/4185",
    ),
    KnownBug(
        "celery",
        "4.0",
        "5.6.1",
        "rabbitmq",
        "A worker sends no heartbeat while it ends its tasks: RabbitMQ gives long ones to others, and they run twice",
        "https://github.com/celery/celery/issues/5998",
    ),
    KnownBug(
        "celery",
        "5.3",
        "5.7",
        "rabbitmq",
        "Once its connection to RabbitMQ was lost, a worker runs fewer tasks at once than it may, for good",
        "https://github.com/celery/celery/issues/9512",
    ),
    KnownBug(
        "celery",
        "5.5",
        "5.6.3",
        "rabbitmq",
        "RabbitMQ before 4.0.1 drops a task that is retried with a delay, as its second delay looks like a loop",
        "https://github.com/celery/celery/issues/9867",
    ),
    KnownBug(
        "celery",
        "5.6.1",
        "5.6.3",
        "redis",
        "A worker may fail to connect again to Redis, and its tasks look active for ever",
        "https://github.com/celery/celery/issues/10096",
    ),
    KnownBug(
        "billiard",
        "4.0",
        "4.3",
        "",
        "A task that raises MemoryError is never acknowledged, and keeps its place in the worker for good",
        "https://github.com/celery/celery/issues/10462",
    ),
)


@dataclass(frozen=True)
class Limits:
    """From when on something is wrong. A queue's own limits are in the plan.

    Attributes:
        skew: seconds between a host's clock and the controller's.
        disk: percent of a file system that must be free.
        hours: that were looked back for processes that were killed.
    """

    skew: float = 2.0
    disk: float = 10.0
    hours: int = 24


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        where: the host, queue or worker.
        what: was seen.
        meaning: what it does to tasks.
        action: what to do.
    """

    where: str
    what: str
    meaning: str
    action: str


@dataclass(frozen=True)
class Fleet:
    """What was seen.

    Attributes:
        plan: as the role celery derives it.
        hosts: for each host, what celery_doctor says of it.
        silent: hosts that said nothing.
    """

    plan: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    silent: Sequence[str] = ()

    @property
    def asker(self) -> str:
        """The one host that asked the broker and the workers; empty if none could."""
        return next((host for host, seen in self.hosts.items() if seen["asked"]), "")

    @property
    def asked(self) -> Mapping[str, Any]:
        """What they said to it."""
        return self.hosts[self.asker]["asked"] if self.asker else {}

    def programs(self) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
        """Yield the workers of hosts that were seen and are not drained: host, program, the nodes that it may be."""
        for host, seen in self.hosts.items():
            for program in self.plan["hosts"][host]["programs"] if not seen["drained"] else ():
                yield host, program, [slot["node"].replace("%h", seen["nodename"]) for slot in program["slots"]]


def reached(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Hosts that said nothing."""
    for host in fleet.silent:
        yield Finding(
            host,
            "it could not be examined, for the reason that is given above",
            "Nothing is known of its workers, unless they answer by the broker",
            "See whether it is up. Where it is gone for good, take it out of the inventory and run site.yml",
        )


def killed(fleet: Fleet, limits: Limits) -> Iterator[Finding]:
    """Workers and children that were killed by SIGKILL."""
    meaning = (
        "The tasks that they ran wait for the visibility timeout, then they run again"
        if fleet.plan["broker"]["kind"] == "redis"
        else "The tasks that they ran were given to others, and began again"
    )
    sweep = "; playbooks/sweep.yml gives their tasks back now" if fleet.plan["broker"]["kind"] == "redis" else ""
    for host, seen in fleet.hosts.items():
        if lines := seen["oom"]:
            yield Finding(
                host,
                f"the kernel was short of memory and killed {len(lines)} processes, the last: {lines[-1]}",
                meaning,
                f"Lower max_memory_per_child or concurrency of what runs there, or give it more memory{sweep}",
            )
        for (program, what), times in _by(seen["killed"], "program", "what").items():
            last = datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            yield Finding(
                f"{program} on {host}",
                f"{what} was killed by SIGKILL, {len(times)} times in {limits.hours} hours, the last at {last}",
                meaning,
                f"See docs/alerts.md#celerytaskskilled for who does that{sweep}",
            )


def _by(found: Sequence[Mapping[str, Any]], *names: str) -> dict[tuple[str, ...], list[float]]:
    times: dict[tuple[str, ...], list[float]] = {}
    for each in found:
        times.setdefault(tuple(each[name] for name in names), []).append(each["at"])
    return times


def broker(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Whether the broker is there and takes tasks."""
    planned = fleet.plan["broker"]
    where = f"{planned['flavor']} on {planned['host']}"
    hosts = (*fleet.hosts, *fleet.silent)
    if not fleet.asked and any("app" in fleet.plan["hosts"][host]["duties"] for host in hosts):
        yield Finding(
            where,
            "no host with the application could ask it",
            "Nothing is known of queues and of what workers do",
            "Mend what is found above first",
        )
    if error := fleet.asked.get("error"):
        yield Finding(
            where,
            f"{fleet.asker} can't ask it: {error}",
            "No task is sent or begun there",
            f"See whether its service is up, and {planned['address']}:{planned['port']} open to {fleet.asker}",
        )
    if error := fleet.asked.get("workers_error"):
        yield Finding(
            where,
            f"workers can't be asked by it: {error}",
            "It takes no messages, and so no tasks",
            "Mend what it complains of; if nothing is, restart it: tasks in durable queues stay",
        )
    said = fleet.hosts.get(planned["host"], {}).get("broker", {})
    if said.get("error"):
        yield Finding(
            where,
            f"on its own host it does not answer: {said['error']}",
            "No task is sent or begun",
            "systemctl status and journalctl -u of its service there",
        )
    for alarm in said.get("alarms", []):
        yield Finding(
            where,
            alarm,
            "It takes no more tasks, or soon will not; senders wait or fail",
            "See docs/alerts.md#celerybrokermemory and the two chapters below it",
        )


def discovered(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Tasks that a worker does not know, though its release has them."""
    registered = fleet.asked.get("registered", {})
    for host, _program, nodes in fleet.programs():
        for node in nodes:
            if node in registered and (missing := sorted(set(fleet.hosts[host]["tasks"]) - set(registered[node]))):
                yield Finding(
                    node,
                    f"it does not know {', '.join(missing)}",
                    "It drops such a task when it gets one",
                    "playbooks/restart.yml; if that does not help, name their modules in the application's include=",
                )


def depth(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Queues in which more waits than all their workers do in time, were they at nothing else."""
    for queue, waiting in fleet.asked.get("depths", {}).items():
        thresholds = fleet.plan["thresholds"].get(queue, {"depth": 0, "drain_time": 0})
        places = sum(program["concurrency"] for _, program, _ in fleet.programs() if queue in program["queues"])
        runs = [seen["runs"].get(queue, (0.0, 0)) for seen in fleet.hosts.values()]
        seconds, ended = (sum(values) for values in zip(*runs, strict=True))
        drain = waiting * seconds / ended / places if ended and places else 0.0
        deep, slow = 0 < thresholds["depth"] < waiting, 0 < thresholds["drain_time"] < drain
        if deep or slow:
            allowed = f"its depth may be {thresholds['depth']}" if deep else f"may take {thresholds['drain_time']} s"
            pace = f"{drain:.0f} s of work for its {places} places; " if drain else ""
            yield Finding(
                f"queue {queue}",
                f"{waiting} tasks wait, {pace}{allowed}",
                "What is sent now begins late, and the broker fills up",
                "Raise the concurrency of its workers or add a host to their group, and run site.yml; "
                "or look at who sends so much",
            )


def overdue(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Tasks that run longer than the inventory allows."""
    for host, program, nodes in fleet.programs():
        limit = program["longest_task"]
        for task in (task for node in nodes for task in fleet.asked.get("active", {}).get(node, [])):
            if task["seconds"] > limit + GRACE:
                yield Finding(
                    f"{program['name']} on {host}",
                    f"{task['name']} ({task['id']}) has run for {task['seconds']:.0f} s, of {limit} s that it may",
                    "It holds a place. Its pool can't end it (prefork and gevent can), it was sent with a time_limit "
                    "of its own, or its worker has another limit than the inventory by now",
                    "site.yml gives workers the inventory's limits; a restart waits for the task, "
                    "playbooks/drain.yml with a deadline does not",
                )


def clock_error(told: float, began: float, ended: float, after: float) -> tuple[float, float]:
    """Return the least and the most that a host's clock may be ahead of the controller's, in seconds.

    The module began after the controller had told it the time, and had ended before its answer was there. So the truth
    is between the two, and they differ by what connecting, copying and answering took: mostly less than two seconds.

    Args:
        told: the controller's clock just before the module was sent.
        began: the host's clock when it began; ended: when it ended.
        after: the controller's clock when the answer was there.
    """
    return ended - after, began - told


def clocks(fleet: Fleet, limits: Limits) -> Iterator[Finding]:
    """Hosts whose clocks are certainly wrong: by more than the limit whatever the time that messages took."""
    for host, seen in fleet.hosts.items():
        least, most = clock_error(*seen["clock"])
        error = max(0.0, least) or min(0.0, most)
        if abs(error) > limits.skew:
            yield Finding(
                host,
                f"its clock is at least {abs(error):.1f} s {'ahead of' if error > 0 else 'behind'} the controller's",
                "Tasks with an eta begin at another time there, and what is measured of them is off by that",
                "timedatectl on both. Install systemd-timesyncd or chrony where none is, and see what it waits for",
            )


def disks(fleet: Fleet, limits: Limits) -> Iterator[Finding]:
    """File systems that are nearly full."""
    for host, seen in fleet.hosts.items():
        for name, free in seen["free_percent"].items():
            if free < limits.disk:
                yield Finding(
                    host,
                    f"{name} has {free:g}% free, of {limits.disk:g}% that must be",
                    "Once it is full, logs, releases and, on the broker, tasks can't be written",
                    "du -xh --max-depth=2 says what takes it. Remove that, or enlarge it",
                )


def releases(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Hosts or workers on different releases."""
    on: dict[str, list[str]] = {}
    for host, seen in fleet.hosts.items():
        if seen["current"]:
            on.setdefault(seen["current"], []).append(host)
    if len(on) > 1:
        told = "; ".join(f"{release}: {', '.join(sorted(hosts))}" for release, hosts in sorted(on.items()))
        yield Finding(
            "the fleet",
            f"hosts are on {len(on)} releases ({told})",
            "A task that only one of them has is dropped by the others",
            "playbooks/deploy.yml goes on where it ended; playbooks/rollback.yml goes back",
        )
    for host, seen in fleet.hosts.items():
        for program in seen["programs"]:
            if program["state"] == "RUNNING" and program["release"] not in ("", seen["current"]):
                yield Finding(
                    f"{program['name']} on {host}",
                    f"it runs {program['release']}, though the host is on {seen['current']}",
                    "It was not restarted when the release changed, and drops tasks that are new",
                    f"playbooks/restart.yml --limit {host}",
                )


def consumers(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Workers that should consume a queue and don't."""
    for host, seen in fleet.hosts.items():
        if seen["supervisor"]:
            yield Finding(
                host,
                seen["supervisor"],
                "Nobody starts its workers again when they end",
                "systemctl status supervisor and /var/log/supervisor/supervisord.log there",
            )
        for stray in seen["strays"]:
            yield Finding(
                f"{stray['program']} on {host}",
                f"its process {stray['pid']} belongs to no Supervisor, since one was killed",
                "It works beside the program's own process, with as much memory and concurrency again",
                f"kill -TERM {stray['pid']} there: it ends its tasks, and takes no more",
            )
    if "consumed" not in fleet.asked:
        return
    for host, program, nodes in fleet.programs():
        found = {queue for node in nodes for queue in fleet.asked["consumed"].get(node, ())}
        if missing := sorted(set(program["queues"]) - found):
            answers = any(node in fleet.asked["consumed"] for node in nodes)
            states = {each["name"]: each["state"] for each in fleet.hosts[host]["programs"]}
            there = ", ".join(states[slot["name"]] for slot in program["slots"] if slot["name"] in states)
            yield Finding(
                f"{program['name']} on {host}",
                f"it does not consume {', '.join(missing)}"
                if answers
                else f"it does not answer; Supervisor says: {there or 'there is none'}",
                "Tasks wait for the other hosts, if there are any",
                "See the end of its log, and journalctl -u of the watchdog; then playbooks/restart.yml",
            )


def versions(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Versions with bugs that lose or stop tasks."""
    for bug in KNOWN_BUGS:
        for version, hosts in _installed(fleet, bug.part).items():
            if bug.broker in ("", fleet.plan["broker"]["kind"]) and number(bug.first) <= number(version) < number(
                bug.mended
            ):
                yield Finding(
                    ", ".join(hosts),
                    f"{bug.part} {version} has a known bug",
                    bug.what,
                    f"Lock {bug.part} {bug.mended} or later in the application, and release it. See {bug.source}",
                )


def _installed(fleet: Fleet, part: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for host, seen in fleet.hosts.items():
        if part in seen["versions"]:
            found.setdefault(seen["versions"][part], []).append(host)
    return found


def number(version: str) -> tuple[int, ...]:
    """Return a version's release number, to compare; (5, 4) is (5, 4, 0)."""
    parts = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


#: In the order in which one would look.
CHECKS: Mapping[str, Callable[[Fleet, Limits], Iterator[Finding]]] = {
    "hosts": reached,
    "processes that were killed": killed,
    "the broker": broker,
    "tasks that workers know": discovered,
    "what waits": depth,
    "tasks past their limits": overdue,
    "clocks": clocks,
    "disks": disks,
    "releases": releases,
    "consumers": consumers,
    "versions": versions,
}


def examine(fleet: Fleet, limits: Limits | None = None) -> dict[str, list[Finding]]:
    """Return what each check found, in their order."""
    return {name: list(check(fleet, limits or Limits())) for name, check in CHECKS.items()}


def notes(fleet: Fleet) -> list[str]:
    """Return what the checks of the releases found that is no fault, each once: settings that differ, and the like."""
    return sorted({note for seen in fleet.hosts.values() for note in seen.get("findings", ())})


def report(found: Mapping[str, Sequence[Finding]], noted: Sequence[str] = ()) -> list[str]:
    """Return lines for people: each check, with what it found, and at the end how much that is.

    Args:
        noted: what is no fault.
    """
    lines = []
    for check, findings in found.items():
        lines.append(f"{check}: {'ok' if not findings else ''}".rstrip())
        for finding in findings:
            lines += [f"  - {finding.where}: {finding.what}", f"    {finding.meaning}.", f"    {finding.action}."]
    if noted:
        lines += ["what the check of the release found, no fault:", *(f"  - {note}" for note in noted)]
    return [*lines, count(found)]


def count(found: Mapping[str, Sequence[Finding]]) -> str:
    """Return how much was found."""
    total = sum(map(len, found.values()))
    return f"{total} finding{'' if total == 1 else 's'}" if total else "No findings"


def as_values(found: Mapping[str, Sequence[Finding]]) -> dict[str, list[dict[str, str]]]:
    """Return what was found as plain values, for programs."""
    return {check: [asdict(finding) for finding in findings] for check, findings in found.items()}
