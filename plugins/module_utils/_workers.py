"""Workers: queries by remote control, and the files that they write during a warm shutdown."""

from __future__ import annotations

import inspect
import json
import queue
import subprocess
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import read_file
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services import query as query_module

REPLY_SECONDS = 30
# More than a worker writes about its in-flight tasks.
_ENDING_BYTES = 1 << 20


def query_command(root: str, query: str, app: str) -> list[str]:
    """Return the argument list of a query of services/query.py, without the query's own arguments.

    Root runs it, so that it has the key that signs commands. It becomes the application's user.

    Args:
        root: the application's directory.
    """
    command = Path(root) / "bin" / "celery_operator"
    # Until the next run of site.yml, a host may have that of an earlier version of the collection.
    run = command if command.is_symlink() else command.with_name("celery_run")
    return [str(run), "python", "-c", inspect.getsource(query_module), query, app]


def read_reply(raw: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return the queues that each node consumes, from a reply to the query control."""
    return {node: frozenset(queues) for node, queues in raw.get("nodes", {}).items()}


def in_flight(directory: Path, program: str, pid: int, now: float) -> str:
    """Return the in-flight tasks of a worker that is stopping, for people; empty if it has none.

    Source: the file that the worker writes (celery_fleet_runtime.stop).

    Args:
        directory: directory of the counts.
        pid: the worker's process id.
        now: seconds since the epoch.
    """
    try:
        state = json.loads(read_file(directory, f"{program}.ending", _ENDING_BYTES))
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
            command: argument list of the query control.
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
