"""The plan, and the state of programs, as tables of plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._access import Listener
from ansible_collections.fleet.celery.plugins.module_utils._fleet_plan import (
    Broker,
    FleetPlan,
    Keyspace,
    PreviousBroker,
    Vhost,
)
from ansible_collections.fleet.celery.plugins.module_utils._units import format_size

#: Hosts above which texts for people name only some of them.
MANY_HOSTS = 20
_NAMED = 5


def listed(names: Iterable[str]) -> str:
    """Return names for people: of many, the first ones, and how many more there are."""
    names = list(names)
    if len(names) <= MANY_HOSTS:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def told_together(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return hosts with what is told of each: of many, those with the same text together."""
    if len(texts) <= MANY_HOSTS:
        return list(texts.items())
    hosts: dict[str, list[str]] = {}
    for host, text in texts.items():
        hosts.setdefault(text, []).append(host)
    return [(listed(names), text) for text, names in hosts.items()]


def some_lines(lines: Sequence[str]) -> list[str]:
    """Return lines about hosts: of many, the first ones, and how many more there are."""
    if len(lines) <= MANY_HOSTS:
        return list(lines)
    return [*lines[:_NAMED], f"... and {len(lines) - _NAMED} more lines like these"]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table with aligned columns."""
    cells = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    cells.insert(1, tuple("-" * width for width in widths))
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def host_table(header: Sequence[str], rows: Iterable[Sequence[str]], number: int) -> list[str]:
    """Return the lines of a table about hosts. With many hosts, equal ones share a line.

    Args:
        header: of the columns after that of the host.
        rows: each begins with the host.
        number: of all hosts.
    """
    if number <= MANY_HOSTS:
        return table(("host", *header), rows)
    hosts: dict[tuple[str, ...], list[str]] = {}
    for host, *cells in rows:
        hosts.setdefault(tuple(cells), []).append(host)
    return table((*header, "hosts"), [(*cells, f"{len(names)}: {listed(names)}") for cells, names in hosts.items()])


def status_table(statuses: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of all programs, with their releases and states.

    Args:
        statuses: for each host, the result of celery_status_info.
    """
    rows: list[tuple[str, ...]] = []
    for host, status in statuses.items():
        if "current" not in status:
            rows.append((host, "-", "-", "-", "unreachable" if status.get("unreachable") else "can't be read"))
            continue
        if status["drained"]:
            rows.append((host, status["current"], "-", "-", "drained"))
        rows += [
            (host, status["current"], each["name"], each["release"] or "-", _state(each)) for each in status["programs"]
        ]
        rows += [
            (host, status["current"], stray["program"], "-", "of no Supervisor") for stray in status.get("strays", [])
        ]
    return host_table(("current", "program", "runs", "state"), rows, len(statuses))


def _state(program: Mapping[str, Any]) -> str:
    """Return the state of a program, with the time for which its worker has not responded."""
    silent = program.get("silent")
    what = "not responding" if program.get("connected", True) else "no connection to the broker"
    return f"{program['state']}, {what} for {silent} s" if silent else str(program["state"])


def plan_tables(fleet: FleetPlan) -> list[str]:
    """Return the lines of the plan: programs, queues, hosts and the broker."""
    placed = [(host, item) for host, planned in fleet.hosts.items() for item in planned.programs]
    programs = [
        (
            host,
            item.name,
            item.pool,
            item.size,
            ",".join(item.queues),
            f"{item.longest_task} s",
            f"{item.stopwaitsecs} s",
            format_size(item.memory),
        )
        for host, item in placed
    ]
    queues = [
        (
            queue.name + (" (default)" if queue.name == fleet.default_queue else ""),
            queue.type if queue.durable else "transient",
            ", ".join(route.pattern for route in fleet.routes if route.queue == queue.name) or "-",
            listed(f"{item.worker}@{host}" for host, item in placed if queue.name in item.queues) or "-",
        )
        for queue in fleet.queues
    ]
    hosts = [
        (
            host,
            ", ".join(duty for duty in planned.duties if duty != "app"),
            format_size(planned.memory.needed),
            format_size(planned.memory.available) if planned.memory.available is not None else "not known",
        )
        for host, planned in fleet.hosts.items()
    ]
    ports = [
        (
            host,
            each.service,
            f"{each.port}{f'-{each.last_port}' if each.last_port else ''}/{each.protocol}",
            _reached_from(each),
        )
        for host, planned in fleet.hosts.items()
        for each in planned.listeners
    ]
    broker, limits, number = fleet.broker, fleet.broker.limits, len(fleet.hosts)
    return [
        *host_table(("program", "pool", "size", "queues", "time limit", "stop timeout", "memory"), programs, number),
        "",
        *table(("queue", "type", "tasks", "consumers"), queues),
        "",
        *host_table(("duties", "memory needed", "memory available"), hosts, number),
        "",
        *host_table(("service", "port", "reached from"), ports, number),
        "The firewall closes all other ports." if fleet.firewall else "celery_firewall is false: no port is closed.",
        "",
        f"broker: {broker.flavor} {_where(broker)} ({broker.address}:{broker.port}), {_timeout(broker.holds)}",
        f"broker memory: {'' if broker.own else f'limit {format_size(limits.memory)}; '}needed: {limits.arithmetic}",
        f"broker disk: {format_size(limits.disk_needed)} needed; connections: at most {limits.connections}",
        *_replay_cache(fleet.signing, broker),
        *_previous(broker.previous),
    ]


def _previous(previous: PreviousBroker | None) -> Iterator[str]:
    if previous:
        yield (
            f"previous broker: on {', '.join(previous.members)} ({previous.address}:{previous.port}), from which "
            "messages are moved"
        )


def _where(broker: Broker) -> str:
    return "of celery_broker_url" if broker.own else f"on {', '.join(broker.members)}"


def _replay_cache(signing: Mapping[str, Any], broker: Broker) -> Iterator[str]:
    if signing:
        cache = signing["replay_cache"]
        where = f"on {cache['host']} ({cache['address']}:{cache['port']})"
        if cache["sentinel"]:
            where = f"on the primary of {', '.join(broker.members)}"
        yield (
            f"replay cache: {where}, limit "
            f"{format_size(cache['memory'])}; messages may be started within {signing['window']} s"
        )


def _reached_from(listener: Listener) -> str:
    """Return who reaches a port: the names of hosts, then networks and addresses that no host has."""
    if listener.everyone:
        return "everyone"
    return listed([*listener.hosts, *listener.networks])


def _timeout(holds: Vhost | Keyspace) -> str:
    if isinstance(holds, Keyspace):
        return f"visibility_timeout {holds.visibility_timeout} s"
    return f"consumer_timeout {holds.consumer_timeout // 1000} s"
