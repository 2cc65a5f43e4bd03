"""The declaration of a fleet: all that a user sets, as typed values with their defaults.

Pure: raw variables go in, typed values and a list of problems come out. A problem never ends the reading, so that a
user sees all mistakes at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import ceil
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._access import FirewallOptions, read_firewall
from ansible_collections.fleet.celery.plugins.module_utils._alerts import (
    Alert,
    read_alerts,
    read_certificates,
    runbook_base,
)
from ansible_collections.fleet.celery.plugins.module_utils._hooks import Hook, read_hooks
from ansible_collections.fleet.celery.plugins.module_utils._overrides import check_settings
from ansible_collections.fleet.celery.plugins.module_utils._own_broker import OwnBroker, read_own_broker
from ansible_collections.fleet.celery.plugins.module_utils._pools import POOLS, Pool, pools_that
from ansible_collections.fleet.celery.plugins.module_utils._reader import (
    Problem,
    Reader,
    Variables,
    closest,
)
from ansible_collections.fleet.celery.plugins.module_utils._signing import SigningOptions, read_signing
from ansible_collections.fleet.celery.plugins.module_utils._tls import read_mode
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, format_size

_APP_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?")
#: Kinds of broker, with Debian's variants of Redis.
FLAVORS = ("rabbitmq", "redis", "valkey")
#: How often the broker is backed up, with the seconds between.
BACKUP_SCHEDULES = {"hourly": 3600, "daily": 24 * 3600, "weekly": 7 * 24 * 3600}
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
#: Bytes of a process of a small Django project, measured by bench/memory.py.
APP_MEMORY = 96 * MIB
#: Bytes that the tasks of a child may take in addition.
CHILD_ROOM = 160 * MIB
QUEUE_TYPES = ("quorum", "classic")
# RabbitMQ's maximum. Each level costs memory and time (https://www.rabbitmq.com/docs/priority).
_HIGHEST_PRIORITY = 255
ACTIVATIONS = ("warm", "handover")
#: Seconds of the shortest time limit that follows from a duration: tasks wait for brokers and databases, too.
_SHORTEST_LIMIT = 30
_RESERVED_WORKERS = ("beat", "flower")
# Names of programs and files hold the worker, the application and the release, in at most 255 bytes.
_LONGEST_WORKER = 64
#: Options of `celery worker` that the plan sets, and the variable to set instead.
_PLANNED_OPTIONS = {
    "--queues": "queues",
    "-Q": "queues",
    "--exclude-queues": "queues",
    "-X": "queues",
    "--concurrency": "concurrency",
    "-c": "concurrency",
    "--autoscale": "autoscale",
    "--pool": "pool",
    "-P": "pool",
    "--hostname": "node_name",
    "-n": "node_name",
    "--prefetch-multiplier": "prefetch_multiplier",
    "--time-limit": "time_limit",
    "--soft-time-limit": "soft_time_limit",
    "--max-tasks-per-child": "max_tasks_per_child",
    "--max-memory-per-child": "max_memory_per_child",
    "--loglevel": "log_level",
    "-l": "log_level",
    "--optimization": "optimization",
    "-O": "optimization",
    "--task-events": "celery_settings.worker_send_task_events",
    "--events": "celery_settings.worker_send_task_events",
    "-E": "celery_settings.worker_send_task_events",
    "--beat": "the group beat",
    "-B": "the group beat",
    "--schedule-filename": "the group beat",
    "--scheduler": "celery_settings.beat_scheduler",
    "-s": "the group beat",
    "--detach": "nothing: Supervisor needs it in the foreground",
    "-D": "nothing: Supervisor needs it in the foreground",
    "--logfile": "nothing: Supervisor writes the log",
    "-f": "nothing: Supervisor writes the log",
    "--pidfile": "nothing: Supervisor knows its process id",
    "--uid": "celery_app_name",
    "--gid": "celery_app_name",
    "--purge": "nothing: it would delete the queued tasks",
    "--discard": "nothing: it would delete the queued tasks",
}


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a queue's alerts; 0: none.

    Attributes:
        depth: number of messages.
        age: age of the oldest message, in seconds.
        drain_time: seconds until all messages are consumed at the current rate.
    """

    depth: int = 0
    age: int = 0
    drain_time: int = 0


