"""Try features of Celery in a process of its own, and print a line of JSON for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any


def events_arrive(app: Any, send: Callable[[], object], timeout: float) -> bool:
    """Return whether the events of a task arrive at a receiver such as Flower.

    Args:
        send: sends the task, which is to run a moment later.
        timeout: seconds.
    """
    seen = []
    until = monotonic() + timeout

    def note(event: dict[str, Any]) -> None:
        seen.append(event["type"])
        # Heartbeats go on for ever.
        receiver.should_stop = event["type"] == "task-succeeded" or monotonic() > until

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        send()
        try:
            receiver.capture(limit=None, timeout=timeout)
        except TimeoutError:
            return False
    return "task-succeeded" in seen


def try_out(features: Mapping[str, tuple[Callable[[], Any], Any]]) -> None:
    """Use each feature, and print its result.

    Args:
        features: by name, what uses it, and what that is to return.
    """
    for name, (run, expected) in features.items():
        try:
            result = run()
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        print(json.dumps({"feature": name, "result": result, "expected": expected}), flush=True)
