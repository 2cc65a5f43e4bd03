"""Workers: queries by remote control, and the files that they write during a warm shutdown."""

from __future__ import annotations

import glob
import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._counts import regular_files

# Runs in the application's environment, as its user. Each line of input has node names, and whether to shut them down
# warm first. Each line of output has the queues of the nodes that answer.
REMOTE_CONTROL = """
import json, sys
from celery.app.utils import find_app
app = find_app(sys.argv[1])
app.loader.import_default_modules()
for line in sys.stdin:
    nodes, shutdown = json.loads(line)
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            inspect = app.control.inspect(destination=nodes, timeout=5, connection=connection)
            if shutdown:
                app.control.shutdown(destination=nodes, connection=connection)
            queues = inspect.active_queues() or {}
        reply = {"nodes": {node: [each["name"] for each in consumed] for node, consumed in queues.items()}}
    except Exception:
        reply = {}
    print(json.dumps(reply), flush=True)
"""
REPLY_SECONDS = 30
# More than a worker writes about its in-flight tasks.
_ENDING_BYTES = 1 << 20
# Part of programs that run in the application's environment.
DEPTHS_OF = """
def depths_of(connection, queues):
    # With Redis a declaration changes nothing, and a passive one forgets the prefix of the keys (kombu 5.7).
    passive = connection.transport.driver_type != "redis"
    depths = {}
    for queue in queues:
        with connection.channel() as channel:
            try:
                depths[queue] = channel.queue_declare(queue, passive=passive).message_count
            except connection.channel_errors:
                depths[queue] = 0
    return depths
"""


def celery_run(root: str, user: str) -> list[str]:
    """Return the argument list that runs a command in the application's environment, as its user.

    Args:
        root: the application's directory.
    """
    return ["runuser", "-u", user, "--", f"{root}/bin/celery_run"]


def read_reply(raw: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return the queues that each node consumes, from a line of REMOTE_CONTROL's output."""
    return {node: frozenset(queues) for node, queues in raw.get("nodes", {}).items()}


def in_flight(directory: Path, program: str, pid: int, now: float) -> str:
    """Return the in-flight tasks of a worker that is stopping, for people; empty if it has none.

    Source: the file that the worker writes (celery_fleet_stop.py).

    Args:
        directory: directory of the counts.
        pid: the worker's process id.
        now: seconds since the epoch.
    """
    try:
        (text,) = (
            os.read(file, _ENDING_BYTES) for _, file in regular_files(directory, f"{glob.escape(program)}.ending")
        )
        state = json.loads(text)
        started = [(float(task["since"]), str(task["name"])) for task in state["tasks"] if task["since"]]
    except (ValueError, KeyError, TypeError):
        return ""
    if state["pid"] != pid or not started:
        return ""
    since, name = min(started)
    return f"{len(started)} in flight, the oldest, {name}, for {now - since:.0f} s"


class RemoteControl:
    """A process that sends remote control commands to workers, until it is closed."""

    def __init__(self, command: list[str]) -> None:
        """Start the process.

        Args:
            command: argument list that runs REMOTE_CONTROL in the application's environment, as its user.
        """
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/"
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def consumed_queues(self, nodes: Iterable[str], *, shutdown: bool = False) -> dict[str, frozenset[str]]:
        """Return the queues of the nodes that answer.

        Args:
            shutdown: shut the nodes down warm first.
        """
        try:
            print(json.dumps([list(nodes), shutdown]), file=self._process.stdin, flush=True)
            line = self._lines.get(timeout=REPLY_SECONDS)
            # Skip what the application prints when it is imported.
            while line and not line.startswith("{"):
                line = self._lines.get(timeout=REPLY_SECONDS)
            raw = json.loads(line)
        except (OSError, ValueError, queue.Empty):
            return {}
        return read_reply(raw)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
