"""The doctor's checks, which turn the symptoms of all hosts into findings.

Pure: symptoms go in, findings come out. Each finding has its meaning for tasks and the action that fixes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._tls import certificate_fix

#: Seconds beyond its time limit after which a task is overdue. A pool needs some to end it, and hosts' clocks differ.
GRACE = 10
# Of a queue, before the average of their run times says something.
ENOUGH_TASKS = 100
# How many times the declared duration they may take.
MUCH_LONGER = 4


@dataclass(frozen=True)
class KnownBug:
    """A bug of a package that loses or blocks tasks.

    Attributes:
        part: the package's name on the Python Package Index.
        first: the first version with the bug.
        fixed_in: the first version without it.
        broker: the kind of broker that it affects; empty: any.
        what: its effect on tasks.
        source: the issue, or the pull request that fixed it.
    """

    part: str
    first: str
    fixed_in: str
    broker: str
    what: str
    source: str


KNOWN_BUGS: Sequence[KnownBug] = (
    KnownBug(
        "kombu",
        "5.0",
        "5.3.3",
        "redis",
        "A task that is requeued may be lost",
        "https://github.com/celery/kombu/issues/1800",
    ),
    KnownBug(
        "kombu",
        "5.2.3",
        "5.4",
        "redis",
        "A worker may consume no more tasks after it lost its connection to Redis",
        "https://github.com/celery/celery/issues/8030",
    ),
    KnownBug(
        "kombu",
        "5.4",
        "5.7",
        "redis",
        "A worker may answer pings but consume no more tasks after it lost its connection to Redis",
        "https://github.com/celery/kombu/pull/2492",
    ),
    KnownBug(
        "kombu",
        "5.6",
        "5.7",
        "redis",
        "A restart of Redis may crash a worker by a KeyError, with its in-flight tasks",
        "https://github.com/celery/kombu/issues/2582",
    ),
    KnownBug(
        "celery",
        "4.0",
        "5.5",
        "",
        "The children of a prefork worker may hang on a pipe. It consumes tasks and runs none",
        "https://github.com/celery/celery/issues/4185",
    ),
    KnownBug(
        "celery",
        "4.0",
        "5.6.1",
        "rabbitmq",
        "A worker sends no heartbeats during a warm shutdown. RabbitMQ redelivers long tasks, which then run twice",
        "https://github.com/celery/celery/issues/5998",
    ),
    KnownBug(
        "celery",
        "5.3",
        "5.7",
        "rabbitmq",
        "After it lost its connection to RabbitMQ, a worker runs fewer tasks at once than its concurrency, for good",
        "https://github.com/celery/celery/issues/9512",
    ),
    KnownBug(
        "celery",
        "5.5",
        "5.6.3",
        "rabbitmq",
        "RabbitMQ before 4.0.1 drops a task that is retried with a delay, because it takes the second delay for a loop",
        "https://github.com/celery/celery/issues/9867",
    ),
    KnownBug(
        "celery",
        "5.6.1",
        "5.6.3",
        "redis",
        "A worker may fail to reconnect to Redis, and its tasks look active for ever",
        "https://github.com/celery/celery/issues/10096",
    ),
    KnownBug(
        "billiard",
        "4.0",
        "4.3",
        "",
        "A task that raises MemoryError is never acknowledged, and blocks a process of the worker for good",
        "https://github.com/celery/celery/issues/10462",
    ),
)


@dataclass(frozen=True)
class Limits:
    """Thresholds of the checks. Those of queues are in the plan.

    Attributes:
        skew: largest difference between a host's clock and the controller's, in seconds.
        disk: smallest share of a file system that must be free, in percent.
        hours: hours of logs that were searched for killed processes.
    """

    skew: float = 2.0
    disk: float = 10.0
    hours: int = 24


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        where: the host, queue, worker or broker.
        what: what was observed.
        meaning: its effect on tasks.
        action: how to fix it.
    """

    where: str
    what: str
    meaning: str
    action: str


