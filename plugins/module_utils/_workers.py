"""Workers: what they say by remote control, and in files while they end."""

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

# Runs in the application's environment, as its user. A line comes in with the names of nodes and whether they are to
# end, warm; a line goes out with the queues of those that answer.
ASK = """
import json, sys
from celery.app.utils import find_app
app = find_app(sys.argv[1])
app.loader.import_default_modules()
for line in sys.stdin:
    nodes, end = json.loads(line)
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            inspect = app.control.inspect(destination=nodes, timeout=5, connection=connection)
            if end:
                app.control.shutdown(destination=nodes, connection=connection)
            queues = inspect.active_queues() or {}
        answer = {"nodes": {node: [each["name"] for each in found] for node, found in queues.items()}}
    except Exception:
        answer = {}
    print(json.dumps(answer), flush=True)
"""
ANSWER_SECONDS = 30
# More than a worker writes of the tasks that it is still at.
_ENDING_BYTES = 1 << 20
# For programs that run there too.
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
    """Return what runs a command in the application's environment, as its user.

    Args:
        root: the application's directory.
    """
    return ["runuser", "-u", user, "--", f"{root}/bin/celery_run"]


def read_answers(raw: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return the queues that each node consumes, from a line of the asker's."""
    return {node: frozenset(queues) for node, queues in raw.get("nodes", {}).items()}


def still_at(directory: Path, program: str, pid: int, now: float) -> str:
    """Return what a worker that ends is still at, from what it writes itself (celery_fleet_stop.py).

    Args:
        directory: of the counts.
        pid: its process.
        now: seconds since the epoch.
    """
    try:
        (text,) = (
            os.read(file, _ENDING_BYTES) for _, file in regular_files(directory, f"{glob.escape(program)}.ending")
        )
        told = json.loads(text)
        begun = [(float(task["since"]), str(task["name"])) for task in told["tasks"] if task["since"]]
    except (ValueError, KeyError, TypeError):
        return ""
    if told["pid"] != pid or not begun:
        return ""
    since, name = min(begun)
    return f"{len(begun)} still run, the oldest, {name}, for {now - since:.0f} s"


class Asker:
    """A process that asks the workers, until it is closed."""

    def __init__(self, command: list[str]) -> None:
        """Start it.

        Args:
            command: runs ASK in the application's environment, as its user, with the application's name.
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

    def ask(self, nodes: Iterable[str], *, end: bool = False) -> dict[str, frozenset[str]]:
        """Return the queues of those nodes that answer.

        Args:
            end: tell them first to end, warm.
        """
        try:
            assert self._process.stdin  # noqa: S101 - it is a pipe
            self._process.stdin.write(json.dumps([list(nodes), end]) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=ANSWER_SECONDS)
            # What an application prints when it is imported is no answer.
            while line and not line.startswith("{"):
                line = self._lines.get(timeout=ANSWER_SECONDS)
            raw = json.loads(line)
        except (OSError, ValueError, queue.Empty):
            return {}
        return read_answers(raw)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