@dataclass(frozen=True)
class Queue:
    """A queue and the tasks that are routed to it.

    Attributes:
        tasks: task names, or patterns with * as in Celery's task_routes.
        time_limit: hard time limit of its tasks, in seconds.
        soft_time_limit: soft time limit of its tasks, in seconds.
        duration: seconds that its tasks usually take; 0: it is not known.
        transient: whether its messages are kept in memory only, and lost at a restart of the broker.
        type: RabbitMQ's queue type, "quorum" or "classic".
        max_priority: highest priority of its messages; 0: it has no priorities.
        must_not_lose: whether the plan warns if the broker may lose messages.
        backlog: number of tasks that the broker must be able to hold in it.
        message_size: bytes of a typical task's arguments as JSON.
        results_per_hour: number of results that its tasks store in an hour.
        max_length: number of messages above which the broker refuses more; 0: unlimited.
        max_length_bytes: bytes of messages above which the broker refuses more; 0: unlimited.
        alerts: thresholds of its alerts.
    """

    name: str
    tasks: tuple[str, ...] = ()
    time_limit: int = 300
    soft_time_limit: int = 270
    duration: float = 0.0
    transient: bool = False
    type: str = "quorum"
    max_priority: int = 0
    must_not_lose: bool = False
    backlog: int = 10_000
    message_size: int = 1024
    results_per_hour: int = 0
    max_length: int = 0
    max_length_bytes: int = 0
    alerts: Thresholds = Thresholds()


@dataclass(frozen=True)
class Worker:
    """A worker as declared, before it is placed on the hosts of its group.

    Attributes:
        minimum: concurrency; with autoscale, the smallest pool. None: the number of processors of its host.
        maximum: the largest pool; equal to minimum without autoscale.
        time_limit: hard time limit in seconds; None: the longest of its queues.
        soft_time_limit: soft time limit in seconds; None: the longest of its queues.
        max_memory_per_child: bytes above which a child is replaced.
        memory: bytes of the whole program, for pools that have no max_memory_per_child.
        prefetch_multiplier: messages that it reserves for each slot; None: as many as its queues' durations allow.
        activation: how it is moved to a new release, "warm" or "handover".
    """

    name: str
    group: str
    queues: tuple[str, ...]
    pool: Pool
    minimum: int | None
    maximum: int | None
    time_limit: int | None = None
    soft_time_limit: int | None = None
    max_memory_per_child: int | None = None
    max_tasks_per_child: int | None = None
    memory: int | None = None
    prefetch_multiplier: int | None = None
    optimization: str = "fair"
    log_level: str = "INFO"
    node_name: str = ""
    activation: str = "warm"
    extra_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def autoscale(self) -> bool:
        return self.minimum != self.maximum


@dataclass(frozen=True)
class BrokerOptions:
    """The declaration of the broker. The plan decides what is None or empty.

    Attributes:
        flavor: one of FLAVORS.
        group: group of the inventory with its host.
        previous_group: group with the hosts of the broker that the fleet leaves.
        previous: one of FLAVORS, which these hosts run.
        address: name or IP address that workers connect to.
        port: of connections without TLS.
        listen_addresses: IP addresses that it listens on.
        metrics_address: IP address that its metrics are served on.
        memory: bytes that it may take.
        web_processes: number of processes outside of the fleet that send tasks.
        key_prefix: of all keys on Redis.
        longest_countdown: seconds until a delayed task runs at the latest.
        visibility_timeout: seconds after which Redis' clients redeliver an unacknowledged task.
        tls: off, both or only.
        tls_port: of connections with TLS.
        backups: number of backups to keep; 0: none are made.
        backup_schedule: one of BACKUP_SCHEDULES.
        own: the broker of celery_broker_url, which the fleet does not install.
        ca: file on the controller with the authorities of its certificate; empty: those of each host.
    """

    flavor: str = "rabbitmq"
    group: str = "broker"
    previous_group: str = "broker_previous"
    previous: str = "rabbitmq"
    address: str = ""
    port: int | None = None
    listen_addresses: tuple[str, ...] = ()
    metrics_address: str = ""
    memory: int | None = None
    web_processes: int = 0
    key_prefix: str = ""
    longest_countdown: int = 3600
    visibility_timeout: int | None = None
    tls: str = ""
    tls_port: int | None = None
    backups: int = 3
    backup_schedule: str = "daily"
    own: OwnBroker | None = None
    ca: str = ""


