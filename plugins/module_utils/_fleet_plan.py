"""The plan of a fleet as types: what its hosts run, what its broker holds and needs, and what its processes are told.

Sizes are bytes, times are seconds, unless a name says otherwise. as_plain turns it into what Ansible can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._access import BrokerMember, Endpoint, Listener
from ansible_collections.fleet.celery.plugins.module_utils._alerts import Alert
from ansible_collections.fleet.celery.plugins.module_utils._declaration import Thresholds
from ansible_collections.fleet.celery.plugins.module_utils._hooks import Hook
from ansible_collections.fleet.celery.plugins.module_utils._rotation import State
from ansible_collections.fleet.celery.plugins.module_utils._sentinel import Sentinel
from ansible_collections.fleet.celery.plugins.module_utils._settings import Setting


@dataclass(frozen=True)
class Application:
    """Names and directories of the application.

    Attributes:
        module: value of celery -A.
        memory: bytes of a process that has imported it.
    """

    name: str
    user: str
    module: str
    memory: int
    root: str
    config_dir: str
    state_dir: str
    log_dir: str


@dataclass(frozen=True)
class Slot:
    """A program of Supervisor, and its Celery node name.

    Attributes:
        node: with %h for the host's name.
        expanded_node: with the host's name; the same as node while that is not known.
    """

    name: str
    node: str
    expanded_node: str


@dataclass(frozen=True)
class Program:
    """A worker on one host.

    Attributes:
        slots: one, or two for a handover, in which both run for a while.
        size: of its pool, for people.
        argv: arguments of celery, without the node name.
        memory: bytes of one of its slots.
        child_cap: bytes above which a child is replaced; 0 if its pool has no children.
        cold_shutdown: whether SIGQUIT does not lose its tasks.
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
    cold_shutdown: bool = True


@dataclass(frozen=True)
class Budget:
    """The memory of a host.

    Attributes:
        available: None if it is not known.
        parts: bytes of each program and service.
    """

    available: int | None
    parts: Mapping[str, int]
    needed: int


@dataclass(frozen=True)
class FleetHost:
    """What a host runs.

    Attributes:
        exporter: where its exporter listens.
        duties: the broker's kind, previous if the fleet leaves the broker on it, moved if the fleet leaves a broker,
            app, workers, beat, flower, monitor and measured, as far as they are its own.
        stop_timeout: seconds after which systemd kills Supervisor.
        listeners: all ports that others may reach.
        unknown_clients: hosts whose addresses are missing in them.
        certificate_names: names and addresses in its certificate; empty if it has none.
        tls_pages: pages of nginx that have its certificate.
        interruption_notices: InterruptionNotices as a mapping; empty if it polls for none.
    """

    address: str
    exporter: Endpoint
    programs: tuple[Program, ...]
    duties: tuple[str, ...]
    stop_timeout: int
    memory: Budget
    listeners: tuple[Listener, ...]
    unknown_clients: tuple[str, ...]
    certificate_names: tuple[str, ...] = ()
    tls_pages: tuple[Endpoint, ...] = ()
    interruption_notices: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BrokerQueue:
    """A queue as the broker declares it. On RabbitMQ, it refuses messages above its limits, if they are not 0."""

    name: str
    durable: bool
    arguments: Mapping[str, Any]
    max_length: int
    max_length_bytes: int


@dataclass(frozen=True)
class Vhost:
    """What a fleet has in RabbitMQ.

    Attributes:
        consumer_timeout: milliseconds.
    """

    vhost: str
    consumer_timeout: int
    exchange: str
    dead_letter_exchange: str
    dead_letter_queue: str
    delivery_limit: int
    queues: tuple[BrokerQueue, ...]


@dataclass(frozen=True)
class Keyspace:
    """What a fleet has in Redis."""

    database: int
    result_database: int
    key_prefix: str
    visibility_timeout: int


