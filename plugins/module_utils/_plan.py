"""The plan: programs, settings and memory budgets, from the declaration and the facts of the hosts.

Pure: no file, no network, no clock. Sizes are bytes, times are seconds unless a name says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from pathlib import PurePath
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._access import (
    Access,
    BrokerListener,
    Clients,
    FirewallOptions,
    listening_ports,
)
from ansible_collections.fleet.celery.plugins.module_utils._broker_mark import make_mark
from ansible_collections.fleet.celery.plugins.module_utils._broker_plan import (
    broker_hosts,
    broker_listener,
    check_cluster,
    check_resources,
    limits_of,
    name_addresses,
    need_of,
    replay_cache,
)
from ansible_collections.fleet.celery.plugins.module_utils._brokers import BROKERS, Demand
from ansible_collections.fleet.celery.plugins.module_utils._declaration import (
    BACKUP_SCHEDULES,
    CHILD_ROOM,
    Declaration,
    Queue,
    Worker,
    read_declaration,
    soft_limit_below,
)
from ansible_collections.fleet.celery.plugins.module_utils._fleet_plan import (
    Application,
    Broker,
    Budget,
    FleetHost,
    FleetPlan,
    Program,
    Route,
    Slot,
    Vhost,
    as_plain,
)
from ansible_collections.fleet.celery.plugins.module_utils._hosts import (
    Host,
    check_identities,
    check_passwords,
    check_platforms,
    read_hosts,
)
from ansible_collections.fleet.celery.plugins.module_utils._interruption import interruption_advice
from ansible_collections.fleet.celery.plugins.module_utils._own_broker import (
    OwnBroker,
    check_own_broker,
    own_advice,
    own_ca,
)
from ansible_collections.fleet.celery.plugins.module_utils._platforms import platform_of
from ansible_collections.fleet.celery.plugins.module_utils._previous import (
    check_move,
    previous_access,
    previous_broker,
    previous_hosts,
)
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.module_utils._reserved import check_app_name, check_queue_names
from ansible_collections.fleet.celery.plugins.module_utils._rotation import (
    State,
    absent_users,
    passwords_of,
    read_state,
)
from ansible_collections.fleet.celery.plugins.module_utils._settings import Setting, celery_settings
from ansible_collections.fleet.celery.plugins.module_utils._signing import (
    ReplayCache,
    Signing,
    check_window,
    senders_of,
)
from ansible_collections.fleet.celery.plugins.module_utils._sizing import SHARE, Need
from ansible_collections.fleet.celery.plugins.module_utils._tls import TlsFiles
from ansible_collections.fleet.celery.plugins.module_utils._topology import DELAY_LEVELS
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, format_size
from ansible_collections.fleet.celery.plugins.module_utils._url import ANY, LOOPBACK, bracketed
from ansible_collections.fleet.celery.plugins.module_utils._variables import unknown_variables

# Seconds between the time limit of the longest task and Supervisor's SIGKILL.
STOP_MARGIN = 60
# What a slot reserves beside the task that it runs is given to no other worker: so many seconds of tasks at most.
PREFETCHED_SECONDS = 0.5
# Seconds until the last one of these is acknowledged if each task runs until its limit. A broker redelivers only then.
PREFETCHED_HELD_SECONDS = 1920
PREFETCHED_MOST = 64
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


@dataclass(frozen=True)
class Plan:
    """The plan of a fleet, and what is wrong with its declaration or may surprise."""

    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    fleet: FleetPlan

    @property
    def values(self) -> dict[str, Any]:
        """Return the plan as Ansible holds it."""
        plain: dict[str, Any] = as_plain(self.fleet)
        return plain


@dataclass(frozen=True)
class Placement:
    """What runs on which host.

    Attributes:
        programs: workers, by host.
        brokers: names of the broker's hosts.
        previous: names of the hosts of a broker that the fleet leaves.
        beat: name of its host; empty if there is none. The other names are alike.
        producers: names of hosts that only send tasks.
    """

    programs: Mapping[str, tuple[Program, ...]]
    brokers: tuple[str, ...]
    previous: tuple[str, ...]
    beat: str
    flower: str
    monitor: str
    producers: tuple[str, ...]

    @property
    def hosts(self) -> list[str]:
        """Return the names of the fleet's hosts, without producers."""
        names = [*self.brokers, *self.programs, self.beat, self.flower, self.monitor, *self.previous]
        return list(dict.fromkeys(filter(None, names)))

    @property
    def lock_hosts(self) -> tuple[str, ...]:
        """Return the names of the hosts that have the rollout lock and the state of rotations."""
        return self.brokers or tuple(filter(None, [self.monitor, *self.programs]))[:1]

    @property
    def clients(self) -> Clients:
        """Return the hosts that connect to the services of others."""
        processes = [*self.programs, self.beat, self.flower, *self.producers]
        return Clients(tuple(dict.fromkeys(filter(None, processes))), self.flower, self.monitor, tuple(self.programs))

    @property
    def monitors(self) -> int:
        """Return the number of clients that watch the broker: Flower, and the watchdog of each host."""
        return len({*self.programs, self.beat, self.flower} - {""}) + 1


