"""Interruption notices: hosts on instances that their cloud may take away, and drain by themselves before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, Reader

if TYPE_CHECKING:
    from ansible_collections.fleet.celery.plugins.module_utils._fleet_plan import Program

VARIABLE = "celery_host_interruption_notices"
PROVIDERS = ("aws",)
#: Seconds between the notice of a spot instance's interruption and the interruption.
#: Source: Amazon EC2 User Guide, "Spot Instance interruption notices".
SPOT_SECONDS = 120
#: Seconds before the end of the instance at which workers return their tasks, as services/interruption.py has them.
RETURN_SECONDS = 15
_LONGEST_POLL = 30
_SHORTEST_SCALE_IN = 30
# A lifecycle hook keeps an instance for two days at most.
_LONGEST_SCALE_IN = 48 * 3600


@dataclass(frozen=True)
class InterruptionNotices:
    """How a host learns that its instance will be interrupted.

    Attributes:
        metadata_url: of the instance metadata service.
        poll_interval: seconds between two polls of it.
        scale_in_deadline: seconds from an auto scaling group's decision to terminate the instance to its end.
        drain_on_rebalance: whether a rebalance recommendation drains the host, too.
    """

    provider: str = "aws"
    metadata_url: str = "http://169.254.169.254"
    poll_interval: int = 5
    scale_in_deadline: int = 120
    drain_on_rebalance: bool = False

    @property
    def task_seconds(self) -> int:
        """Seconds after a notice in which a task may end before it is interrupted."""
        return min(SPOT_SECONDS, self.scale_in_deadline) - self.poll_interval - RETURN_SECONDS


def read_interruption_notices(raw: Mapping[str, Any], problems: list[Problem]) -> dict[str, InterruptionNotices]:
    """Return the interruption notices of the hosts that have any.

    Args:
        raw: celery_host_interruption_notices of each host.
        problems: gets its errors, once for all hosts with the same value.
    """
    hosts: dict[str, list[str]] = {}
    for name, value in raw.items():
        if value not in (None, "", {}):
            hosts.setdefault(repr(value), []).append(name)
    found = {}
    for names in hosts.values():
        notices = _read(raw[names[0]], f"{VARIABLE}[{', '.join(names)}]", problems)
        if notices:
            found.update(dict.fromkeys(names, notices))
    return found


def _read(raw: object, where: str, problems: list[Problem]) -> InterruptionNotices | None:
    if not isinstance(raw, Mapping):
        problems.append(Problem(where, f"{raw!r} is not a mapping", "Set it to a mapping, e.g. {provider: aws}"))
        return None
    reader = Reader(raw, where, problems)
    notices = InterruptionNotices(
        provider=reader.choice("provider", PROVIDERS, ""),
        metadata_url=reader.text("metadata_url", InterruptionNotices.metadata_url).rstrip("/"),
        poll_interval=reader.count("poll_interval", InterruptionNotices.poll_interval, unit="a number of seconds"),
        scale_in_deadline=reader.count(
            "scale_in_deadline", InterruptionNotices.scale_in_deadline, unit="a number of seconds"
        ),
        drain_on_rebalance=reader.flag("drain_on_rebalance"),
    )
    if not _is_base_url(notices.metadata_url):
        fix = f"Set it to {InterruptionNotices.metadata_url}, or remove it"
        reader.problem("metadata_url", f"{notices.metadata_url!r} is not http://HOST or http://HOST:PORT", fix)
    if not 1 <= notices.poll_interval <= _LONGEST_POLL:
        what = f"{notices.poll_interval} s is not between 1 s and {_LONGEST_POLL} s"
        reader.problem("poll_interval", what, f"Set it to e.g. {InterruptionNotices.poll_interval}")
    if not _SHORTEST_SCALE_IN <= notices.scale_in_deadline <= _LONGEST_SCALE_IN:
        reader.problem(
            "scale_in_deadline",
            f"{notices.scale_in_deadline} s is not between {_SHORTEST_SCALE_IN} s and {_LONGEST_SCALE_IN} s",
            "Set it to the heartbeat timeout of the lifecycle hook of the auto scaling group, e.g. 300",
        )
    reader.unknown_keys()
    return notices


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and url == f"http://{parts.netloc}" and "@" not in url and parts.port != 0
    except ValueError:
        return False


def interruption_advice(
    notices: Mapping[str, InterruptionNotices],
    programs: Mapping[str, Iterable[Program]],
    roles: Mapping[str, Collection[str]],
    broker: Mapping[str, Any],
    *,
    acks_late: bool,
) -> list[str]:
    """Return warnings about what an interruption of hosts would harm.

    Args:
        notices: of the hosts that have any.
        programs: the workers' programs of each host.
        roles: for beat and the broker, the names of their hosts.
        broker: kind, and visibility_timeout of Redis.
        acks_late: whether tasks are acknowledged after they ran, unless they say otherwise.
    """
    advice = [
        f"{role} is on {host}, whose instance may be interrupted ({VARIABLE}), and is not moved to another host. "
        "Move it to a host that stays"
        for role, names in roles.items()
        for host in names
        if host in notices
    ]
    long, killed = {}, {}
    for host, each in notices.items():
        for program in programs.get(host, ()):
            where = f"celery_workers[{program.worker}] (queues {', '.join(program.queues)})"
            if program.longest_task > each.task_seconds:
                long[where] = each.task_seconds
                if program.pool != "prefork":
                    killed[where] = program.pool
    fate = (
        "returned to its queue and runs again from the beginning. It is lost if it is declared with acks_late=False"
        if acks_late
        else "lost, because celery_settings.task_acks_late is false. Remove that setting if such tasks may run twice"
    )
    advice += [
        f"{where}: a task that still runs {seconds} s after an interruption notice is {fate}"
        for where, seconds in long.items()
        if where not in killed
    ]
    later = f" after visibility_timeout, {broker['visibility_timeout']} s" if broker["kind"] == "redis" else ""
    again = f"runs again{later}" if acks_late else "is lost"
    advice += [
        f"{where}: the {pool} pool can't return a task. One that still runs at the end of the instance {again}. "
        "Use prefork on hosts that may be interrupted"
        for where, pool in killed.items()
    ]
    return advice
