"""Whether the broker that a fleet leaves can be stopped. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_DELAYED = "celery_delayed_"


def retire_problems(
    plan: Mapping[str, Any],
    administrator: str,
    clients: Iterable[Mapping[str, Any]],
    counts: Iterable[Mapping[str, int]],
) -> list[str]:
    """Return why the previous broker is still needed; empty if it is not.

    Args:
        administrator: user of the previous broker, as which its messages are moved.
        clients: of each of its hosts, as broker_clients_info returns them.
        counts: the number of messages in each queue, as each of its hosts knows it.
    """
    previous = plan["broker"]["previous"]
    # What runs beside a server of Redis, and its replicas, connect to it as other users.
    users = {f"{plan['app']['name']}{suffix}" for suffix in ("", "-producer", "-flower")}
    outside = (
        each
        for each in clients
        if each["user"] in users or each["host"] not in {*previous["members"], "127.0.0.1", "::1"}
    )
    connected = dict.fromkeys(each["description"] for each in outside if each["user"] != administrator)
    left: dict[str, int] = {}
    for queues in counts:
        for queue, number in queues.items():
            left[queue] = max(left.get(queue, 0), number)
    left = {queue: number for queue, number in sorted(left.items()) if number}
    problems = []
    if connected:
        problems.append(
            f"Clients are connected: {', '.join(connected)}. Restart them with the settings of the new broker"
        )
    if left:
        counted = ", ".join(f"{queue} {number}" for queue, number in left.items())
        problems.append(f"Messages are left: {counted}. {' '.join(_advice(plan, left))}")
    return problems


def _advice(plan: Mapping[str, Any], left: Iterable[str]) -> Iterator[str]:
    broker, previous = plan["broker"], plan["broker"]["previous"]
    if any(queue.startswith(_DELAYED) for queue in left):
        yield f"Those of {_DELAYED}* move once they are due."
    if previous["kind"] == "redis" and "unacked" in left:
        yield (
            "Those of unacked are held by workers that have not restarted, or were by lost ones, and then move within "
            f"{previous['visibility_timeout']} s."
        )
    if (
        previous["kind"] == "rabbitmq" != broker["kind"]
        and not plan["signing"]
        and previous["dead_letter_queue"] in left
    ):
        queue = previous["dead_letter_queue"]
        yield f"Those of {queue} do not move, as Redis has no dead letters: read them, and purge the queue."
    log = f"of {plan['app']['name']}-forwarder on {broker['host']}" if previous["forwarded"] else "of the new broker"
    yield f"The others move within seconds, unless the log {log} says why not"
