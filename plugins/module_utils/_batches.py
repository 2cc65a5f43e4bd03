"""In which order the hosts of a fleet come to a new release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.fleet.celery.plugins.module_utils._declaration import Problem, as_integer


def read_sizes(raw: Sequence[object], problems: list[Problem]) -> list[tuple[int, bool]]:
    """Return sizes of batches as numbers, each with whether it is a percentage, as Ansible's serial takes them.

    Args:
        raw: such as ["1", "25%", "100%"].
        problems: what is wrong with one of them is added.
    """
    sizes = []
    for entry in raw:
        text = str(entry).strip()
        share = text.endswith("%")
        number = as_integer(text.removesuffix("%"))
        if number is None or number < 1 or (share and number > 100):  # noqa: PLR2004
            problems.append(
                Problem(
                    "celery_rollout_batches",
                    f"{entry!r} is neither a number of hosts nor a percentage of them",
                    'Write it as ["1", "25%", "100%"]',
                )
            )
            continue
        sizes.append((number, share))
    if not sizes and not problems:
        problems.append(Problem("celery_rollout_batches", "is empty", 'Write it as ["1", "25%", "100%"]'))
    return sizes


def batches(
    workloads: Mapping[str, Iterable[str]], consumed: Mapping[str, Iterable[str]], sizes: Sequence[tuple[int, bool]]
) -> list[list[str]]:
    """Return the hosts of each batch.

    Hosts that run the same workers are a workload. Each batch takes so many of each workload, so that the first one
    tries the release with every worker. Of a queue that several hosts consume, one is always left to another batch.

    Args:
        workloads: for each host, in their order, its workers.
        consumed: for each host, the queues that it consumes.
        sizes: as read_sizes returns them; the last one is taken again until no host is left.
    """
    members: dict[frozenset[str], list[str]] = {}
    for host, workers in workloads.items():
        members.setdefault(frozenset(workers), []).append(host)
    found: list[list[str]] = []
    for hosts in members.values():
        for number, part in enumerate(_parts(hosts, sizes)):
            if number == len(found):
                found.append([])
            found[number] += part
    return _leave_consumers(found, consumed)


def _parts(hosts: list[str], sizes: Sequence[tuple[int, bool]]) -> list[list[str]]:
    parts: list[list[str]] = []
    start = 0
    while start < len(hosts):
        number, share = sizes[min(len(parts), len(sizes) - 1)]
        size = max(1, len(hosts) * number // 100) if share else number
        parts.append(hosts[start : start + size])
        start += size
    return parts


def _leave_consumers(found: list[list[str]], consumed: Mapping[str, Iterable[str]]) -> list[list[str]]:
    consumers: dict[str, set[str]] = {}
    for host, queues in consumed.items():
        for queue in queues:
            consumers.setdefault(queue, set()).add(host)
    left = [list(batch) for batch in found]
    number = 0
    while number < len(left):
        batch = left[number]
        later: list[str] = []
        for hosts in consumers.values():
            if len(hosts) > 1 and hosts <= set(batch):
                last = next(host for host in reversed(batch) if host in hosts)
                batch.remove(last)
                later.append(last)
        if later:
            if number + 1 == len(left):
                left.append([])
            left[number + 1] = later + left[number + 1]
        number += 1
    return [batch for batch in left if batch]