@dataclass(frozen=True)
class Fleet:
    """All observations.

    Attributes:
        plan: the plan of the role celery.
        hosts: for each host, its symptoms, as celery_doctor_info returns them.
        unreachable: hosts without symptoms.
        runtime: digest of the collection's runtime package; empty if it is not known.
    """

    plan: Mapping[str, Any]
    hosts: Mapping[str, Mapping[str, Any]]
    unreachable: Sequence[str] = ()
    runtime: str = ""

    @property
    def querying_host(self) -> str:
        """Return the host that queried the broker and the workers; empty if none did."""
        return next((host for host, symptoms in self.hosts.items() if symptoms["asked"]), "")

    @property
    def answers(self) -> Mapping[str, Any]:
        """Return the answers of the broker and the workers."""
        return self.hosts[self.querying_host]["asked"] if self.querying_host else {}

    def runs(self, queue: str) -> tuple[float, int]:
        """Return the seconds that a queue's tasks ran in total, and their number."""
        runs = [symptoms["runs"].get(queue, (0.0, 0)) for symptoms in self.hosts.values()]
        return sum(seconds for seconds, _ in runs), sum(ended for _, ended in runs)

    def programs(self) -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
        """Yield each worker of hosts that are not drained: host, program, and the node names that it may have."""
        for host, symptoms in self.hosts.items():
            for program in self.plan["hosts"][host]["programs"] if not symptoms["drained"] else ():
                yield host, program, [slot["node"].replace("%h", symptoms["nodename"]) for slot in program["slots"]]


