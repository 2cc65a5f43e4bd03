"""Query the broker and the workers of an application, within its environment and as its user.

The collection's modules run the text of this file by `python -c`, so that its version is always theirs. Usage:
`python -c TEXT QUERY MODULE:APPLICATION ARGUMENT...`. The last line of the output is the answer, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

CONNECT_SECONDS = REPLY_SECONDS = 5


def connect(connection: Any) -> None:  # noqa: ANN401 - Celery has no types
    """Connect to the broker, or raise its error after a few seconds."""
    connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)


def depths_of(connection: Any, queues: Iterable[str]) -> dict[str, int]:  # noqa: ANN401
    """Return the number of messages that wait in each queue; 0 for a queue that is missing."""
    # With Redis, a declaration has no effect, and a passive one ignores the key prefix (kombu 5.7).
    passive = connection.transport.driver_type != "redis"
    depths = {}
    for queue in queues:
        # A channel per queue, because a missing queue closes the channel.
        with connection.channel() as channel:
            try:
                depths[queue] = channel.queue_declare(queue, passive=passive).message_count
            except connection.channel_errors:
                depths[queue] = 0
    return depths


def depths(app: Any, queues: str, limits: str, seconds: str) -> None:  # noqa: ANN401
    """Print the depths of queues, at first, and once none is above its limit or the time is over."""
    names: list[str] = json.loads(queues)
    highest: dict[str, int] = json.loads(limits)
    deadline = time.monotonic() + float(seconds)
    with app.connection_for_read() as connection:
        connect(connection)
        first = last = depths_of(connection, names)
        while any(last[queue] > limit for queue, limit in highest.items()) and time.monotonic() < deadline:
            time.sleep(1)
            last = depths_of(connection, names)
    answer([first, last])


def control(app: Any) -> None:  # noqa: ANN401
    """Print for each line of input the queues of the nodes that reply.

    A line has the names of nodes, and whether to shut them down warm first.
    """
    app.loader.import_default_modules()
    for line in sys.stdin:
        nodes, shutdown = json.loads(line)
        try:
            with app.connection_for_read() as connection:
                connect(connection)
                inspect = app.control.inspect(destination=nodes, timeout=REPLY_SECONDS, connection=connection)
                if shutdown:
                    app.control.shutdown(destination=nodes, connection=connection)
                queues = inspect.active_queues() or {}
            reply = {"nodes": {node: [each["name"] for each in consumed] for node, consumed in queues.items()}}
        except Exception:  # after any error, no node has replied
            reply = {}
        answer(reply)


def diagnose(app: Any, queues: str, programs: str) -> None:  # noqa: ANN401
    """Print the depths of queues, and what workers consume, have registered and are running.

    Waits if a node does not reply, else not at all. Arguments of tasks may hold secrets, so they are left out.

    Args:
        programs: for each worker, the node names that it may have.
    """
    expected: list[list[str]] = json.loads(programs)
    answers: dict[str, Any] = {}
    try:
        with app.connection_for_read() as connection:
            connect(connection)
            answers["depths"] = depths_of(connection, json.loads(queues))

            def inspect(**options: object) -> Any:  # noqa: ANN401
                return app.control.inspect(timeout=REPLY_SECONDS, connection=connection, **options)

            consumed = inspect(limit=len(expected)).active_queues() or {}
            # The first replies may come from other nodes: during a handover, both slots of a worker reply.
            if not all(set(nodes) & set(consumed) for nodes in expected):
                consumed.update(inspect().active_queues() or {})
            known = inspect(destination=list(consumed)) if consumed else None
            registered, active = (known.registered() or {}, known.active(safe=True) or {}) if known else ({}, {})
            now = time.time()
            answers["consumed"] = {node: [queue["name"] for queue in found] for node, found in consumed.items()}
            answers["registered"] = {node: [name.split(" ")[0] for name in found] for node, found in registered.items()}
            answers["active"] = {
                node: [
                    {"name": task["name"], "id": task["id"], "seconds": now - task["time_start"]}
                    for task in found
                    if task["time_start"]
                ]
                for node, found in active.items()
            }
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        answers["workers_error" if "depths" in answers else "error"] = text
    answer(answers)


def answer(value: object) -> None:
    """Print an answer on a line of its own, whatever the application has printed."""
    print("\n" + json.dumps(value), flush=True)


def main() -> None:
    # Here, because modules import this file with Debian's Python.
    from celery.app.utils import find_app  # noqa: PLC0415

    queries: dict[str, Callable[..., None]] = {"control": control, "depths": depths, "diagnose": diagnose}
    query, name, *arguments = sys.argv[1:]
    queries[query](find_app(name), *arguments)


if __name__ == "__main__":
    main()
