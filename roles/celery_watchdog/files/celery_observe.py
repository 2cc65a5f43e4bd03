#!/usr/bin/env python3
"""Report the depths of an application's queues at intervals, a line of JSON each time.

Runs in the application's environment, as its user: celery_run celery_observe.py APP CONFIG. Ends when the application's
release or environment is another one than at its start, so that it is started anew on that.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from celery.app.utils import find_app

REPLY_SECONDS = 5
# Tells its lines from what the application prints.
MARK = "celery-fleet "


def ground(config: dict[str, Any]) -> list[object]:
    """Return what this process was started from."""
    files = [Path(config["config_dir"]) / name for name in ("environment", "celery_fleet_settings.py")]
    return [os.readlink(config["current"]), *(path.stat().st_mtime_ns for path in files if path.exists())]  # noqa: PTH115


def observe(app: Any, queues: set[str]) -> dict[str, Any]:  # noqa: ANN401 - Celery has no types
    """Return the depth of each queue, or why the broker can't be asked."""
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=REPLY_SECONDS)
            # With Redis a declaration changes nothing, and a passive one forgets the prefix of the keys (kombu 5.7).
            passive = connection.transport.driver_type != "redis"
            waiting = {}
            for queue in queues:
                # Each in a channel of its own, since a queue that is not there yet closes it.
                with connection.channel() as channel:
                    try:
                        waiting[queue] = channel.queue_declare(queue, passive=passive).message_count
                    except connection.channel_errors:
                        waiting[queue] = 0
    except Exception as error:  # whatever it is, nothing is known of the queues then
        return {"broker": False, "error": f"{type(error).__name__}: {error}"}
    return {"broker": True, "waiting": waiting}


def main() -> None:
    name, path = sys.argv[1:]
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    started_from = ground(config)
    queues = {queue for worker in config["workers"] for queue in worker["queues"]}
    app = find_app(name)
    while ground(config) == started_from:
        began = time.monotonic()
        print(MARK + json.dumps(observe(app, queues)), flush=True)
        time.sleep(max(0.0, config["interval"] - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
