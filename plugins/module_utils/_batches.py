"""The batches of a rollout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, as_integer


def read_sizes(raw: Sequence[object], problems: list[Problem]) -> list[tuple[int, bool]]:
    """Return batch sizes as numbers, each with whether it is a percentage, as in Ansible's serial.

    Args:
        raw: celery_rollout_batches, e.g. ["1", "25%", "100%"].
        problems: gets the errors of raw.
    """
    sizes = []
    for entry in raw:
        text = str(entry).strip()
        percent = text.endswith("%")
        size = as_integer(text.removesuffix("%"))
        if size is None or size < 1 or (percent and size > 100):  # noqa: PLR2004
            problems.append(
                Problem(
                    "celery_rollout_batches",
                    f"{entry!r} is neither a number of hosts nor a percentage",
                    'Set it to a list, e.g. ["1", "25%", "100%"]',
                )
            )
            continue
        sizes.append((size, percent))
    if not sizes and not problems:
        problems.append(Problem("celery_rollout_batches", "is empty", 'Set it to a list, e.g. ["1", "25%", "100%"]'))
    return sizes


def fleet_batches(
    hosts: Iterable[str], workers: Mapping[str, Sequence[Mapping[str, Any]]], raw: Sequence[object]
) -> list[list[str]]:
    """Return the hosts of each batch.

    Args:
        hosts: hosts of the rollout, in their order.
        workers: for each host, the plan's programs, each with worker and queues.
        raw: celery_rollout_batches.
    """
    hosts = list(hosts)
    sizes = read_sizes(raw, [])
    # Hosts that only send tasks, such as beat's, come last: a worker of the old release would discard a new task.
    working = [host for host in hosts if workers.get(host)]
    senders = [host for host in hosts if not workers.get(host)]
    workloads = {host: [item["worker"] for item in workers[host]] for host in working}
    consumed = {host: {queue for item in workers[host] for queue in item["queues"]} for host in working}
    result = batches(workloads, consumed, sizes)
    return [*result, senders] if senders else result


def batches(
    workloads: Mapping[str, Iterable[str]], consumed: Mapping[str, Iterable[str]], sizes: Sequence[tuple[int, bool]]
) -> list[list[str]]:
    """Return the hosts of each batch.

    Hosts that run the same workers are a workload. Each batch takes its size from each workload, so the first batch
    (the canary) runs every worker on the new release. If several hosts consume a queue, one of them is always left to
    another batch.

    Args:
        workloads: for each host, in their order, its workers.
        consumed: for each host, the queues that it consumes.
        sizes: result of read_sizes. The last size is repeated until no host is left.
    """
    members: dict[frozenset[str], list[str]] = {}
    for host, workers in workloads.items():
        members.setdefault(frozenset(workers), []).append(host)
    result: list[list[str]] = []
    for hosts in members.values():
        for index, part in enumerate(_parts(hosts, sizes)):
            if index == len(result):
                result.append([])
            result[index] += part
    return _leave_consumers(result, consumed)


def _parts(hosts: list[str], sizes: Sequence[tuple[int, bool]]) -> list[list[str]]:
    parts: list[list[str]] = []
    start = 0
    while start < len(hosts):
        size, percent = sizes[min(len(parts), len(sizes) - 1)]
        size = max(1, len(hosts) * size // 100) if percent else size
        parts.append(hosts[start : start + size])
        start += size
    return parts


def _leave_consumers(planned: list[list[str]], consumed: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return batches in which no batch has all of the several consumers of a queue."""
    consumers: dict[str, set[str]] = {}
    for host, queues in consumed.items():
        for queue in queues:
            consumers.setdefault(queue, set()).add(host)
    result = [list(batch) for batch in planned]
    index = 0
    while index < len(result):
        batch = result[index]
        later: list[str] = []
        for hosts in consumers.values():
            if len(hosts) > 1 and hosts <= set(batch):
                last = next(host for host in reversed(batch) if host in hosts)
                batch.remove(last)
                later.append(last)
        if later:
            if index + 1 == len(result):
                result.append([])
            result[index + 1] = later + result[index + 1]
        index += 1
    return [batch for batch in result if batch]
