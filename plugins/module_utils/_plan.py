"""The plan: programs, settings and memory budgets, from the declaration and the facts of the hosts.

Pure: no file, no network, no clock. Sizes are bytes, times are seconds unless a name says otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._alerts import read_alerts, read_certificates, runbook_base
from ansible_collections.fleet.celery.plugins.module_utils._broker_plan import (
    Senders,
    broker_flavor,
    broker_host,
    broker_port,
    check_disk,
    given_memory,
    listen_addresses,
    max_queues,
    maxclients,
    memory_limit,
    need_of,
    reached_at,
    web_processes,
)
from ansible_collections.fleet.celery.plugins.module_utils._brokers import BROKERS, Demand
from ansible_collections.fleet.celery.plugins.module_utils._declaration import (
    CHILD_ROOM,
    Declaration,
    Queue,
    Worker,
    read_declaration,
    soft_limit_below,
)
from ansible_collections.fleet.celery.plugins.module_utils._hooks import read_hooks
from ansible_collections.fleet.celery.plugins.module_utils._hosts import (
    Host,
    check_identities,
    check_passwords,
    check_platforms,
    read_hosts,
)
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.module_utils._reserved import check_app_name, check_queue_names
from ansible_collections.fleet.celery.plugins.module_utils._settings import Setting, celery_settings
from ansible_collections.fleet.celery.plugins.module_utils._sizing import SHARE, Need
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, format_size
from ansible_collections.fleet.celery.plugins.module_utils._variables import unknown_variables

# Seconds between the time limit of the longest task and Supervisor's SIGKILL.
STOP_MARGIN = 60
# Seconds between the stop of the last program and systemd's SIGKILL for Supervisor.
SUPERVISOR_STOP_MARGIN = 30

# Resident memory in bytes, measured with the example on Debian 12 and 13 by bench/memory.py and rounded up.
THREAD = 2 * MIB
GREEN_THREAD = MIB // 4
BEAT = 80 * MIB
FLOWER = 256 * MIB
# Prometheus with a month of a fleet of 70 queues, and Alertmanager.
MONITOR = 512 * MIB
HOST_RESERVE = 128 * MIB

# Settings that celery_settings must not contain, because the plan sets them, and the variables to set instead.
_DERIVED_SETTINGS = {
    "task_queues": "celery_queues",
    "task_routes": "tasks of celery_queues",
    "task_default_queue": "celery_default_queue",
    "task_time_limit": "time_limit of celery_queues",
    "task_soft_time_limit": "soft_time_limit of celery_queues",
    "task_queue_max_priority": "max_priority of celery_queues",
    "broker_url": "celery_broker and its address and password",
}
# Settings that celery_settings must not contain, because the broker's permissions depend on their values.
_FIXED_SETTINGS = {
    "control_exchange",
    "event_exchange",
    "event_queue_prefix",
    "task_create_missing_queues",
    "task_default_exchange",
    "task_default_exchange_type",
    "task_default_routing_key",
}
_SETTING_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PASSWORD_IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@]+@")


@dataclass(frozen=True)
class Slot:
    """A program of Supervisor, and its Celery node name."""

    name: str
    node: str


@dataclass(frozen=True)
class Program:
    """A worker on one host.

    Attributes:
        slots: one, or two for a handover, in which both run for a while.
        argv: arguments of celery, without the node name.
        memory: bytes of one of its slots.
        child_cap: bytes above which a child is replaced; 0 if its pool has no children.
    """

    name: str
    worker: str
    slots: tuple[Slot, ...]
    pool: str
    queues: tuple[str, ...]
    size: str
    argv: tuple[str, ...]
    longest_task: int
    stopwaitsecs: int
    memory: int
    concurrency: int
    environment: Mapping[str, str] = field(default_factory=dict)
    child_cap: int = 0


@dataclass(frozen=True)
class Plan:
    """The values for the roles, or the problems of the declaration."""

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    values: dict[str, Any]


def limits(worker: Worker, queues: Mapping[str, Queue]) -> tuple[int, int]:
    """Return the soft and the hard time limit of a worker in seconds: its own, or the longest of its queues."""
    consumed = [queues[name] for name in worker.queues if name in queues]
    hard = worker.time_limit or max((queue.time_limit for queue in consumed), default=Queue.time_limit)
    soft = worker.soft_time_limit or max((queue.soft_time_limit for queue in consumed), default=Queue.soft_time_limit)
    if soft >= hard:
        soft = soft_limit_below(hard)
    return soft, hard


def child_cap(worker: Worker, app_memory: int) -> int:
    """Return the bytes above which Celery replaces a child: max_memory_per_child, or app_memory plus CHILD_ROOM."""
    return worker.max_memory_per_child or app_memory + CHILD_ROOM


def worker_memory(worker: Worker, concurrency: int, app_memory: int) -> int:
    """Return the bytes that a worker may take with its largest pool: the parent, and the cap of each child.

    Celery replaces a child above its cap after its task, so the peak of a single task is not included.
    """
    if worker.memory is not None:
        return worker.memory
    if worker.pool.child_limits:
        return app_memory + concurrency * child_cap(worker, app_memory)
    return app_memory + concurrency * (GREEN_THREAD if worker.pool.green else THREAD)


def program(worker: Worker, declaration: Declaration, host: Host, *, events: bool) -> Program:
    """Return the program that runs a worker on a host.

    Args:
        events: whether it sends task events, which Flower needs.
    """
    processors = host.processors or 1
    minimum, maximum = worker.minimum, worker.maximum
    concurrency = processors if maximum is None else maximum
    soft, hard = limits(worker, {queue.name: queue for queue in declaration.queues})
    name, node = f"{declaration.app_name}-{worker.name}", worker.node_name or worker.name
    suffixes = ("-a", "-b") if worker.activation == "handover" else ("",)
    argv = [
        "worker",
        f"--queues={','.join(worker.queues)}",
        f"--pool={worker.pool.name}",
        f"--autoscale={maximum},{minimum}" if worker.autoscale else f"--concurrency={concurrency}",
        f"--prefetch-multiplier={worker.prefetch_multiplier}",
        f"--loglevel={worker.log_level}",
    ]
    if worker.pool.child_limits:
        argv += [
            f"-O{worker.optimization}",
            f"--max-memory-per-child={child_cap(worker, declaration.app_memory) // 1024}",
            f"--max-tasks-per-child={worker.max_tasks_per_child or 1000}",
        ]
    if worker.pool.hard_limit:
        argv.append(f"--time-limit={hard}")
    if worker.pool.soft_limit:
        argv.append(f"--soft-time-limit={soft}")
    if worker.pool.green:
        # Events are published with confirms. In Celery 5.7, another green thread may read the confirm from the shared
        # connection. The worker then waits for it for ever, and consumes no more tasks.
        argv.append("--without-heartbeat")
    elif events:
        argv.append("--task-events")
    # Mingle costs a second at each start and n² messages, for the clocks and revokes of other workers.
    argv += ["--without-mingle", "--without-gossip", *worker.extra_args]
    return Program(
        name=name,
        worker=worker.name,
        slots=tuple(Slot(f"{name}{suffix}", f"{node}{suffix}@%h") for suffix in suffixes),
        pool=worker.pool.name,
        queues=worker.queues,
        size=f"{minimum}-{maximum}" if worker.autoscale else str(concurrency),
        argv=tuple(argv),
        longest_task=hard,
        stopwaitsecs=worker.pool.drain_factor * hard + STOP_MARGIN,
        memory=worker_memory(worker, concurrency, declaration.app_memory),
        concurrency=concurrency,
        environment=worker.environment,
        child_cap=child_cap(worker, declaration.app_memory) if worker.pool.child_limits else 0,
    )


def longest_held(workers: tuple[Worker, ...], queues: Mapping[str, Queue]) -> int:
    """Return the seconds after which a worker acknowledges a message at the latest.

    With a prefetch multiplier of n, the last prefetched message waits for n - 1 tasks and its own.
    """
    return max((worker.prefetch_multiplier * limits(worker, queues)[1] for worker in workers), default=0)


def _longest_task(queue: str, workers: tuple[Worker, ...], queues: Mapping[str, Queue]) -> int:
    """Return the shortest time limit of a queue's workers, in seconds."""
    return min((limits(worker, queues)[1] for worker in workers if queue in worker.queues), default=0)