@dataclass(frozen=True)
class Declaration:
    """The declaration of a fleet, validated without its hosts.

    Attributes:
        app_module: value of celery -A.
        app_memory: bytes of a process that has imported the application.
        beat_group: group of the inventory with the host of beat. The other groups are alike.
        flower_control: whether Flower may send tasks and commands to workers.
        settings: Celery's settings that override those of the plan.
        alerts: all alerts, by name.
        runbook_base: prefix of the alerts' runbook_url.
        certificate_targets: endpoints whose certificates are monitored.
        hooks: commands of a release, by their moment.
        signing: whether messages are signed, and the replay cache.
        secrets_dir: directory of the passwords on the controller.
        secrets_encrypted: whether its secrets are encrypted.
        fleet_name: tells it from other fleets with the same application; empty: the application's name.
        allow_untested_platforms: whether hosts may have a system on which the roles are not tested.
    """

    app_name: str
    app_module: str
    queues: tuple[Queue, ...]
    workers: tuple[Worker, ...]
    default_queue: str
    app_memory: int = APP_MEMORY
    broker: BrokerOptions = BrokerOptions()
    beat_group: str = "beat"
    flower_group: str = "flower"
    flower_control: bool = False
    monitor_group: str = "monitor"
    producer_group: str = "producers"
    settings: Mapping[str, Any] = field(default_factory=dict)
    alerts: Mapping[str, Alert] = field(default_factory=dict)
    runbook_base: str = ""
    certificate_targets: tuple[str, ...] = ()
    hooks: Mapping[str, tuple[Hook, ...]] = field(default_factory=dict)
    firewall: FirewallOptions = field(default_factory=FirewallOptions)
    signing: SigningOptions = field(default_factory=SigningOptions)
    secrets_dir: str = ""
    secrets_encrypted: bool = False
    fleet_name: str = ""
    allow_untested_platforms: bool = False


