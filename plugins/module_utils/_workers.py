"""Workers, asked by remote control what they are at."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Runs in the application's environment, as its user. A line comes in with the names of nodes and whether they are to
# end, warm; a line of their answers goes out.
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
            queues, active = inspect.active_queues() or {}, inspect.active() or {}
        answer = {"nodes": {node: {"queues": [each["name"] for each in found], "tasks": [
            {"id": task["id"], "name": task["name"], "since": task["time_start"]} for task in active.get(node) or ()
        ]} for node, found in queues.items()}}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
"""
ANSWER_SECONDS = 30


@dataclass(frozen=True)
class Task:
    """A task that a worker is at.

    Attributes:
        since: seconds since the epoch, by its worker's clock; None if it has not begun.
    """

    id: str
    name: str
    since: float | None


@dataclass(frozen=True)
class Answer:
    """What a worker says of itself."""

    queues: frozenset[str]
    tasks: tuple[Task, ...]


def read_answers(raw: Mapping[str, Any]) -> dict[str, Answer]:
    """Return what each node said, from a line of the asker's."""
    return {
        node: Answer(
            frozenset(said["queues"]), tuple(Task(each["id"], each["name"], each["since"]) for each in said["tasks"])
        )
        for node, said in raw.get("nodes", {}).items()
    }


def ending(tasks: Iterable[Task], told: float, now: float) -> str:
    """Return what a worker that was told to end was at then.

    Args:
        told: when that was, in seconds since the epoch, as now.
    """
    begun = [(task.since, task.name) for task in tasks if task.since]
    if not begun:
        return ""
    since, name = min(begun)
    return f"{len(begun)} when it was told to, {now - told:.0f} s ago; the oldest is {name}, for {now - since:.0f} s"


class Asker:
    """A process that asks the workers, as long as the context lasts.

    Attributes:
        error: why the last question had no answer; empty if it had one.
    """

    def __init__(self, command: list[str]) -> None:
        """Start it.

        Args:
            command: runs ASK in the application's environment, as its user, with the application's name.
        """
        self.error = ""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/"
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put("")

    def ask(self, nodes: Iterable[str], *, end: bool = False) -> dict[str, Answer]:
        """Return the answers of those nodes that answer.

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
            self.error = "the application can't ask its workers; it may not import"
            return {}
        self.error = str(raw.get("error", ""))
        return read_answers(raw)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