def place(
    declaration: Declaration,
    groups: Mapping[str, list[str]],
    hosts: Mapping[str, Host],
    problems: list[Problem],
    *,
    events: bool,
) -> dict[str, list[Program]]:
    """Return the programs of each host. A group without hosts and duplicate names are problems."""
    programs: dict[str, list[Program]] = {}
    for worker in declaration.workers:
        members = groups.get(worker.group, [])
        if worker.group and not members:
            state = "has no hosts" if worker.group in groups else "is not a group of the inventory"
            problems.append(
                Problem(
                    f"celery_workers[{worker.name}].group",
                    f"{worker.group!r} {state}",
                    f"Put a host into it, or set another group ({_known_groups(groups)})",
                )
            )
        for name in members:
            programs.setdefault(name, []).append(
                program(worker, declaration, hosts.get(name, Host(name)), events=events)
            )
    for host, placed in programs.items():
        for kind, labels in (
            ("program", [slot.name for item in placed for slot in item.slots]),
            ("node name", {slot.name: slot.node for item in placed for slot in item.slots}.values()),
        ):
            for label, count in Counter(labels).items():
                if count > 1:
                    problems.append(
                        Problem(
                            "celery_workers", f"two workers have the {kind} {label} on {host}", "Rename one of them"
                        )
                    )
    return programs