@dataclass(frozen=True)
class PreviousMember:
    """A host of the broker that the fleet leaves.

    Attributes:
        server_name: name in its certificate, or its address.
    """

    address: str
    server_name: str


@dataclass(frozen=True)
class PreviousBroker:
    """The broker that the fleet leaves.

    Attributes:
        kind: rabbitmq or redis.
        flavor: one of FLAVORS.
        forwarded: whether a service of the fleet moves the messages. Shovels do if both brokers are RabbitMQ.
        group: of the inventory with its hosts.
        members: by the names of its hosts.
        address: that clients connected to.
        port: that the new broker connects to.
        tls_port: that port if the connection is encrypted; 0 if it is not.
        sentinel: as of the broker.
        name_addresses: as of the broker.
        rotations: the state of password rotations, which its hosts have.
        services: units of systemd that end with it, in the order in which they stop.
    """

    kind: str
    flavor: str
    forwarded: bool
    group: str
    members: Mapping[str, PreviousMember]
    address: str
    port: int
    tls_port: int
    sentinel: Sentinel | None
    name_addresses: Mapping[str, tuple[str, ...]]
    rotations: State
    services: tuple[str, ...]
    holds: Vhost | Keyspace


@dataclass(frozen=True)
class BrokerLimits:
    """What the broker may take, and what it needs.

    Attributes:
        memory: bytes above which it refuses messages or blocks senders.
        arithmetic: calculation of memory_needed, for people.
        connections: that clients open at most.
        maxclients: connections above which it refuses more.
        max_queues: queues above which RabbitMQ refuses more.
    """

    memory: int
    memory_needed: int
    arithmetic: str
    disk_needed: int
    connections: int
    maxclients: int
    max_queues: int


@dataclass(frozen=True)
class Broker:
    """The broker.

    Attributes:
        kind: rabbitmq or redis.
        flavor: one of FLAVORS.
        host: name of its first host; empty if there is none.
        own: whether it is the user's own, so that the fleet has no host of it.
        ca: file on the fleet's hosts with the authorities that its clients trust; empty if the connection has no TLS.
        mark: path and content of the file by which its hosts are known as those of this broker.
        members: by the names of its hosts, in order.
        sentinel: from which clients learn the primary's address; None if there is one server.
        address: that clients connect to.
        port: that clients connect to.
        plain_port: on which it listens without TLS; 0 if it does not.
        tls_port: on which it listens with TLS; 0 if it does not.
        user: of the application. producer and flower are the names of other users; empty if there is no need of one.
        absent_users: users of RabbitMQ that must not exist.
        scrape_targets: host and port of the metrics of each of its hosts.
        backups: number of backups that each of its hosts keeps; 0: none are made.
        backup_schedule: how often they are made, as systemd calls it.
        backup_interval: the seconds between.
        name_addresses: for each client, the addresses of its name in the order in which the client tries them; empty if
            the address is not a name that the plan gave to several hosts.
        previous: the broker that the fleet leaves, from which messages are moved; None if there is none.
    """

    kind: str
    flavor: str
    own: bool
    host: str
    mark: Mapping[str, Any]
    members: Mapping[str, BrokerMember]
    sentinel: Sentinel | None
    address: str
    port: int
    plain_port: int
    tls_port: int
    ca: str
    user: str
    producer: str
    flower: str
    absent_users: tuple[str, ...]
    scrape_targets: Mapping[str, str]
    backups: int
    backup_schedule: str
    backup_interval: int
    name_addresses: Mapping[str, tuple[str, ...]]
    previous: PreviousBroker | None
    holds: Vhost | Keyspace
    limits: BrokerLimits


@dataclass(frozen=True)
class TaskQueue:
    """A queue as Celery declares it.

    Attributes:
        type: quorum or classic on RabbitMQ, list on Redis.
        longest_task: shortest time limit of its workers.
    """

    name: str
    exchange: str
    exchange_type: str
    routing_key: str
    durable: bool
    type: str
    arguments: Mapping[str, Any]
    longest_task: int


