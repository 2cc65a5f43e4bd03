"""Sends tasks at a steady pace, and asks the workers how they are, until its standard input ends.

Run by the application's own Python: load.py CALLS, where CALLS is JSON: [{"task": ..., "args": [...], "every": 1}].
Prints "begun", then a line of JSON for each answer of the workers ({"at": seconds since the epoch, "queues": {node:
[queue]}}), and at its end {"sent": [id], "refused": {id: error}}: those whose sender was told that they were sent, and
those whose sender was told that they were not.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from typing import Any

from shop.celery import app

REPLY_SECONDS = 1.5
ended = threading.Event()
sent: list[str] = []
refused: dict[str, str] = {}
printing = threading.Lock()


def tell(values: dict[str, Any]) -> None:
    """Print a line."""
    with printing:
        print(json.dumps(values), flush=True)


def send(call: dict[str, Any]) -> None:
    """Send one task after another. What a broker that was away held back is not sent in a burst."""
    task, due = app.tasks[call["task"]], time.monotonic()
    while not ended.is_set():
        task_id = str(uuid.uuid4())
        try:
            task.apply_async(call["args"], task_id=task_id)
        except Exception as error:  # whatever it is, the sender knows that it was not sent
            refused[task_id] = f"{type(error).__name__}: {error}"
        else:
            sent.append(task_id)
        due = max(due + call["every"], time.monotonic())
        ended.wait(due - time.monotonic())


def ask() -> None:
    """Print which queues each worker that answers consumes, again and again."""
    while not ended.is_set():
        try:
            answer = app.control.inspect(timeout=REPLY_SECONDS).active_queues() or {}
        except Exception:  # the broker is away, and says so in many ways
            answer = {}
            ended.wait(1)
        queues = {node: [queue["name"] for queue in found] for node, found in answer.items()}
        tell({"at": time.time(), "queues": queues})


def main() -> None:
    app.loader.import_default_modules()
    threads = [threading.Thread(target=send, args=(call,)) for call in json.loads(sys.argv[1])]
    print("begun", flush=True)
    # One that waits for the broker is not waited for: what it sends then counts for nothing.
    threading.Thread(target=ask, daemon=True).start()
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    tell({"sent": sent, "refused": refused})


if __name__ == "__main__":
    main()