def _known_groups(names: Mapping[str, Any]) -> str:
    return "the inventory has " + ", ".join(sorted(set(names) - {"all", "ungrouped"})) if names else "it has none"


def _one_host(variable: str, group: str, groups: Mapping[str, list[str]], warnings: list[str]) -> str:
    """Return the first host of a group that must not have more than one; empty if it has none."""
    members = groups.get(group, [])
    if len(members) > 1:
        warnings.append(
            f"{variable} {group!r} has {len(members)} hosts: {members[0]} is used, because only one may run"
        )
    return members[0] if members else ""


def _budget(host: Host, programs: list[Program], extras: Mapping[str, int]) -> dict[str, Any]:
    """Return the memory budget of a host: bytes needed, bytes available, and its parts.

    Args:
        extras: bytes of the host's other services, by name.
    """
    parts = {
        item.name + (" (both slots)" if len(item.slots) > 1 else ""): len(item.slots) * item.memory for item in programs
    }
    parts |= dict(extras) | {"system": HOST_RESERVE}
    return {"needed": sum(parts.values()), "available": host.memory, "parts": parts}


def _check_budget(name: str, budget: Mapping[str, Any], broker: Need, problems: list[Problem]) -> None:
    """Refuse a memory budget that is larger than the host's memory, with the arithmetic.

    Args:
        broker: the need that the broker's part results from.
    """
    if budget["available"] is None or budget["needed"] <= budget["available"]:
        return
    parts = budget["parts"]
    terms = " + ".join(f"{label} {format_size(size)}" for label, size in parts.items())
    fixes = []
    if set(parts) - {"broker", "beat", "flower", "system"}:
        fixes.append("lower concurrency, autoscale.max or max_memory_per_child, move a worker to another group")
    if any(label.endswith("(both slots)") for label in parts):
        fixes.append("set activation: warm, because a handover runs two workers for a while")
    if "broker" in parts:
        terms += f" (messages may take {SHARE:.0%} of the broker's memory: {broker.arithmetic})"
        fixes.append("lower backlog or message_size of celery_queues")
    fixes.append("use a host with more memory")
    fix = ", or ".join(fixes)
    problems.append(
        Problem(
            f"memory of {name}",
            f"{terms} = {format_size(budget['needed'])}, but the host has {format_size(budget['available'])}",
            fix[0].upper() + fix[1:],
        )
    )