@dataclass(frozen=True)
class Route:
    """An entry of task_routes.

    Attributes:
        pattern: name of a task, or a pattern with *.
        options: of messages.
    """

    pattern: str
    queue: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class FleetPlan:
    """The plan of a fleet.

    Attributes:
        settings: Celery's, for all processes of the application.
        flower_settings: Celery's, for Flower.
        thresholds: of the alerts of each queue.
        durations: seconds that the tasks of a queue usually take, if they are known.
        alerts: all alerts.
        runbook_base: prefix of the alerts' runbook_url.
        certificates: endpoints whose certificates are monitored.
        verified_endpoints: those of them whose certificates and names are verified.
        hooks: by the moment of a release.
        longest_task: longest time limit of a worker.
        lock_hosts: names of the hosts that have the rollout lock and the state of rotations.
        hosts: by name.
        app_hosts: names of hosts with workers or beat.
        beat_host: empty if there is none. The other hosts are alike.
        flower_broker_api: URL of RabbitMQ's management API for Flower; empty if it can't reach it, or has none.
        producers: names of hosts that only send tasks.
        firewall: whether hosts close all other ports.
        closed_ports: that it may close though something listens on them.
        mount_points: where a file system may be mounted that the fleet writes to.
        secrets_dir: directory of the passwords on the controller.
        secrets_encrypted: whether its secrets are encrypted.
        passwords: their names, each with the host whose variable sets it.
        given_passwords: those that the user sets or a command prints. No value of them is generated.
        rotating: passwords whose earlier value is still valid, each with the user of RabbitMQ that has it; empty if it
            is the same user.
        tls: TlsFiles as a mapping; empty if the fleet has no TLS.
        signing: Signing as a mapping; empty if messages are not signed.
        scrape_targets: host and port of the exporter of each host.
        strict_certificates: whether a host verifies certificates strictly.
        certificate_hosts: names in the certificate of each host, producers included, and where its own one comes from.
    """

    app: Application
    broker: Broker
    settings: Mapping[str, Setting]
    flower_settings: Mapping[str, Any]
    queues: tuple[TaskQueue, ...]
    routes: tuple[Route, ...]
    default_queue: str
    thresholds: Mapping[str, Thresholds]
    durations: Mapping[str, float]
    alerts: Mapping[str, Alert]
    runbook_base: str
    certificates: tuple[str, ...]
    verified_endpoints: tuple[str, ...]
    hooks: Mapping[str, tuple[Hook, ...]]
    longest_task: int
    lock_hosts: tuple[str, ...]
    hosts: Mapping[str, FleetHost]
    app_hosts: tuple[str, ...]
    beat_host: str
    flower_host: str
    flower_control: bool
    flower_broker_api: str
    monitor_host: str
    producers: tuple[str, ...]
    firewall: bool
    closed_ports: tuple[int, ...]
    mount_points: tuple[str, ...]
    secrets_dir: str
    secrets_encrypted: bool
    passwords: Mapping[str, str]
    given_passwords: tuple[str, ...]
    rotating: Mapping[str, str]
    tls: Mapping[str, str]
    signing: Mapping[str, Any]
    scrape_targets: Mapping[str, str]
    strict_certificates: bool
    certificate_hosts: Mapping[str, Mapping[str, Any]]


def as_plain(value: object) -> Any:  # noqa: ANN401 - a mapping for a dataclass, else the value's own kind
    """Return a value with mappings in place of dataclasses, and lists in place of tuples.

    What a broker holds and its limits are keys of the broker itself, as roles use them.
    """
    if isinstance(value, (Broker, PreviousBroker)):
        plain = {each.name: as_plain(getattr(value, each.name)) for each in fields(value)}
        return plain | plain.pop("holds") | plain.pop("limits", {})
    if is_dataclass(value):
        return {each.name: as_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return value