def soft_limit_below(hard: int) -> int:
    """Return the soft limit for a hard limit, in seconds: a tenth below, so that a task can clean up."""
    return max(1, hard - max(1, hard // 10))


def _read_limits(reader: Reader) -> tuple[int | None, int | None]:
    hard = reader.seconds("time_limit")
    soft = reader.seconds("soft_time_limit")
    if hard is not None and soft is not None and soft >= hard:
        reader.problem(
            "soft_time_limit",
            f"{soft} s is not below the time_limit of {hard} s, so it would never take effect",
            f"Set it to {soft_limit_below(hard)} or so, or raise time_limit",
        )
    return hard, soft


def _usual_limit(duration: float) -> int:
    """Return the hard time limit of tasks that usually take this long, both in seconds."""
    return ceil(min(Queue.time_limit, max(_SHORTEST_LIMIT, 100 * duration)))


def read_queue(raw: Mapping[str, Any], where: str, problems: list[Problem]) -> Queue:
    """Return a queue as declared.

    Args:
        raw: an entry of celery_queues.
        where: the entry's name in messages.
        problems: gets the errors of raw.
    """
    reader = Reader(raw, where, problems)
    name = reader.name()
    hard, soft = _read_limits(reader)
    duration = reader.duration("duration")
    usual = _usual_limit(duration) if duration else Queue.time_limit
    if hard is None and soft is not None:
        hard = max(usual, soft + max(1, soft // 9))
    hard = hard or usual
    if duration >= hard:
        reader.problem(
            "duration", f"{duration:g} s is not below the time_limit of {hard} s", "Lower it, or raise time_limit"
        )
    backlog, message_size = reader.integer("backlog", least=0), reader.size("message_size")
    max_length = reader.count("max_length")
    if backlog is None:
        backlog = min(Queue.backlog, max_length or Queue.backlog)
    transient = reader.flag("transient")
    queue = Queue(
        name=name,
        tasks=reader.texts("tasks"),
        time_limit=hard,
        soft_time_limit=soft or soft_limit_below(hard),
        duration=duration,
        transient=transient,
        type=reader.choice("type", QUEUE_TYPES, "classic" if transient else "quorum"),
        max_priority=reader.count("max_priority"),
        must_not_lose=reader.flag("must_not_lose"),
        backlog=backlog,
        message_size=Queue.message_size if message_size is None else message_size,
        results_per_hour=reader.count("results_per_hour"),
        max_length=max_length,
        max_length_bytes=reader.size("max_length_bytes") or 0,
        alerts=_read_thresholds(reader, Thresholds(depth=backlog // 2, age=max(300, hard), drain_time=1800)),
    )
    if queue.transient and queue.type == "quorum":
        reader.problem("type", "a quorum queue is stored on disk, so it can't be transient", "Remove type or transient")
    if queue.max_priority > _HIGHEST_PRIORITY:
        reader.problem(
            "max_priority", f"{queue.max_priority} is above {_HIGHEST_PRIORITY}", "Set it to a lower number, e.g. 10"
        )
    _check_length(reader, queue)
    reader.unknown_keys()
    return queue


def _check_length(reader: Reader, queue: Queue) -> None:
    """Report a limit of a queue's length that contradicts what the queue must hold, or that its alert never reaches."""
    expected = queue.backlog * queue.message_size
    if 0 < queue.max_length < queue.backlog:
        reader.problem(
            "max_length",
            f"{queue.max_length} is below the backlog of {queue.backlog} tasks, so the broker would refuse some of "
            "them",
            "Raise it, or lower backlog",
        )
    elif 0 < queue.max_length <= queue.alerts.depth:
        reader.problem(
            "alerts.depth",
            f"{queue.alerts.depth} is not below max_length, so the queue would refuse tasks without an alert",
            f"Set it to {max(1, queue.max_length // 2)} or so",
        )
    if 0 < queue.max_length_bytes < expected:
        reader.problem(
            "max_length_bytes",
            f"{format_size(queue.max_length_bytes)} is below {format_size(expected)}, which backlog times message_size "
            "needs, so the broker would refuse some of these tasks",
            "Raise it, or lower backlog or message_size",
        )


def _read_thresholds(reader: Reader, default: Thresholds) -> Thresholds:
    raw = reader.mapping("alerts", "{depth: 5000, age: 300}")
    given = Reader(raw, f"{reader.where}.alerts", reader.problems)
    thresholds = {name: given.integer(name, least=0) for name in ("depth", "age", "drain_time")}
    given.unknown_keys()
    return replace(default, **{name: value for name, value in thresholds.items() if value is not None})


def _read_size_of_pool(reader: Reader, pool: Pool) -> tuple[int | None, int | None]:
    concurrency = reader.integer("concurrency")
    raw = reader.take("autoscale")
    if raw is None:
        if pool.name == "solo" and concurrency not in (None, 1):
            reader.problem(
                "concurrency",
                f"is {concurrency}, but a solo worker runs one task at a time",
                "Set it to 1, or use prefork",
            )
        size = concurrency or pool.concurrency
        return size, size
    if not pool.autoscale:
        reader.problem(
            "autoscale",
            f"the {pool.name} pool can't grow or shrink, and its worker would crash",
            f"Set concurrency instead, or use {pools_that('autoscale')}",
        )
    if concurrency is not None:
        reader.problem("concurrency", "is set together with autoscale, which overrides it", "Remove one of the two")
    if not isinstance(raw, Mapping):
        reader.mapping("autoscale", "{min: 2, max: 8}")
        return 1, 1
    bounds = Reader(raw, f"{reader.where}.autoscale", reader.problems)
    low, high = bounds.integer("min", least=0), bounds.integer("max")
    bounds.unknown_keys()
    if high is None and "max" not in raw:
        bounds.problem("max", "is missing", "Set both, e.g. autoscale: {min: 2, max: 8}")
    if low is not None and high is not None and low > high:
        bounds.problem("min", f"{low} is above max, {high}", "Swap them, or raise max")
    return (1 if low is None else low), high or 1


def read_worker(raw: Mapping[str, Any], where: str, problems: list[Problem]) -> Worker:
    """Return a worker as declared.

    Args:
        raw: an entry of celery_workers.
        where: the entry's name in messages.
        problems: gets the errors of raw.
    """
    reader = Reader(raw, where, problems)
    name = reader.name()
    if name in _RESERVED_WORKERS:
        reader.problem("name", f"{name!r} is the name of one of the fleet's own programs", "Choose another name")
    if len(name) > _LONGEST_WORKER:
        reader.problem("name", f"has more than {_LONGEST_WORKER} characters", "Choose a shorter name")
    group = reader.text("group")
    if not group:
        reader.problem("group", "is missing", "Set it to the inventory group whose hosts run this worker")
    queues = reader.texts("queues")
    if not queues:
        reader.problem("queues", "is empty", "List the queues that the worker consumes, e.g. queues: [customers]")
    pool = POOLS[reader.choice("pool", POOLS, "prefork")]
    minimum, maximum = _read_size_of_pool(reader, pool)
    hard, soft = _read_limits(reader)
    cap = reader.size("max_memory_per_child")
    tasks = reader.integer("max_tasks_per_child")
    for key, value, honoured in (
        ("time_limit", hard, "hard_limit"),
        ("soft_time_limit", soft, "soft_limit"),
        ("max_memory_per_child", cap, "child_limits"),
        ("max_tasks_per_child", tasks, "child_limits"),
    ):
        if value is not None and not getattr(pool, honoured):
            reader.problem(key, f"the {pool.name} pool ignores it", f"Remove it, or use {pools_that(honoured)}")
    extra_args = reader.texts("extra_args")
    for argument in extra_args:
        if "\n" in argument or "\0" in argument:
            reader.problem("extra_args", f"{argument!r} has a line break", "Set each argument to one line")
        option = argument.partition("=")[0] if argument.startswith("--") else argument[:2]
        if option in _PLANNED_OPTIONS:
            reader.problem("extra_args", f"{option} would override the plan", f"Set {_PLANNED_OPTIONS[option]} instead")
    node_name = reader.text("node_name")
    if node_name and not re.fullmatch(r"[^\s,@%]+(%[hndIip][^\s,@%]*)*", node_name):
        reader.problem(
            "node_name",
            f"{node_name!r} is not valid before the @ of a node name",
            "Use letters, digits, '_', '-' and '.'; the host's name is added",
        )
    worker = Worker(
        name=name,
        group=group,
        queues=queues,
        pool=pool,
        minimum=minimum,
        maximum=maximum,
        time_limit=hard,
        soft_time_limit=soft,
        max_memory_per_child=cap,
        max_tasks_per_child=tasks,
        memory=reader.size("memory"),
        prefetch_multiplier=reader.integer("prefetch_multiplier"),
        optimization=reader.choice("optimization", ("fair", "default"), "fair"),
        log_level=reader.choice("log_level", _LOG_LEVELS, "INFO"),
        node_name=node_name,
        activation=reader.choice("activation", ACTIVATIONS, "warm"),
        extra_args=extra_args,
        environment=reader.environment("environment"),
    )
    reader.unknown_keys()
    return worker


def _entry_name(entry: Mapping[str, Any], index: int) -> str:
    return str(entry.get("name") or index)


def _check_routes(queues: list[Queue], problems: list[Problem]) -> None:
    """Refuse patterns that never match. Celery tries exact names first, and then patterns in their order.

    Source: celery.app.routes.MapRoute, which matches a name with * by fnmatch.
    """
    routes: dict[str, str] = {}
    for queue in queues:
        where = f"celery_queues[{queue.name}].tasks"
        for pattern in queue.tasks:
            first = routes.setdefault(pattern, queue.name)
            if first != queue.name:
                what = f"{pattern!r} is already routed to the queue {first}"
                problems.append(Problem(where, what, "Remove it from one of the two"))
            elif "*" not in pattern and set(pattern) & set("?[]"):
                what = f"{pattern!r} only matches a task of exactly that name, because Celery's patterns need a *"
                problems.append(Problem(where, what, "Use *, e.g. 'email.*'"))
            elif "*" in pattern:
                # A wider pattern matches whatever the * stands for.
                name = pattern.replace("*", "\0")
                wider = [other for other in routes if "*" in other and other != pattern and fnmatchcase(name, other)]
                if wider and routes[wider[0]] != queue.name:
                    other = routes[wider[0]]
                    what = f"{pattern!r} gets no task, because {wider[0]!r} of the queue {other} matches first"
                    problems.append(Problem(where, what, f"Declare {queue.name} before {other}"))


def _check_queues(queues: list[Queue], workers: list[Worker], default_queue: str, problems: list[Problem]) -> None:
    names = [queue.name for queue in queues]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem(f"celery_queues[{name}]", "is declared twice", "Merge both entries"))
    _check_routes(queues, problems)
    for worker in workers:
        for name in worker.queues:
            if name not in names:
                problems.append(
                    Problem(
                        f"celery_workers[{worker.name}].queues",
                        f"{name!r} is not declared in celery_queues{closest(name, names)}",
                        "Declare the queue, or correct its name",
                    )
                )
        if len(set(worker.queues)) != len(worker.queues):
            problems.append(
                Problem(f"celery_workers[{worker.name}].queues", "lists a queue twice", "List each queue once")
            )
    consumed = {name for worker in workers for name in worker.queues}
    for name in names:
        if name and name not in consumed:
            problems.append(
                Problem(
                    f"celery_queues[{name}]",
                    "no worker consumes it, so its tasks would wait forever",
                    "Add it to the queues of an entry of celery_workers, or remove it",
                )
            )
    if default_queue not in names and names:
        problems.append(
            Problem(
                "celery_default_queue",
                f"{default_queue!r} is not declared in celery_queues{closest(default_queue, names)}",
                "Set it to a declared queue",
            )
        )


def _check_limits(queues: list[Queue], workers: list[Worker], raw_queues: object, problems: list[Problem]) -> None:
    """Refuse time limits of workers below those of their queues."""
    declared = (
        {str(entry.get("name")) for entry in raw_queues or () if isinstance(entry, Mapping) and entry.get("time_limit")}
        if isinstance(raw_queues, list)
        else set()
    )
    limits = {queue.name: queue.time_limit for queue in queues if queue.name in declared}
    for worker in workers:
        for name in worker.queues:
            allowed = limits.get(name)
            if worker.time_limit is not None and allowed is not None and worker.time_limit < allowed:
                problems.append(
                    Problem(
                        f"celery_workers[{worker.name}].time_limit",
                        f"{worker.time_limit} s is below the {allowed} s that the queue {name} allows its tasks",
                        f"Raise it to {allowed}, or lower celery_queues[{name}].time_limit",
                    )
                )
    for worker in workers:
        if worker.time_limit is None and worker.soft_time_limit is not None:
            hard = max((queue.time_limit for queue in queues if queue.name in worker.queues), default=0)
            if hard and worker.soft_time_limit >= hard:
                problems.append(
                    Problem(
                        f"celery_workers[{worker.name}].soft_time_limit",
                        f"{worker.soft_time_limit} s is not below the time_limit of its queues, {hard} s",
                        f"Set it to {soft_limit_below(hard)} or so, or set time_limit as well",
                    )
                )


def read_declaration(raw: Mapping[str, Any]) -> tuple[Declaration, list[Problem]]:
    """Return the declaration and all of its errors.

    Args:
        raw: the user's variables. Their names lack the prefix celery_. Others are left alone.
    """
    problems: list[Problem] = []
    reader = Variables(raw, problems)
    app_name, app_module = reader.text("app_name"), reader.text("app_module")
    if not _APP_NAME.fullmatch(app_name):
        reader.problem(
            "app_name",
            f"{app_name!r} is not a valid name of a user and of directories" if app_name else "is missing",
            "Use at most 31 lower-case letters, digits, '-' and '_', with a letter first, e.g. shop",
        )
    if not _MODULE.fullmatch(app_module):
        reader.problem(
            "app_module",
            f"{app_module!r} is not a Python module" if app_module else "is missing",
            "Set it to the value of celery -A, e.g. shop.celery:app",
        )
    queues, workers = _read_queues(reader), _read_workers(reader)
    default_queue = reader.text("default_queue") or (queues[0].name if queues else "")
    _check_queues(queues, workers, default_queue, problems)
    _check_limits(queues, workers, raw.get("queues"), problems)
    app_memory = reader.size("app_memory")
    if app_memory:
        _check_caps(workers, app_memory, problems)
    settings = _read_settings(reader)
    declaration = Declaration(
        app_name=app_name,
        app_module=app_module,
        queues=tuple(queues),
        workers=tuple(workers),
        default_queue=default_queue,
        app_memory=app_memory or APP_MEMORY,
        broker=_read_broker(reader),
        beat_group=reader.text("beat_group", Declaration.beat_group),
        flower_group=reader.text("flower_group", Declaration.flower_group),
        flower_control=reader.flag("flower_control"),
        monitor_group=reader.text("monitor_group", Declaration.monitor_group),
        producer_group=reader.text("producer_group", Declaration.producer_group),
        settings=settings,
        alerts=read_alerts(reader.take("alerts") or {}, problems),
        runbook_base=runbook_base(reader.take("docs_url"), problems),
        certificate_targets=read_certificates(reader.take("certificate_targets") or [], problems),
        hooks=read_hooks(reader.take("hooks") or {}, problems),
        firewall=read_firewall(reader),
        signing=read_signing(reader, settings),
        secrets_dir=_read_secrets_dir(reader),
        secrets_encrypted=reader.flag("secrets_encrypted"),
        fleet_name=reader.text("fleet_name"),
        allow_untested_platforms=reader.flag("allow_untested_platforms"),
    )
    return declaration, problems


def _read_queues(reader: Variables) -> list[Queue]:
    defaults = reader.mapping("queue_defaults", "{time_limit: 600}")
    queues = [
        read_queue({**defaults, **entry}, f"celery_queues[{_entry_name(entry, index)}]", reader.problems)
        for index, entry in enumerate(reader.mappings("queues"))
    ]
    if not queues:
        reader.problem("queues", "is empty", "Declare a queue, e.g. - {name: default, tasks: ['*']}")
    return queues


def _read_workers(reader: Variables) -> list[Worker]:
    defaults = reader.mapping("worker_defaults", "{time_limit: 600}")
    workers = [
        read_worker(
            {**_applicable(defaults, entry), **entry},
            f"celery_workers[{_entry_name(entry, index)}]",
            reader.problems,
        )
        for index, entry in enumerate(reader.mappings("workers"))
    ]
    if not workers:
        fix = "Declare a worker, e.g. - {name: default, group: workers, queues: [default]}"
        reader.problem("workers", "is empty", fix)
    return workers


def _read_broker(reader: Variables) -> BrokerOptions:
    flavor = _read_flavor(reader, "broker", BrokerOptions.flavor)
    backups = reader.count("broker_backups", BrokerOptions.backups, unit="a number of backups")
    own = read_own_broker(reader.mapping("broker_url", ""), flavor, reader.problems)
    return BrokerOptions(
        flavor=own.kind if own else flavor,
        group=reader.text("broker_group", BrokerOptions.group),
        previous_group=reader.text("broker_previous_group", BrokerOptions.previous_group),
        previous=_read_flavor(reader, "broker_previous", flavor),
        address=reader.text("broker_address"),
        port=reader.port("broker_port"),
        listen_addresses=reader.texts("broker_listen_addresses"),
        metrics_address=reader.text("broker_metrics_address"),
        memory=reader.size("broker_memory"),
        web_processes=reader.count("web_processes", unit="a number of processes"),
        key_prefix=reader.text("key_prefix"),
        longest_countdown=reader.seconds("longest_countdown") or BrokerOptions.longest_countdown,
        visibility_timeout=reader.seconds("visibility_timeout"),
        tls=read_mode(reader, "tls"),
        tls_port=reader.port("broker_tls_port"),
        backups=0 if own else backups,
        backup_schedule=reader.choice("broker_backup_schedule", BACKUP_SCHEDULES, BrokerOptions.backup_schedule),
        own=own,
        ca=reader.text("broker_ca"),
    )


def _read_flavor(reader: Variables, key: str, default: str) -> str:
    flavor = reader.text(key, default)
    if flavor in FLAVORS:
        return flavor
    reader.problem(key, f"{flavor!r} is not a broker", f"Set it to one of {', '.join(FLAVORS)}")
    return default


def _read_settings(reader: Variables) -> dict[str, Any]:
    """Return celery_settings. What the plan decides, and what Celery or the fleet can't use, are problems."""
    settings = {str(name): value for name, value in reader.mapping("settings", "{result_expires: 7200}").items()}
    check_settings(settings, reader.problems)
    return settings


def _read_secrets_dir(reader: Variables) -> str:
    path = reader.text("secrets_dir")
    if path and (not path.startswith("/") or ".." in path.split("/")):
        what = f"{path!r} is not an absolute path, or contains .."
        reader.problem("secrets_dir", what, "Correct it, or celery_fleet_name, which is a part of it")
    return path


def _check_caps(workers: Iterable[Worker], memory: int, problems: list[Problem]) -> None:
    """Refuse a max_memory_per_child that is not above the bytes with which each child starts."""
    for worker in workers:
        if worker.max_memory_per_child is not None and worker.max_memory_per_child <= memory:
            problems.append(
                Problem(
                    f"celery_workers[{worker.name}].max_memory_per_child",
                    f"{format_size(worker.max_memory_per_child)} is not above the {format_size(memory)} of "
                    "celery_app_memory, which a child takes from its start, so each would be replaced after one task",
                    f"Raise it to {format_size(memory + CHILD_ROOM)}",
                )
            )


def _applicable(defaults: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the worker defaults that this worker's pool supports.

    A default only applies to pools that support it, so max_memory_per_child for all prefork workers refuses no gevent
    worker.
    """
    pool = POOLS.get(str(entry.get("pool", defaults.get("pool", "prefork"))))
    if pool is None:
        return dict(defaults)
    needs = {
        "time_limit": pool.hard_limit,
        "soft_time_limit": pool.soft_limit,
        "max_memory_per_child": pool.child_limits,
        "max_tasks_per_child": pool.child_limits,
        "autoscale": pool.autoscale and "concurrency" not in entry,
        "concurrency": pool.name != "solo" and "autoscale" not in entry,
    }
    return {key: value for key, value in defaults.items() if needs.get(key, True)}
