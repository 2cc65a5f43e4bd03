"""Report the depths of an application's queues at intervals, as a line of JSON each.

Runs in the application's environment, as its user: celery_run python -m celery_fleet_runtime.services.observe APP
CONFIG. Ends when the application's release or environment has changed, so that the watchdog restarts it with the new
ones.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from .query import connect, depths_of

# Prefix of its lines, which distinguishes them from output of the application.
MARK = "celery-fleet "


def sources(config: dict[str, Any]) -> list[object]:
    """Return the release, and the modification times of the environment and the settings."""
    files = [Path(config["config_dir"]) / name for name in ("environment", "celery_fleet_settings.py")]
    return [os.readlink(config["current"]), *(path.stat().st_mtime_ns for path in files if path.exists())]  # noqa: PTH115


def observe(app: Any, queues: set[str]) -> dict[str, Any]:  # noqa: ANN401 - Celery has no types
    """Return the depth of each queue, or the error if the broker is unavailable."""
    try:
        with app.connection_for_read() as connection:
            connect(connection)
            waiting = depths_of(connection, queues)
    except Exception as error:  # after any error, the depths are unknown
        return {"broker": False, "error": f"{type(error).__name__}: {error}"}
    return {"broker": True, "waiting": waiting}


def main() -> None:
    # Here, because the watchdog imports this module with Debian's Python.
    from celery.app.utils import find_app  # noqa: PLC0415

    name, path = sys.argv[1:]
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    started_from = sources(config)
    queues = {queue for worker in config["workers"] for queue in worker["queues"]}
    app = find_app(name)
    while sources(config) == started_from:
        began = time.monotonic()
        print(MARK + json.dumps(observe(app, queues)), flush=True)
        time.sleep(max(0.0, config["interval"] - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