def _duties(
    programs: list[Program], *, broker: str, beat: bool, flower: bool, monitor: bool, measured: bool
) -> list[str]:
    duties = {
        broker: bool(broker),
        "app": bool(programs) or beat,
        "workers": bool(programs),
        "beat": beat,
        "flower": flower,
        "monitor": monitor,
        "measured": measured,
    }
    return [duty for duty, there in duties.items() if there]


def _flower_settings(settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return Celery's settings for Flower, which runs without the application.

    On Redis, each client returns the messages of lost workers to their queues after the visibility timeout. Flower has
    no permission to, so its timeout is ten years.
    """
    shared = {
        name: value
        for name, value in settings.items()
        if name.startswith(("broker_", "control_", "event_")) or name == "accept_content"
    }
    if kind == "redis":
        shared["broker_transport_options"] = shared["broker_transport_options"] | {"visibility_timeout": 315_360_000}
    return shared


def _route_options(queue: Queue) -> dict[str, Any]:
    """Return the options of a queue's route in task_routes. Delivery mode 1 keeps a message off the disk."""
    return {"queue": queue.name} | ({"delivery_mode": 1} if queue.transient else {})


def _check_settings(overrides: Mapping[str, Any], problems: list[Problem]) -> None:
    for name, value in sorted(overrides.items()):
        if name in _DERIVED_SETTINGS:
            problems.append(
                Problem(
                    f"celery_settings.{name}",
                    "is set by the plan",
                    f"Set {_DERIVED_SETTINGS[name]} instead",
                )
            )
        elif name in _FIXED_SETTINGS:
            what = "must keep its default, because the broker's permissions depend on it"
            problems.append(Problem(f"celery_settings.{name}", what, "Remove it"))
        elif not _SETTING_NAME.fullmatch(name):
            fix = f"Rename it to {name.lower()}" if _SETTING_NAME.fullmatch(name.lower()) else "Remove it"
            problems.append(Problem(f"celery_settings.{name}", "is not the name of a Celery setting", fix))
        if _PASSWORD_IN_URL.search(str(value)):
            what = "contains a password, and settings are in a file that every user of a host can read"
            fix = "Set it in celery_app_environment, e.g. CELERY_RESULT_BACKEND"
            problems.append(Problem(f"celery_settings.{name}", what, fix))
    options = overrides.get("broker_transport_options")
    if isinstance(options, Mapping) and "visibility_timeout" in options:
        problems.append(
            Problem(
                "celery_settings.broker_transport_options.visibility_timeout",
                "is set by the plan",
                "Set celery_visibility_timeout instead",
            )
        )
    if str(overrides.get("worker_prefetch_multiplier")) == "0":
        problems.append(
            Problem(
                "celery_settings.worker_prefetch_multiplier",
                "0 lets one worker prefetch the whole queue",
                "Set it to 1 for long tasks, 4 for short ones",
            )
        )


def _check_secrets_dir(path: str, problems: list[Problem]) -> None:
    if not path.startswith("/") or ".." in path.split("/"):
        what = f"{path!r} is not an absolute path, or contains .."
        problems.append(Problem("celery_secrets_dir", what, "Correct it, or celery_fleet_name, which is a part of it"))


def _merged(settings: Mapping[str, Setting], name: str, value: object) -> object:
    """Return a user's setting. A mapping is merged into the rendered one, so that a changed option keeps the others."""
    rendered = settings[name].value if name in settings else None
    return {**rendered, **value} if isinstance(rendered, Mapping) and isinstance(value, Mapping) else value


def _advice(declaration: Declaration, queues: Mapping[str, Queue]) -> list[str]:
    """Return warnings about declarations that work, but may surprise."""
    advice = []
    for worker in declaration.workers:
        if not worker.pool.hard_limit:
            _, hard = limits(worker, queues)
            advice.append(
                f"celery_workers[{worker.name}]: the {worker.pool.name} pool can't end a task. Its limit of {hard} s "
                "only bounds how long a stop waits"
            )
        if worker.pool.green:
            advice.append(
                f"celery_workers[{worker.name}]: a {worker.pool.name} worker sends no events, as with RabbitMQ they "
                "can block it for good. Flower shows neither the worker nor its tasks"
            )
        if worker.pool.name == "solo":
            advice.append(
                f"celery_workers[{worker.name}]: a solo worker does not answer while a task runs, so it looks dead. "
                "Use prefork with concurrency 1 instead"
            )
    return advice


def _doubled(placed: Mapping[str, list[Program]]) -> list[str]:
    """Return warnings about queues with a total concurrency of one, which is two during a handover."""
    programs = [item for each in placed.values() for item in each]
    concurrency: Counter[str] = Counter()
    for item in programs:
        concurrency.update(dict.fromkeys(item.queues, item.concurrency))
    return [
        f"celery_workers[{item.worker}]: one task of {queue} runs at a time, but two during a handover. Set "
        "activation: warm to keep it at one"
        for item in programs
        for queue in item.queues
        if len(item.slots) > 1 and concurrency[queue] == 1
    ]


def make_plan(raw: Mapping[str, Any], groups: Mapping[str, list[str]], facts: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Return the plan of a fleet.

    Args:
        raw: the declaration. Its keys are the user's variables without the prefix celery_.
        groups: the inventory's groups and their hosts.
        facts: for each host, the result of host_facts.
    """
    declaration, problems = read_declaration(raw)
    warnings: list[str] = []
    hosts = read_hosts(facts, problems)
    app = declaration.app_name
    queues = {queue.name: queue for queue in declaration.queues}
    overrides = {str(name): value for name, value in (raw.get("settings") or {}).items()}
    placed = place(declaration, groups, hosts, problems, events=bool(overrides.get("worker_send_task_events", True)))
    flavor = broker_flavor(raw, problems)
    kind = BROKERS[flavor].kind
    broker_on, broker_address = broker_host(raw, flavor, groups, hosts, problems)
    beat_host = _one_host("celery_beat_group", str(raw.get("beat_group") or "beat"), groups, warnings)
    flower_host = _one_host("celery_flower_group", str(raw.get("flower_group") or "flower"), groups, warnings)
    monitor_host = _one_host("celery_monitor_group", str(raw.get("monitor_group") or "monitor"), groups, warnings)
    _check_settings(overrides, problems)
    alerts = read_alerts(raw.get("alerts") or {}, problems)
    hooks = read_hooks(raw.get("hooks") or {}, problems)
    certificates = read_certificates(raw.get("certificates") or [], problems)
    warnings += _advice(declaration, queues) + _doubled(placed)

    producers = list(groups.get(str(raw.get("producer_group") or "producers"), ()))
    names = [name for name in dict.fromkeys([broker_on.name, *placed, beat_host, flower_host, monitor_host]) if name]
    used = [hosts[name] for name in dict.fromkeys([*names, *producers]) if name in hosts]
    check_platforms(used, problems, untested=bool(raw.get("untested_platforms")))
    check_identities(used, placed, problems)
    check_passwords(used, {"broker": broker_on.name, "monitor": monitor_host}, problems)
    check_app_name(app, {host.login for host in used}, problems)
    warnings += unknown_variables({name for host in used for name in host.variables}, problems)
    _check_secrets_dir(str(raw.get("secrets_dir") or "/"), problems)
    demand = Demand(app, declaration.queues, longest_held(declaration.workers, queues), raw)
    broker = {
        "kind": kind,
        "flavor": flavor,
        "host": broker_on.name,
        "listen_addresses": (listening := listen_addresses(raw, broker_on, [*names, *producers], problems, warnings)),
        "address": reached_at(raw, broker_address, listening),
        "port": broker_port(raw, BROKERS[flavor].port, problems),
        "user": app,
        "producer": f"{app}-producer" if producers else "",
        "flower": f"{app}-flower" if flower_host else "",
        "metrics_address": str(raw.get("broker_metrics_address") or "")
        or (broker_on.address if monitor_host not in ("", broker_on.name) else "127.0.0.1"),
    } | BROKERS[flavor].values(demand, problems, warnings)
    check_queue_names(queues, kind, str(broker.get("dead_letter_queue") or ""), problems)
    settings = celery_settings(broker=broker, app_name=app, default_queue=declaration.default_queue)
    merged = {name: _merged(settings, name, value) for name, value in overrides.items()}
    all_settings = {name: item.value for name, item in settings.items()} | merged

    need = need_of(
        flavor,
        demand,
        [item.concurrency for programs in placed.values() for item in programs],
        Senders(web_processes(raw, problems), len({*placed, beat_host, flower_host} - {""}) + 1),
        all_settings,
    )
    check_disk(broker_on, need, problems)
    granted = given_memory(raw, need, problems)
    fleet_hosts: dict[str, Any] = {}
    for name in names:
        programs = placed.get(name, [])
        extras = {
            label: size
            for label, size, there in (
                ("broker", granted or need.host_memory, name == broker_on.name),
                ("beat", BEAT, name == beat_host),
                ("flower", FLOWER, name == flower_host),
                ("monitor", MONITOR, name == monitor_host),
            )
            if there
        }
        fleet_hosts[name] = {
            "address": hosts[name].address if name in hosts else "",
            "programs": [asdict(item) for item in programs],
            "duties": _duties(
                programs,
                broker=kind if name == broker_on.name else "",
                beat=name == beat_host,
                flower=name == flower_host,
                monitor=name == monitor_host,
                measured=bool(monitor_host),
            ),
            "stop_timeout": max((item.stopwaitsecs for item in programs), default=STOP_MARGIN) + SUPERVISOR_STOP_MARGIN,
            "memory": _budget(hosts.get(name, Host(name)), programs, extras),
        }
        _check_budget(name, fleet_hosts[name]["memory"], need, problems)
        if fleet_hosts[name]["memory"]["available"] is None:
            warnings.append(
                f"the memory of {name} is not known, so its budget is not checked. Set celery_host_memory there"
            )
    left = None
    if broker_on.name and broker_on.memory is not None:
        parts = fleet_hosts[broker_on.name]["memory"]["parts"]
        left = broker_on.memory - sum(size for label, size in parts.items() if label != "broker")
    broker |= {
        "memory": memory_limit(granted, need, left),
        "memory_needed": need.memory,
        "arithmetic": need.arithmetic,
        "disk_needed": need.disk,
        "connections": need.connections,
        "maxclients": maxclients(need),
    } | ({"max_queues": max_queues(len(queues), need)} if kind == "rabbitmq" else {})
    values: dict[str, Any] = {
        "app": {
            "name": app,
            "user": app,
            "module": declaration.app_module,
            "memory": declaration.app_memory,
            "root": f"/srv/{app}",
            "config_dir": f"/etc/{app}",
            "state_dir": f"/var/lib/{app}",
            "log_dir": f"/var/log/{app}",
        },
        "broker": broker,
        "settings": {name: asdict(item) for name, item in settings.items()}
        | {name: asdict(Setting(value, "set in celery_settings", declared=True)) for name, value in merged.items()},
        "flower_settings": _flower_settings(all_settings, kind),
        "queues": [
            BROKERS[flavor].queue(app, queue) | {"longest_task": _longest_task(queue.name, declaration.workers, queues)}
            for queue in declaration.queues
        ],
        "routes": [
            {"pattern": pattern, "queue": queue.name, "options": _route_options(queue)}
            for queue in declaration.queues
            for pattern in queue.tasks
        ],
        "default_queue": declaration.default_queue,
        "thresholds": {queue.name: asdict(queue.alerts) for queue in declaration.queues},
        "alerts": alerts,
        "runbook_base": runbook_base(raw.get("docs_url"), problems),
        "certificates": certificates,
        "hooks": hooks,
        "longest_task": max((limits(worker, queues)[1] for worker in declaration.workers), default=Queue.time_limit),
        "hosts": fleet_hosts,
        "beat_host": beat_host,
        "flower_host": flower_host,
        "flower_control": bool(raw.get("flower_control")),
        "monitor_host": monitor_host,
        "producers": producers,
        "secrets_dir": str(raw.get("secrets_dir") or ""),
    }
    return Plan(tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(warnings)), values)
