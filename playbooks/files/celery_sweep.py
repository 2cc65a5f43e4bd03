"""Requeue unacknowledged messages in Redis that no worker holds.

Runs in the application's environment: celery_run python -c THIS APP. Input, as JSON: nodes (the workers that must
answer) and dry_run. Output, as JSON: the IDs of the requeued tasks, and the number of tasks that workers hold.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from celery.app.utils import find_app

REPLY_SECONDS = 10
# A message is in Redis' hash of unacknowledged messages for a moment before its worker reports it.
SETTLE_SECONDS = 5


def held(answers: Iterable[Mapping[str, list[Mapping[str, Any]]]]) -> set[str]:
    """Return the IDs of the tasks that workers hold, from their replies to active, reserved and scheduled."""
    entries = [entry for answer in answers for tasks in answer.values() for entry in tasks]
    # In the reply to scheduled, the task is the entry's request.
    return {str(entry.get("request", entry)["id"]) for entry in entries}


def unheld(app: Any, nodes: list[str]) -> tuple[dict[str, str], int]:  # noqa: ANN401 - Celery has no types
    """Return the task IDs of messages that no worker holds, by delivery tag, and the number of tasks that workers hold.

    Raises:
        SystemExit: a worker does not answer.
    """
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        # Read the messages before the workers' replies, so that a task that is received in between is not requeued.
        found = {}
        for tag in channel.client.zrange(channel.unacked_index_key, 0, -1):
            if message := channel.client.hget(channel.unacked_key, tag):
                found[tag.decode()] = str(json.loads(message)[0]["headers"]["id"])
        inspect = app.control.inspect(timeout=REPLY_SECONDS, connection=connection, destination=nodes)
        answers = [ask() or {} for ask in (inspect.active, inspect.reserved, inspect.scheduled)]
    silent = sorted(node for node in nodes if not all(node in answer for answer in answers))
    if silent:
        sys.exit(
            f"No message was requeued, because these workers do not answer and may hold tasks: {', '.join(silent)}. "
            "Check them (celery inspect ping) and rerun"
        )
    ids = held(answers)
    return {tag: task for tag, task in found.items() if task not in ids}, len(ids)


def main() -> None:
    given = json.load(sys.stdin)
    app = find_app(sys.argv[1])
    first, _ = unheld(app, given["nodes"])
    time.sleep(SETTLE_SECONDS)
    second, count = unheld(app, given["nodes"])
    lost = {tag: task for tag, task in second.items() if tag in first}
    if not given["dry_run"]:
        with app.connection_for_write() as connection:
            for tag in lost:
                connection.default_channel.qos.restore_by_tag(tag)
    print(json.dumps({"given_back": sorted(lost.values()), "held": count}))


if __name__ == "__main__":
    main()