def limits(worker: Worker, queues: Iterable[Queue]) -> tuple[int, int]:
    """Return the soft and the hard time limit of a worker in seconds: its own, or the longest of its queues."""
    consumed = [queue for queue in queues if queue.name in worker.queues]
    hard = worker.time_limit or max((queue.time_limit for queue in consumed), default=Queue.time_limit)
    soft = worker.soft_time_limit or max((queue.soft_time_limit for queue in consumed), default=Queue.soft_time_limit)
    if soft >= hard:
        soft = soft_limit_below(hard)
    return soft, hard


def prefetch_multiplier(worker: Worker, queues: Iterable[Queue]) -> int:
    """Return how many messages a worker reserves for each slot.

    Its own number. Or else, if the duration of all of its tasks is known, so many as run in PREFETCHED_SECONDS, and as
    may be held if each runs until its time limit.
    """
    if worker.prefetch_multiplier is not None:
        return worker.prefetch_multiplier
    durations = [queue.duration for queue in queues if queue.name in worker.queues]
    if not durations or not all(durations):
        return worker.pool.prefetch_multiplier
    most = min(int(PREFETCHED_SECONDS / max(durations)), PREFETCHED_HELD_SECONDS // limits(worker, queues)[1])
    return max(worker.pool.prefetch_multiplier, min(most, PREFETCHED_MOST))


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
    soft, hard = limits(worker, declaration.queues)
    name, node = f"{declaration.app_name}-{worker.name}", worker.node_name or worker.name
    suffixes = ("-a", "-b") if worker.activation == "handover" else ("",)
    nodename = host.nodename or "%h"
    argv = [
        "worker",
        f"--queues={','.join(worker.queues)}",
        f"--pool={worker.pool.name}",
        f"--autoscale={maximum},{minimum}" if worker.autoscale else f"--concurrency={concurrency}",
        f"--prefetch-multiplier={prefetch_multiplier(worker, declaration.queues)}",
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
        slots=tuple(Slot(f"{name}{suffix}", f"{node}{suffix}@%h", f"{node}{suffix}@{nodename}") for suffix in suffixes),
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
        cold_shutdown=not worker.pool.green,
    )


def longest_held(workers: Iterable[Worker], queues: Sequence[Queue]) -> int:
    """Return the seconds after which a worker acknowledges a message at the latest.

    With a prefetch multiplier of n, the last prefetched message waits for n - 1 tasks and its own.
    """
    return max((prefetch_multiplier(worker, queues) * limits(worker, queues)[1] for worker in workers), default=0)


def _longest_task(queue: str, workers: Iterable[Worker], queues: Sequence[Queue]) -> int:
    """Return the shortest time limit of a queue's workers, in seconds."""
    return min((limits(worker, queues)[1] for worker in workers if queue in worker.queues), default=0)


def place(
    declaration: Declaration,
    groups: Mapping[str, list[str]],
    hosts: Mapping[str, Host],
    problems: list[Problem],
    warnings: list[str],
    *,
    brokers: tuple[str, ...],
) -> Placement:
    """Return what runs where.

    Args:
        brokers: names of the broker's hosts.
    """
    return Placement(
        programs=_place_workers(declaration, groups, hosts, problems),
        brokers=brokers,
        previous=previous_hosts(declaration.broker, groups, hosts, problems),
        beat=_one_host("celery_beat_group", declaration.beat_group, groups, warnings),
        flower=_one_host("celery_flower_group", declaration.flower_group, groups, warnings),
        monitor=_one_host("celery_monitor_group", declaration.monitor_group, groups, warnings),
        producers=tuple(groups.get(declaration.producer_group, ())),
    )


def _place_workers(
    declaration: Declaration, groups: Mapping[str, list[str]], hosts: Mapping[str, Host], problems: list[Problem]
) -> dict[str, tuple[Program, ...]]:
    """Return the programs of each host. A group without hosts and duplicate names are problems."""
    programs: dict[str, list[Program]] = {}
    events = bool(declaration.settings.get("worker_send_task_events", True))
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
    return {host: tuple(placed) for host, placed in programs.items()}


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


def _budget(host: Host, programs: Sequence[Program], services: Mapping[str, int]) -> Budget:
    """Return the memory budget of a host.

    Args:
        services: bytes of the host's other services, by name.
    """
    parts = {
        item.name + (" (both slots)" if len(item.slots) > 1 else ""): len(item.slots) * item.memory for item in programs
    }
    parts |= {**services, "system": HOST_RESERVE}
    return Budget(host.memory, parts, sum(parts.values()))


def _check_budgets(fleet_hosts: Mapping[str, FleetHost], broker: Need, problems: list[Problem]) -> list[str]:
    """Refuse hosts with too little memory. Return warnings about those whose memory is not known."""
    for name, host in fleet_hosts.items():
        _check_budget(name, host.memory, broker, problems)
    return [
        f"the memory of {name} is not known, so its budget is not checked. Set celery_host_memory there"
        for name, host in fleet_hosts.items()
        if host.memory.available is None
    ]


def _check_budget(name: str, budget: Budget, broker: Need, problems: list[Problem]) -> None:
    """Refuse a memory budget that is larger than the host's memory, with the arithmetic.

    Args:
        broker: the need that the broker's part results from.
    """
    if budget.available is None or budget.needed <= budget.available:
        return
    parts = budget.parts
    terms = " + ".join(f"{label} {format_size(size)}" for label, size in parts.items())
    fixes = []
    if set(parts) - {"broker", "beat", "flower", "system", "replay cache"}:
        fixes.append("lower concurrency, autoscale.max or max_memory_per_child, move a worker to another group")
    if any(label.endswith("(both slots)") for label in parts):
        fixes.append("set activation: warm, because a handover runs two workers for a while")
    if "broker" in parts:
        terms += f" (messages may take {SHARE:.0%} of the broker's memory: {broker.arithmetic})"
        fixes.append("lower backlog or message_size of celery_queues")
    if "replay cache" in parts:
        fixes.append("lower celery_replay_cache_memory")
    fixes.append("use a host with more memory")
    fix = ", or ".join(fixes)
    problems.append(
        Problem(
            f"memory of {name}",
            f"{terms} = {format_size(budget.needed)}, but the host has {format_size(budget.available)}",
            fix[0].upper() + fix[1:],
        )
    )


def _duties(name: str, placed: Placement, kind: str) -> tuple[str, ...]:
    duties = {
        kind: name in placed.brokers,
        "previous": name in placed.previous,
        "moved": bool(placed.previous) and name in {*placed.brokers, *placed.programs, placed.beat},
        "app": name in placed.programs or name == placed.beat,
        "workers": name in placed.programs,
        "beat": name == placed.beat,
        "flower": name == placed.flower,
        "monitor": name == placed.monitor,
        "measured": bool(placed.monitor),
    }
    return tuple(duty for duty, there in duties.items() if there)


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


def _merged(settings: Mapping[str, Setting], name: str, value: object) -> object:
    """Return a user's setting. A mapping is merged into the rendered one, so that a changed option keeps the others."""
    rendered = settings[name].value if name in settings else None
    return {**rendered, **value} if isinstance(rendered, Mapping) and isinstance(value, Mapping) else value


def _advice(declaration: Declaration) -> list[str]:
    """Return warnings about declarations that work, but may surprise."""
    advice = []
    for worker in declaration.workers:
        if not worker.pool.hard_limit:
            _, hard = limits(worker, declaration.queues)
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


def _doubled(placed: Mapping[str, tuple[Program, ...]]) -> list[str]:
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
        raw: the user's variables. Their names lack the prefix celery_.
        groups: the inventory's groups and their hosts.
        facts: for each host, the result of host_facts.
    """
    declaration, problems = read_declaration(raw)
    warnings: list[str] = []
    app, queues = declaration.app_name, declaration.queues
    hosts = read_hosts(facts, problems)
    brokers = broker_hosts(declaration.broker, groups, hosts, problems)
    first_broker = brokers[0] if brokers else Host("")
    placed = place(declaration, groups, hosts, problems, warnings, brokers=tuple(host.name for host in brokers))
    warnings += _advice(declaration) + _doubled(placed.programs)
    reached = [*placed.hosts, *placed.producers]
    demand = Demand(app, queues, longest_held(declaration.workers, queues), declaration.broker)
    listener = broker_listener(demand, brokers, reached, problems, warnings, monitor=placed.monitor)
    files = TlsFiles() if listener.tls_port else None
    own = declaration.broker.own
    ca = own_ca(declaration.broker, app) if own else files.ca if files else ""
    _check_hosts(declaration, placed, hosts, problems, warnings)
    warnings += _check_own_broker(declaration, placed, groups, problems)

    broker = BROKERS[demand.options.flavor]
    holds = broker.holds(demand, problems, warnings)
    signing = declaration.signing
    dead_letters = holds.dead_letter_queue if isinstance(holds, Vhost) else f"{app}.dead" if signing.enabled else ""
    check_queue_names([queue.name for queue in queues], broker.kind, dead_letters, problems)
    kept = {"kind": broker.kind, "hosts": len(brokers), "sentinel": as_plain(listener.sentinel), **as_plain(holds)}
    settings = _settings(declaration, kept, ca)
    values = {name: item.value for name, item in settings.items()}
    check_cluster(demand, brokers, values, problems)
    slots = [item.concurrency for programs in placed.programs.values() for item in programs]
    need = need_of(demand, slots, placed.monitors, values, signing)
    check_resources(brokers, declaration.broker.memory, need, problems)

    cache = replay_cache(signing, demand, listener, slots, problems) if signing.enabled else None
    if not isinstance(holds, Vhost):
        check_window(signing, holds.visibility_timeout, problems)
    beside = cache if broker.kind == "rabbitmq" else None
    access = Access(hosts, placed.clients, listener, declaration.firewall, beside)
    former = previous_access(access, placed.previous, demand, signing, slots)
    memory = demand.options.memory or need.host_memory
    fleet_hosts = {
        name: _fleet_host(hosts.get(name, Host(name)), placed, broker.kind, memory, access, former)
        for name in placed.hosts
    }
    if not declaration.firewall.enabled and replace(declaration.firewall, enabled=True) != FirewallOptions():
        warnings.append("celery_firewall is false, so the other celery_firewall_* variables have no effect")
    warnings += [
        *_cache_advice(beside, listener),
        *_interruptions(hosts, placed, kept, values),
        *_check_budgets(fleet_hosts, need, problems),
    ]
    probed = {name: each.duties for name, each in fleet_hosts.items() if files and placed.monitor}
    names_of = {name: each.certificate_names for name, each in fleet_hosts.items()}
    passwords = passwords_of(
        broker.kind,
        broker=first_broker.name,
        producers=bool(placed.producers),
        flower=placed.flower,
        monitor=placed.monitor,
        signing=signing.enabled,
        backups=bool(demand.options.backups),
        sentinel=listener.sentinel is not None,
    )
    # Each of these hosts has it. One may be down, or new.
    local = (hosts.get(name, Host("")).local.get(app) for name in (*placed.lock_hosts, *placed.previous))
    rotations = read_state(next(filter(None, local), None))
    warnings += _rotation_advice(rotations) + check_move(demand.options, placed.previous, rotations, problems)

    user = partial(_broker_user, own, broker.kind, rotations, app)
    application = Application(
        name=app,
        user=app,
        module=declaration.app_module,
        memory=declaration.app_memory,
        root=f"/srv/{app}",
        config_dir=f"/etc/{app}",
        state_dir=f"/var/lib/{app}",
        log_dir=f"/var/log/{app}",
    )
    app_hosts = tuple(name for name, each in fleet_hosts.items() if "app" in each.duties)
    fleet = FleetPlan(
        app=application,
        broker=Broker(
            kind=broker.kind,
            flavor=broker.flavor,
            own=bool(own),
            host=first_broker.name,
            mark=make_mark(app, declaration.fleet_name, listener, brokers, problems).file(),
            members=listener.members,
            sentinel=listener.sentinel,
            address=own.address if own else listener.address,
            port=own.port if own else listener.tls_port or listener.port,
            plain_port=own.plain_port if own else listener.port,
            tls_port=own.tls_port if own else listener.tls_port,
            ca=ca,
            user=user("application", app),
            producer=user("producer", f"{app}-producer") if placed.producers else "",
            flower=user("flower", f"{app}-flower") if placed.flower else "",
            absent_users=absent_users(rotations, app, passwords) if broker.kind == "rabbitmq" and not own else (),
            scrape_targets=_own_exporter(own, hosts.get(placed.monitor))
            if own
            else {host.name: str(access.broker_metrics(host)) for host in brokers},
            backups=demand.options.backups,
            backup_schedule=demand.options.backup_schedule,
            backup_interval=BACKUP_SCHEDULES[demand.options.backup_schedule],
            name_addresses=name_addresses(demand.options, listener, reached),
            previous=previous_broker(demand, former, reached, rotations),
            holds=holds,
            limits=limits_of(need, len(queues), demand.options.memory, _left_for_broker(brokers, fleet_hosts)),
        ),
        settings=settings,
        flower_settings=_flower_settings(values, broker.kind),
        queues=tuple(
            broker.queue(demand, each, _longest_task(each.name, declaration.workers, queues)) for each in queues
        ),
        routes=tuple(Route(pattern, each.name, _route_options(each)) for each in queues for pattern in each.tasks),
        default_queue=declaration.default_queue,
        thresholds={queue.name: queue.alerts for queue in queues},
        durations={queue.name: queue.duration for queue in queues if queue.duration},
        alerts=declaration.alerts,
        runbook_base=declaration.runbook_base,
        certificates=declaration.certificate_targets + access.endpoints(probed),
        verified_endpoints=access.verified_endpoints(probed),
        hooks=declaration.hooks,
        longest_task=max((limits(worker, queues)[1] for worker in declaration.workers), default=Queue.time_limit),
        lock_hosts=placed.lock_hosts,
        hosts=fleet_hosts,
        app_hosts=app_hosts,
        beat_host=placed.beat,
        flower_host=placed.flower,
        flower_control=declaration.flower_control,
        flower_broker_api=_flower_broker_api(listener, first_broker, local=placed.flower in placed.brokers),
        monitor_host=placed.monitor,
        producers=placed.producers,
        firewall=declaration.firewall.enabled,
        closed_ports=declaration.firewall.closed_ports,
        mount_points=_mount_points(application, {broker.flavor, *(["redis"] if beside else [])}),
        secrets_dir=declaration.secrets_dir,
        secrets_encrypted=declaration.secrets_encrypted,
        passwords=passwords,
        given_passwords=tuple(name for name, owner in passwords.items() if _is_given(name, hosts.get(owner))),
        rotating={name: rotations.earlier_user(app, name) for name in rotations.rotating},
        tls=asdict(files) if files else {},
        signing=asdict(
            Signing(
                signing.mode,
                signing.window,
                dead_letters,
                # With RabbitMQ, delayed tasks wait in the broker for as long as they like.
                keep=signing.window + (2**DELAY_LEVELS if beside else demand.options.longest_countdown),
                senders=senders_of(app_hosts, placed.producers, placed.flower),
                replay_cache=cache,
            )
        )
        if cache
        else {},
        scrape_targets={name: str(each.exporter) for name, each in fleet_hosts.items()},
        strict_certificates=any(
            platform_of(*host.system).strict_tls for name, host in hosts.items() if name in reached and host.system
        ),
        certificate_hosts={
            name: {"names": names_of.get(name, ()), **hosts.get(name, Host(name)).certificate}
            for name in dict.fromkeys(reached if files else ())
        },
    )
    return Plan(tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(warnings)), fleet)


def _is_given(password: str, owner: Host | None) -> bool:
    """Return whether the user sets a password, or a command prints it.

    Args:
        owner: the host whose variables count.
    """
    return owner is not None and (password in owner.given_passwords or "celery_secret_command" in owner.variables)


def _mount_points(app: Application, servers: Iterable[str]) -> tuple[str, ...]:
    """Return the directories that the fleet writes to, and all directories above them, in alphabetical order.

    Args:
        servers: the broker's flavor, and that of the replay cache.
    """
    data = [f"/var/lib/{server}" for server in servers]
    written = (app.root, app.state_dir, app.log_dir, f"{app.log_dir}-tasks", "/var/log/journal", *data)
    return tuple(sorted({str(path) for each in map(PurePath, written) for path in (each, *each.parents)}))


def _check_hosts(
    declaration: Declaration,
    placed: Placement,
    hosts: Mapping[str, Host],
    problems: list[Problem],
    warnings: list[str],
) -> None:
    """Refuse hosts that can't be part of one fleet, and what is set for them in vain."""
    used = [hosts[name] for name in dict.fromkeys([*placed.hosts, *placed.producers]) if name in hosts]
    check_platforms(used, problems, untested=declaration.allow_untested_platforms)
    check_identities(used, placed.programs, problems)
    check_passwords(used, {"broker": next(iter(placed.brokers), ""), "monitor": placed.monitor}, problems)
    check_app_name(declaration.app_name, {host.login for host in used}, problems)
    warnings += unknown_variables({name for host in used for name in host.variables}, problems)


def _settings(declaration: Declaration, broker: Mapping[str, Any], ca: str) -> dict[str, Setting]:
    """Return Celery's settings: the plan's, and those of celery_settings, which override them."""
    planned = celery_settings(
        broker=broker, app_name=declaration.app_name, default_queue=declaration.default_queue, ca=ca
    )
    declared = {
        name: Setting(_merged(planned, name, value), "set in celery_settings", declared=True)
        for name, value in declaration.settings.items()
    }
    return planned | declared


def _cache_advice(beside: ReplayCache | None, broker: BrokerListener) -> list[str]:
    """Return a warning about a replay cache beside several hosts of RabbitMQ, of which one has it."""
    if not beside or len(broker.members) == 1:
        return []
    return [f"signed messages: the replay cache is on {beside.host} alone. While that host is down, no task starts"]


def _fleet_host(  # noqa: PLR0917 - as the plan has them
    host: Host, placed: Placement, kind: str, broker_memory: int, access: Access, former: Access | None
) -> FleetHost:
    """Return what a host runs.

    Args:
        broker_memory: bytes that the broker takes on its host.
        former: who reaches the broker that the fleet leaves; None if there is none.
    """
    programs = placed.programs.get(host.name, ())
    cache = access.replay_cache
    services = {
        "broker": ((*placed.brokers, *placed.previous), broker_memory),
        "replay cache": ((cache.host,) if cache else (), ceil(cache.memory / SHARE) if cache else 0),
        "beat": ((placed.beat,), BEAT),
        "flower": ((placed.flower,), FLOWER),
        "monitor": ((placed.monitor,), MONITOR),
    }
    duties = _duties(host.name, placed, kind)
    listeners, names = access.listeners(host.name, duties), access.certificate_names(host, duties)
    if former and host.name in placed.previous:
        listeners = tuple(dict.fromkeys([*listeners, *former.listeners(host.name, [former.broker.kind])]))
        names = tuple(dict.fromkeys([*names, *former.certificate_names(host, [*duties, former.broker.kind])]))
    return FleetHost(
        address=host.address,
        exporter=access.exporter(host),
        programs=programs,
        duties=duties,
        stop_timeout=max((item.stopwaitsecs for item in programs), default=STOP_MARGIN) + SUPERVISOR_STOP_MARGIN,
        memory=_budget(
            host, programs, {service: size for service, (names, size) in services.items() if host.name in names}
        ),
        listeners=listeners,
        unknown_clients=access.unknown_clients(listeners),
        certificate_names=names,
        tls_pages=access.tls_pages(host, duties),
        interruption_notices=asdict(host.interruption_notices) if host.interruption_notices and programs else {},
    )


def _interruptions(
    hosts: Mapping[str, Host], placed: Placement, broker: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
    """Return warnings about what an interruption of hosts would harm."""
    return interruption_advice(
        {name: host.interruption_notices for name, host in hosts.items() if host.interruption_notices},
        placed.programs,
        {"beat": [placed.beat], "the broker": placed.brokers},
        broker,
        acks_late=bool(settings["task_acks_late"]),
    )


def _rotation_advice(rotations: State) -> list[str]:
    if not rotations.rotating:
        return []
    return [
        f"the earlier values of {', '.join(rotations.rotating)} are still valid. Run rotate.yml with "
        "-e celery_rotate_finish=true to end their rotation"
    ]


def _check_own_broker(
    declaration: Declaration, placed: Placement, groups: Mapping[str, list[str]], problems: list[Problem]
) -> list[str]:
    """Refuse what contradicts a broker of the user's own, and return warnings about it."""
    own = declaration.broker.own
    check_own_broker(declaration, groups.get(declaration.broker.group, ()), problems)
    if not own:
        return []
    others = {"producers": placed.producers, "flower": placed.flower, "monitor": placed.monitor}
    return own_advice(own, **{name: bool(there) for name, there in others.items()})


def _broker_user(own: OwnBroker | None, kind: str, rotations: State, app: str, name: str, default: str) -> str:  # noqa: PLR0917
    """Return the name of a user of the broker.

    Args:
        name: of its password, without the broker's kind.
        default: its name on Redis.
    """
    if own:
        return own.user
    return rotations.user(app, f"rabbitmq_{name}") if kind == "rabbitmq" else default


def _own_exporter(own: OwnBroker, monitor: Host | None) -> dict[str, str]:
    """Return where the metrics of a broker of the user's own are scraped: those of Redis, on the monitor's loopback."""
    if not monitor or own.kind == "rabbitmq":
        return {}
    return {own.address: f"127.0.0.1:{listening_ports(monitor, tls=False)['redis_exporter_port']}"}


def _flower_broker_api(broker: BrokerListener, host: Host, *, local: bool) -> str:
    """Return the URL of RabbitMQ's management API for Flower; empty if Flower can't reach it.

    Args:
        host: the broker's first host.
        local: whether Flower runs on the broker's host.
    """
    listen = listening_ports(host, tls=bool(broker.tls_port))
    address = str(listen["rabbitmq_management_listen_address"])
    if broker.kind != "rabbitmq" or (address in LOOPBACK and not local):
        return ""
    reached = broker.address if address in ANY or len(broker.members) > 1 else address
    scheme = "https" if broker.tls_port else "http"
    return f"{scheme}://{bracketed(reached)}:{listen['rabbitmq_management_port']}/api/"


def _left_for_broker(brokers: Iterable[Host], fleet_hosts: Mapping[str, FleetHost]) -> int | None:
    """Return the bytes that the other programs of each of the broker's hosts leave at least; None if not known."""
    left = []
    for host in brokers:
        if host.memory is None:
            return None
        parts = fleet_hosts[host.name].memory.parts
        left.append(host.memory - sum(size for name, size in parts.items() if name != "broker"))
    return min(left, default=None)