def unreachable_hosts(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield the hosts without symptoms."""
    for host in fleet.unreachable:
        yield Finding(
            host,
            "could not be examined, for the reason that Ansible gives above",
            "The state of its workers is not known, unless they answer through the broker",
            "Check that the host is up. If it is gone for good, remove it from the inventory and run site.yml",
        )


def killed_processes(fleet: Fleet, limits: Limits) -> Iterator[Finding]:
    """Yield workers and child processes that were killed by SIGKILL."""
    redis = fleet.plan["broker"]["kind"] == "redis"
    meaning = (
        "Their in-flight tasks are redelivered after the visibility timeout"
        if redis
        else "Their in-flight tasks were redelivered, and ran again"
    )
    sweep = ". playbooks/sweep.yml redelivers their tasks now" if redis else ""
    for host, symptoms in fleet.hosts.items():
        if lines := symptoms["oom"]:
            yield Finding(
                host,
                f"the kernel ran out of memory and killed {len(lines)} processes, the last one: {lines[-1]}",
                meaning,
                f"Lower max_memory_per_child or concurrency of its workers, or add memory{sweep}",
            )
        for (program, what), times in _grouped(symptoms["killed"], "program", "what").items():
            last = datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            yield Finding(
                f"{program} on {host}",
                f"{what} was killed by SIGKILL {len(times)} times in the last {limits.hours} hours, last at {last}",
                meaning,
                f"docs/alerts.md#celerytaskskilled lists the causes{sweep}",
            )


def _grouped(kills: Sequence[Mapping[str, Any]], *names: str) -> dict[tuple[str, ...], list[float]]:
    times: dict[tuple[str, ...], list[float]] = {}
    for each in kills:
        times.setdefault(tuple(each[name] for name in names), []).append(each["at"])
    return times


def broker_state(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield why the broker is unreachable or accepts no messages."""
    planned = fleet.plan["broker"]
    where = f"{planned['flavor']} on {planned['host'] or planned['address']}"
    hosts = (*fleet.hosts, *fleet.unreachable)
    if not fleet.answers and any("app" in fleet.plan["hosts"][host]["duties"] for host in hosts):
        yield Finding(
            where,
            "no host with the application could query it",
            "Queue depths, consumers and in-flight tasks are not known",
            "Fix the findings above first",
        )
    if error := fleet.answers.get("error"):
        yield Finding(
            where,
            f"{fleet.querying_host} can't query it: {error}",
            "No task is sent or started on that host",
            certificate_fix(error)
            or f"Check that its service is up, and that {planned['address']}:{planned['port']} is reachable from "
            f"{fleet.querying_host}",
        )
    cut_off = {host: each["unreachable_broker"] for host, each in fleet.hosts.items() if each.get("unreachable_broker")}
    apps = [host for host in fleet.hosts if "app" in fleet.plan["hosts"][host]["duties"]]
    # If no host reaches it, the findings about the broker itself say so.
    for host, error in cut_off.items() if len(cut_off) < len(apps) else ():
        if not (host == fleet.querying_host and fleet.answers.get("error")):
            yield Finding(
                where,
                f"{host} can't connect to {planned['address']}:{planned['port']}: {error}",
                "Workers of that host receive no tasks",
                certificate_fix(error)
                or "Check routes, firewalls and name resolution from there. Workers reconnect by themselves",
            )
    if error := fleet.answers.get("workers_error"):
        yield Finding(
            where,
            f"workers can't be queried through it: {error}",
            "It accepts no messages, and so no tasks",
            "Fix its alarms. If it has none, restart it; tasks in durable queues are kept",
        )
    for host in planned["members"]:
        yield from _broker_host(fleet, host)


def _broker_host(fleet: Fleet, host: str) -> Iterator[Finding]:
    """Yield what is wrong with one of the broker's hosts."""
    planned = fleet.plan["broker"]
    members: Mapping[str, Mapping[str, Any]] = planned["members"]
    where = f"{planned['flavor']} on {host}"
    state = fleet.hosts.get(host, {}).get("broker", {})
    if state.get("error"):
        yield Finding(
            where,
            f"does not answer on its own host: {state['error']}",
            "No task is sent or started"
            if len(members) == 1
            else "Tasks are sent and run while most of the broker's hosts do. The failure of another one may stop them",
            "Run systemctl status and journalctl -u on its service there",
        )
    for alarm in state.get("alarms", []):
        # Each node has those of the others, too.
        if len(members) == 1 or not any(
            member["node_host"] and member["node_host"] in alarm for name, member in members.items() if name != host
        ):
            yield Finding(
                where,
                alarm,
                "It blocks senders, or will soon. They wait or fail",
                "See docs/alerts.md#celerybrokermemory and the two sections below it",
            )
    answering = [name for name in members if "running" in fleet.hosts.get(name, {}).get("broker", {})]
    missed = [name for name in answering if f"rabbit@{members[name]['node_host']}" not in state.get("running", [])]
    if host in answering and len(members) > 1 and missed:
        yield Finding(
            where,
            f"is not in one cluster with {', '.join(missed)}, which runs",
            "The nodes may hold different queues and users. Clients that are connected to one of them fail",
            f"Restart one after another: playbooks/broker_restart.yml --limit {missed[0]}",
        )


def replication(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield what several servers of Redis lack for a fail-over."""
    planned = fleet.plan["broker"]
    if not planned.get("sentinel"):
        return
    name, action = f"{planned['flavor']} on {{}}".format, "See docs/alerts.md#celeryredisreplicas"
    states = {host: fleet.hosts.get(host, {}).get("broker", {}) for host in planned["members"]}
    known = {host: state["replication"] for host, state in states.items() if "replication" in state}
    primaries = [host for host, state in known.items() if state["role"] == "master"]
    if known and len(primaries) != 1:
        yield Finding(
            planned["flavor"],
            f"{' and '.join(primaries) or 'no server'} {'are primaries' if primaries else 'is the primary'}",
            "Without a primary, no task is sent or started. Of two, the one without a replica refuses tasks",
            "See docs/alerts.md#celeryredisprimaries",
        )
    for host, state in known.items():
        lacking = len(planned["members"]) - 1 - state["replicas"]
        if state["role"] == "master" and lacking > 0:
            what = f"has {state['replicas']} replicas, {lacking} less than planned"
            yield Finding(name(host), what, "Without any, tasks are refused", action)
        if state["role"] != "master" and state["link"] != "up":
            what = "does not receive the primary's data"
            yield Finding(name(host), what, "It can't take over, or would lose tasks", action)
        if state["sentinel"]:
            what = f"its Sentinel can't fail over: {state['sentinel']}"
            action_here = f"Run systemctl status {planned['flavor']}-sentinel on the broker's hosts"
            yield Finding(name(host), what, "If the primary fails, no other takes over", action_here)


def unregistered_tasks(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield the workers that lack tasks of their release."""
    registered = fleet.answers.get("registered", {})
    for host, _program, nodes in fleet.programs():
        for node in nodes:
            if node in registered and (missing := sorted(set(fleet.hosts[host]["tasks"]) - set(registered[node]))):
                yield Finding(
                    node,
                    f"has not registered {', '.join(missing)}",
                    "The worker discards messages of these tasks",
                    "Run playbooks/restart.yml. If that does not help, add their modules to the application's include=",
                )


def deep_queues(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield the queues above their thresholds: the depth, or the time in which all their workers would drain them."""
    for queue, waiting in fleet.answers.get("depths", {}).items():
        thresholds = fleet.plan["thresholds"].get(queue, {"depth": 0, "drain_time": 0})
        concurrency = sum(program["concurrency"] for _, program, _ in fleet.programs() if queue in program["queues"])
        seconds, ended = fleet.runs(queue)
        drain = waiting * seconds / ended / concurrency if ended and concurrency else 0.0
        deep, slow = 0 < thresholds["depth"] < waiting, 0 < thresholds["drain_time"] < drain
        if deep or slow:
            threshold = (
                f"alerts.depth is {thresholds['depth']}" if deep else f"drain_time is {thresholds['drain_time']} s"
            )
            pace = f", {drain:.0f} s of work at a concurrency of {concurrency}" if drain else ""
            yield Finding(
                f"queue {queue}",
                f"{waiting} tasks are queued{pace}; its {threshold}",
                "New tasks start late, and the broker fills up",
                "Raise the concurrency of its workers, or add a host to their group, and run site.yml. "
                "Or find what sends so many tasks",
            )


def long_tasks(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield the queues whose tasks take much longer than their declared duration."""
    for queue, declared in fleet.plan["durations"].items():
        seconds, ended = fleet.runs(queue)
        if ended >= ENOUGH_TASKS and seconds / ended > MUCH_LONGER * declared:
            yield Finding(
                f"queue {queue}",
                f"its {ended} tasks took {seconds / ended:.2g} s on average, but its duration is {declared:g} s",
                "Its workers reserve too many tasks, which wait behind others although another worker may be idle",
                f"Set duration: {seconds / ended:.2g}s in celery_queues, and run site.yml",
            )


def overdue_tasks(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield the tasks that run longer than the inventory's time limit."""
    for host, program, nodes in fleet.programs():
        limit = program["longest_task"]
        for task in (task for node in nodes for task in fleet.answers.get("active", {}).get(node, [])):
            if task["seconds"] > limit + GRACE:
                yield Finding(
                    f"{program['name']} on {host}",
                    f"{task['name']} ({task['id']}) has run for {task['seconds']:.0f} s, its time limit is {limit} s",
                    "It blocks one process of its pool. The pool can't end it (prefork and gevent can), it was sent "
                    "with a time_limit of its own, or its worker runs with an older limit than the inventory's",
                    "Run site.yml to apply the inventory's limits. A restart waits for the task, "
                    "playbooks/drain.yml with a deadline does not",
                )


def clock_error(sent: float, began: float, ended: float, received: float) -> tuple[float, float]:
    """Return the least and the most that a host's clock may be ahead of the controller's, in seconds.

    The module began after the controller sent it, and ended before the controller received its result. So the bounds
    differ by the time for connecting, copying and answering, mostly less than two seconds.

    Args:
        sent: the controller's clock before the module was sent.
        began: the host's clock when the module began.
        ended: the host's clock when the module ended.
        received: the controller's clock when the result was there.
    """
    return ended - received, began - sent


def clock_skew(fleet: Fleet, limits: Limits) -> Iterator[Finding]:
    """Yield the hosts whose clocks differ by more than the limit, however long the connection took."""
    for host, symptoms in fleet.hosts.items():
        least, most = clock_error(*symptoms["clock"])
        error = max(0.0, least) or min(0.0, most)
        if abs(error) > limits.skew:
            yield Finding(
                host,
                f"its clock is at least {abs(error):.1f} s {'ahead of' if error > 0 else 'behind'} the controller's",
                "Tasks with an eta start at the wrong time there, and measured durations are wrong by that",
                "Compare timedatectl on both. Install systemd-timesyncd or chrony where neither is running",
            )


def full_disks(fleet: Fleet, limits: Limits) -> Iterator[Finding]:
    """Yield the file systems that are nearly full."""
    for host, symptoms in fleet.hosts.items():
        for name, free in symptoms["free_percent"].items():
            if free < limits.disk:
                yield Finding(
                    host,
                    f"{name} has {free:g}% free, the threshold is {limits.disk:g}%",
                    "On a full disk, logs, releases and, on the broker, messages can't be written",
                    "du -xh --max-depth=2 shows the largest directories. Free space, or enlarge the disk",
                )


def mixed_releases(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield hosts that differ in their release, and programs that differ from their host's."""
    hosts_on: dict[str, list[str]] = {}
    for host, symptoms in fleet.hosts.items():
        if symptoms["current"]:
            hosts_on.setdefault(symptoms["current"], []).append(host)
    if len(hosts_on) > 1:
        each = "; ".join(f"{release}: {', '.join(sorted(hosts))}" for release, hosts in sorted(hosts_on.items()))
        yield Finding(
            "the fleet",
            f"hosts are on {len(hosts_on)} releases ({each})",
            "A task that only one release has is discarded by workers of the other",
            "playbooks/deploy.yml completes the rollout, playbooks/rollback.yml reverts it",
        )
    for host, symptoms in fleet.hosts.items():
        for program in symptoms["programs"]:
            if program["state"] == "RUNNING" and program["release"] not in ("", symptoms["current"]):
                yield Finding(
                    f"{program['name']} on {host}",
                    f"runs {program['release']}, but the host is on {symptoms['current']}",
                    "It was not restarted after the activation, and discards new tasks",
                    f"Run playbooks/restart.yml --limit {host}",
                )


def other_runtime(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield hosts whose runtime package is not the collection's."""
    for host, symptoms in fleet.hosts.items():
        if fleet.runtime and "app" in fleet.plan["hosts"][host]["duties"] and symptoms["runtime"] != fleet.runtime:
            yield Finding(
                host,
                "has files of another version of the collection",
                "Its workers may write reports that this version reads in another way",
                "Run site.yml, which restarts its workers warm",
            )


def missing_consumers(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield workers that do not consume their queues, orphaned workers, and a Supervisor that is down."""
    for host, symptoms in fleet.hosts.items():
        if symptoms["supervisor"]:
            yield Finding(
                host,
                symptoms["supervisor"],
                "Its workers are not restarted when they exit",
                "Check systemctl status supervisor and /var/log/supervisor/supervisord.log there",
            )
        for stray in symptoms["strays"]:
            yield Finding(
                f"{stray['program']} on {host}",
                f"process {stray['pid']} outlived its Supervisor, which was killed",
                "It runs beside the program's own process, and doubles its memory and concurrency",
                f"Run kill -TERM {stray['pid']} there. It takes no more tasks, and exits once its own have ended",
            )
    planned = fleet.plan["broker"]
    broker = fleet.hosts.get(planned["host"], {}).get("broker", {})
    # The heart of a gevent worker goes on beating without a broker.
    nobody_is_connected = not any(_connected(symptoms) for symptoms in fleet.hosts.values())
    broker_is_down = bool(broker.get("error")) or (nobody_is_connected and "error" in fleet.answers)
    for host, program, nodes in fleet.programs():
        slots = {slot["name"]: node for slot, node in zip(program["slots"], nodes, strict=True)}
        running = {each["name"]: each for each in fleet.hosts[host]["programs"] if each["name"] in slots}
        if lack := _lack_of(program, slots, running, fleet.answers.get("consumed")):
            if broker_is_down and lack.explained_by_broker:
                continue
            yield Finding(
                f"{program['name']} on {host}",
                lack.what,
                "Only other hosts, if any, consume its queues",
                f"Check that {planned['address']}:{planned['port']} is reachable from {host}. The worker reconnects by "
                "itself"
                if lack.disconnected
                else "Read the end of its log, and journalctl -u of the watchdog. Then run playbooks/restart.yml",
            )


@dataclass(frozen=True)
class _Lack:
    """What a worker lacks to consume its queues.

    Attributes:
        disconnected: whether it has no connection to the broker.
        explained_by_broker: whether a broker that is down explains it. A gevent worker stands still while it connects
            again.
    """

    what: str
    disconnected: bool = False
    explained_by_broker: bool = False


def _connected(symptoms: Mapping[str, Any]) -> bool:
    """Return whether a worker of a host is connected to the broker, by its heartbeat."""
    return any((each.get("heartbeat") or {}).get("fresh") for each in symptoms["programs"])


def _lack_of(
    program: Mapping[str, Any],
    slots: Mapping[str, str],
    running: Mapping[str, Mapping[str, Any]],
    answers: Mapping[str, Sequence[str]] | None,
) -> _Lack | None:
    """Return what a worker lacks to consume its queues; None if nothing.

    Args:
        slots: the node name of each of its programs.
        running: those of its programs that Supervisor has, with their heartbeats.
        answers: queues of each node that answered by remote control, for programs without a heartbeat; None: nobody
            could be queried.
    """
    heartbeats = {name: each["heartbeat"] for name, each in running.items() if each.get("heartbeat")}
    consumed = {name: heartbeat["queues"] for name, heartbeat in heartbeats.items() if heartbeat["fresh"]}
    for name, node in slots.items():
        if name not in heartbeats and node in (answers or {}):
            consumed[name] = (answers or {})[node]
    if missing := sorted(set(program["queues"]).difference(*consumed.values())):
        if consumed:
            return _Lack(f"does not consume {', '.join(missing)}")
        if heartbeats:
            heartbeat = min(heartbeats.values(), key=lambda each: each["age"])
            lost = not heartbeat["connected"]
            what = "has had no connection to the broker" if lost else "has not turned its event loop"
            return _Lack(f"{what} for {heartbeat['age']} s", disconnected=lost, explained_by_broker=True)
        states = [running[name]["state"] for name in slots if name in running]
        # A worker that runs without a heartbeat may well work if nobody could be queried.
        if answers is not None or not set(states) & {"STARTING", "RUNNING"}:
            return _Lack(f"does not answer; its state in Supervisor: {', '.join(states) or 'not configured'}")
    return None


def known_bugs(fleet: Fleet, _: Limits) -> Iterator[Finding]:
    """Yield installed versions with known bugs that affect this broker."""
    for bug in KNOWN_BUGS:
        for version, hosts in _installed(fleet, bug.part).items():
            affected = parse_version(bug.first) <= parse_version(version) < parse_version(bug.fixed_in)
            if affected and bug.broker in ("", fleet.plan["broker"]["kind"]):
                yield Finding(
                    ", ".join(hosts),
                    f"{bug.part} {version} has a known bug",
                    bug.what,
                    f"Lock {bug.part} {bug.fixed_in} or later in the application, and release it. See {bug.source}",
                )


def _installed(fleet: Fleet, part: str) -> dict[str, list[str]]:
    hosts_with: dict[str, list[str]] = {}
    for host, symptoms in fleet.hosts.items():
        if part in symptoms["versions"]:
            hosts_with.setdefault(symptoms["versions"][part], []).append(host)
    return hosts_with


def parse_version(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparison, without trailing zeros: (5, 4) for 5.4.0rc1."""
    parts = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


#: In the order in which an engineer would check. The names are keys of the JSON report.
CHECKS: Mapping[str, Callable[[Fleet, Limits], Iterator[Finding]]] = {
    "hosts": unreachable_hosts,
    "processes that were killed": killed_processes,
    "the broker": broker_state,
    "the broker's replicas": replication,
    "tasks that workers know": unregistered_tasks,
    "what waits": deep_queues,
    "tasks that take longer": long_tasks,
    "tasks past their limits": overdue_tasks,
    "clocks": clock_skew,
    "disks": full_disks,
    "releases": mixed_releases,
    "the collection": other_runtime,
    "consumers": missing_consumers,
    "versions": known_bugs,
}


def examine(fleet: Fleet, limits: Limits | None = None) -> dict[str, list[Finding]]:
    """Return the findings of each check, in the order of the checks."""
    return {name: list(check(fleet, limits or Limits())) for name, check in CHECKS.items()}


def notes(fleet: Fleet) -> list[str]:
    """Return the remarks of the releases' own checks that are no findings, such as settings that differ, each once."""
    return sorted({note for symptoms in fleet.hosts.values() for note in symptoms.get("findings", ())})


def report(checks: Mapping[str, Sequence[Finding]], remarks: Sequence[str] = ()) -> list[str]:
    """Return lines for people: each check with its findings, the remarks, and the number of findings."""
    lines = []
    for check, findings in checks.items():
        lines.append(f"{check}: {'ok' if not findings else ''}".rstrip())
        for finding in findings:
            lines += [f"  - {finding.where}: {finding.what}", f"    {finding.meaning}.", f"    {finding.action}."]
    if remarks:
        lines += [
            "notes of the release's own check, not counted as findings:",
            *(f"  - {remark}" for remark in remarks),
        ]
    return [*lines, summary(checks)]


def summary(checks: Mapping[str, Sequence[Finding]]) -> str:
    """Return the number of findings, for people."""
    total = sum(map(len, checks.values()))
    return f"{total} finding{'' if total == 1 else 's'}" if total else "No findings"


def as_values(checks: Mapping[str, Sequence[Finding]]) -> dict[str, list[dict[str, str]]]:
    """Return the findings as plain values, for JSON."""
    return {check: [asdict(finding) for finding in findings] for check, findings in checks.items()}
