"""Count a worker's tasks in files of its host, and log each task's result to the journal.

The settings import this module. Producers add the time to each message, from which workers compute its time in the
queue. Programs of Supervisor count tasks and log results. Celery's events are not used: they contain no queue, are
dropped under load, and stop when the broker has a problem.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import signals

from .counts import KINDS, CountsFile

SENT_AT = "sent_at"
STATES = {"done": "SUCCESS", "failed": "FAILURE", "retried": "RETRY"}
#: The prefix of the routing key of a task with a countdown, for quorum queues: the delay in bits.
#: Source: kombu.transport.native_delayed_delivery.
DELAY = re.compile(r"^(?:[01]\.){28}")
#: Attempts to send an entry to a journal whose queue is full, a millisecond apart.
ATTEMPTS = 6
#: Characters of an exception in the journal.
LONGEST_TEXT = 1000


def stamp(headers: dict[str, Any], properties: dict[str, Any] | None = None, **_: object) -> None:
    """Add the time to the message of a task.

    A retry has the headers of the previous attempt, so an existing time is replaced.
    """
    now = time.time()
    headers[SENT_AT] = now
    if properties is not None:
        # RabbitMQ computes the age of a classic queue's oldest message from this.
        properties["timestamp"] = int(now)


def number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def moment(value: object) -> float | None:
    """Return the time of an eta in seconds since the epoch; None if there is none or it is invalid."""
    if value is None:
        return None
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None


def queue_of(request: Any) -> str:  # noqa: ANN401 - Celery has no types of its own
    """Return the queue of a task from the routing key, which is the queue's name with the fleet's settings."""
    return DELAY.sub("", (request.delivery_info or {}).get("routing_key") or "")


@dataclass
class Run:
    """The run of a task.

    Attributes:
        began: start in seconds since the epoch.
        wait: seconds in the queue; None if the message contains no time.
        arguments: arguments as Celery shortens them; empty if they are not logged.
    """

    queue: str
    task: str
    began: float
    wait: float | None = None
    retries: int = 0
    arguments: str = ""
    exception: str = ""


class Report:
    """The counts and the log of a program's tasks.

    Errors of files and sockets must not fail a task, so no method raises them.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Configure the report from a program's environment."""
        self._directory = Path(environment["CELERY_FLEET_COUNTS"])
        self._journal = environment.get("CELERY_FLEET_JOURNAL", "")
        self._arguments = environment.get("CELERY_FLEET_JOURNAL_ARGUMENTS") == "1"
        self._program, self._release = environment["SUPERVISOR_PROCESS_NAME"], environment.get("CELERY_APP_RELEASE", "")
        self._host = socket.gethostname()
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Reset the state, at the beginning and in each forked child."""
        self._lock = threading.Lock()
        self._mine: CountsFile | None = None
        self._runs: dict[str, Run] = {}
        self._socket: socket.socket | None = None
        self._full_until = 0.0

    @property
    def _counts(self) -> CountsFile:
        if self._mine is None:
            # The first tasks of a thread pool start at the same time.
            with self._lock:
                if self._mine is None:
                    self._mine = CountsFile(self._directory, f"{self._program}@{self._release}")
        return self._mine

    def sent(self) -> None:
        with contextlib.suppress(OSError):
            self._counts.send(time.time())

    def begun(self, task_id: str, task: Any) -> None:  # noqa: ANN401 - Celery has no types of its own
        with contextlib.suppress(OSError):
            counts, request, now = self._counts, task.request, time.time()
            sent, due = number(request.get(SENT_AT)), moment(request.eta)
            run = Run(queue_of(request), task.name, now, retries=request.retries or 0)
            if sent is not None:
                run.wait = max(0.0, now - max(sent, due or 0.0))
            if self._arguments:
                run.arguments = f"{request.argsrepr or ''} {request.kwargsrepr or ''}".strip()
            self._runs[task_id] = run
            counts.begin(run.queue, run.task, now, sent, run.wait or 0.0)

    def became(self, kind: str, task_id: str, task: str, request: Any, exception: object = "") -> None:  # noqa: ANN401
        """Count the outcome of a task, one of KINDS."""
        with contextlib.suppress(OSError):
            counts, now = self._counts, time.time()
            # For a killed child, the parent reports the outcome. After a time limit, it does not know the queue.
            run = self._runs.get(task_id) or Run(queue_of(request) if request.id == task_id else "", task, now)
            counts.count(KINDS.index(kind), run.queue, run.task, now)
            if exception:
                run.exception = f"{type(exception).__name__}: {exception}"[:LONGEST_TEXT]
            if task_id not in self._runs:
                self._log(task_id, run, STATES[kind], None)

    def ended(self, task_id: str, state: str) -> None:
        with contextlib.suppress(OSError):
            counts, now = self._counts, time.time()
            if run := self._runs.pop(task_id, None):
                seconds = max(0.0, now - run.began)
                counts.end(run.queue, run.task, now, seconds)
                self._log(task_id, run, state, seconds)

    def _log(self, task_id: str, run: Run, state: str, seconds: float | None) -> None:
        """Send a task's result to the journal. Count a result that could not be sent."""
        if self._journal:
            self._counts.tell(lambda number: self._send(self._entry(task_id, run, state, seconds, number)))

    def _entry(self, task_id: str, run: Run, state: str, seconds: float | None, number: int) -> bytes:
        """Return the journal entry of a task's result.

        Args:
            number: sequence number of the result in the file of counts.
        """
        result = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "state": state,
            "task": run.task,
            "id": task_id,
            "queue": run.queue,
            "program": self._program,
            "host": self._host,
            "release": self._release,
            "wait": None if run.wait is None else round(run.wait, 3),
            "run": None if seconds is None else round(seconds, 3),
            "retries": run.retries,
            "exception": run.exception,
            "source": f"{self._counts.name}@{self._host}",
            "number": number,
            **({"arguments": run.arguments} if run.arguments else {}),
        }
        fields = {
            "MESSAGE": json.dumps(result),
            "PRIORITY": "4" if state == "FAILURE" else "6",
            "SYSLOG_IDENTIFIER": "celery",
            "CELERY_TASK": run.task,
            "CELERY_TASK_ID": task_id,
            "CELERY_STATE": state,
            "CELERY_QUEUE": run.queue,
            "CELERY_PROGRAM": self._program,
            "CELERY_RELEASE": self._release,
        }
        # Source: systemd.io/JOURNAL_NATIVE_PROTOCOL. A value with a newline would need the binary format.
        lines = (f"{name}={value.replace(chr(10), ' ')}\n" for name, value in fields.items())
        return "".join(lines).encode(errors="replace")

    def _send(self, entry: bytes) -> None:
        """Send an entry to the journal.

        A burst fills the journal's queue of ten entries by default (unix(7), max_dgram_qlen), so retry for some
        milliseconds. If that fails, don't retry for a second: a hanging journal costs half a percent of the run time.

        Raises:
            OSError: the journal does not accept the entry.
        """
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        for attempt in range(ATTEMPTS):
            try:
                self._socket.sendto(entry, self._journal)
                return
            except BlockingIOError:
                if time.monotonic() < self._full_until:
                    raise
                if attempt == ATTEMPTS - 1:
                    self._full_until = time.monotonic() + 1
                    raise
                time.sleep(0.001)


