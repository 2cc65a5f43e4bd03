"""Stop a worker's consumers before its shutdown, so that no task is in transit to a child at that moment.

The settings of Supervisor's programs import this module. Celery 5.7 may not acknowledge a task that it passes to a
child at the beginning of a shutdown. The task runs, and after its redelivery another worker runs it again.

A worker does not answer remote control during its shutdown, so it writes its tasks in flight to a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import signals

# Redis may still deliver a message for a request from before the cancellation of the consumer.
SETTLE_SECONDS = 1.5
# After this time, the shutdown begins, and the broker redelivers messages that have not started.
LONGEST_SECONDS = 10.0
TICK_SECONDS = 0.25
WATCH_SECONDS = 1.0


class Stop:
    """Handler of SIGTERM that cancels the worker's consumers before Celery's own handler runs."""

    def __init__(self, consumer: Any, end: Callable[..., object]) -> None:  # noqa: ANN401 - Celery has no types
        """Start the thread that watches the shutdown.

        Args:
            consumer: the worker's consumer.
            end: Celery's handler of SIGTERM.
        """
        self._consumer = consumer
        self._end = end
        self._requested = 0.0
        self._ended = False
        # Not in the handler: with gevent, a signal handler can't start a thread.
        threading.Thread(target=self.watch, daemon=True).start()

    def handle(self, *_: object) -> None:
        """Cancel the consumers. At a second signal, shut down at once."""
        if self._requested:
            self.end()
            return
        self._requested = time.monotonic()
        self._consumer.call_soon(self.cancel_consumers)

    def watch(self) -> None:
        """Report the tasks in flight after SIGTERM. Shut down after LONGEST_SECONDS in any case."""
        while True:
            time.sleep(WATCH_SECONDS)
            if self._requested:
                self.report()
                # Without a broker, the event loop does not run the calls of call_soon.
                if time.monotonic() - self._requested >= LONGEST_SECONDS:
                    self.end()

    def cancel_consumers(self) -> None:
        for queue in list(self._consumer.app.amqp.queues.consume_from):
            self._consumer.cancel_task_queue(queue)
        self._consumer.timer.call_repeatedly(TICK_SECONDS, self.poll)

    def poll(self) -> None:
        """Shut down once all received tasks have started."""
        from celery.worker import state  # noqa: PLC0415 - a producer does not need it

        started = len(state.reserved_requests) <= len(state.active_requests)
        if started and time.monotonic() - self._requested >= SETTLE_SECONDS:
            self.end()

    def report(self) -> None:
        """Write the tasks in flight to a file, with the start of each."""
        from celery.worker import state  # noqa: PLC0415 - as above

        path = Path(os.environ["CELERY_FLEET_COUNTS"], f"{os.environ['SUPERVISOR_PROCESS_NAME']}.ending")
        temporary = path.with_suffix(".part")
        # The set may change during the iteration, and the disk may be full. The next report follows within a second.
        with contextlib.suppress(RuntimeError, OSError):
            tasks = [{"name": task.name, "since": task.time_start} for task in list(state.active_requests)]
            temporary.write_text(json.dumps({"pid": os.getpid(), "tasks": tasks}), encoding="utf-8")
            temporary.replace(path)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._end(signal.SIGTERM, None)


def install() -> None:
    """Replace Celery's handler of SIGTERM, if this process is a program of Supervisor."""
    if not os.environ.get("SUPERVISOR_PROCESS_NAME") or not os.environ.get("CELERY_FLEET_COUNTS"):
        return

    def replace(sender: Any, **_: object) -> None:  # noqa: ANN401 - as above
        end = signal.getsignal(signal.SIGTERM)
        if callable(end):
            signal.signal(signal.SIGTERM, Stop(sender, end).handle)
            from celery.worker.control import Panel  # noqa: PLC0415 - as above

            # Celery's own remote shutdown leaves the event loop at once.
            Panel.data["shutdown"] = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)

    signals.worker_ready.connect(replace, weak=False, dispatch_uid=__name__)