def connect(report: Report) -> None:
    """Connect Celery's signals to a report."""

    def sent(**_: object) -> None:
        report.sent()

    def begun(task_id: str, task: Any, **_: object) -> None:  # noqa: ANN401 - as above
        report.begun(task_id, task)

    def done(sender: Any, **_: object) -> None:  # noqa: ANN401 - as above
        report.became("done", sender.request.id, sender.name, sender.request)

    def failed(sender: Any, task_id: str, exception: object = "", **_: object) -> None:  # noqa: ANN401 - as above
        report.became("failed", task_id, sender.name, sender.request, exception)

    def retried(sender: Any, request: Any, reason: object = "", **_: object) -> None:  # noqa: ANN401 - as above
        report.became("retried", request.id, sender.name, request, reason)

    def ended(task_id: str, state: str | None = None, **_: object) -> None:
        report.ended(task_id, state or "")

    handlers = (
        (signals.after_task_publish, sent),
        (signals.task_prerun, begun),
        (signals.task_success, done),
        (signals.task_failure, failed),
        (signals.task_retry, retried),
        (signals.task_postrun, ended),
    )
    for signal, handler in handlers:
        signal.connect(handler, weak=False, dispatch_uid=f"{__name__}.{handler.__name__}")


def install() -> None:
    """Add the time to messages of this process. Report tasks, if this process is a program of Supervisor."""
    signals.before_task_publish.connect(stamp, weak=False, dispatch_uid=f"{__name__}.stamp")
    if os.environ.get("CELERY_FLEET_COUNTS") and os.environ.get("SUPERVISOR_PROCESS_NAME"):
        connect(Report(os.environ))
