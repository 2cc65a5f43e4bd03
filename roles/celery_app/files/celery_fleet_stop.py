"""Has a worker take no more tasks before it ends, so that none is on its way to a child at that moment.

Imported by the settings of a program that Supervisor runs. Celery 5.7 may forget to acknowledge a task that it hands to
a child while it begins to end: the task is done, and then done again by another worker.

A worker that ends answers nobody, so it says in a file what it is still at.
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

# Redis may still answer a question for a message that was asked before the consumer was cancelled.
SETTLE_SECONDS = 1.5
# Where many messages were reserved, the rest is handed back.
LONGEST_SECONDS = 10.0
TICK_SECONDS = 0.25
WATCH_SECONDS = 1.0


class Stop:
    """What a TERM does to a worker: it takes no more, and then goes on as Celery has it."""

    def __init__(self, consumer: Any, end: Callable[..., object]) -> None:  # noqa: ANN401 - Celery has no types
        """Take the place of Celery's handler.

        Args:
            consumer: the worker's.
            end: what Celery does at a TERM.
        """
        self._consumer = consumer
        self._end = end
        self._told = 0.0
        self._ended = False
        # It waits from the beginning: where gevent calls a handler of signals, no thread can be started.
        threading.Thread(target=self.watch, daemon=True).start()

    def handle(self, *_: object) -> None:
        """Begin, or, when told again, end at once."""
        if self._told:
            self.end()
            return
        self._told = time.monotonic()
        self._consumer.call_soon(self.take_no_more)

    def watch(self) -> None:
        """Once it is told to end, say what it is at; end it in any case if it takes too long to come to that."""
        while True:
            time.sleep(WATCH_SECONDS)
            if self._told:
                self.tell()
                # A worker whose broker is away does not come to what it is asked to do soon.
                if time.monotonic() - self._told >= LONGEST_SECONDS:
                    self.end()

    def take_no_more(self) -> None:
        for queue in list(self._consumer.app.amqp.queues.consume_from):
            self._consumer.cancel_task_queue(queue)
        self._consumer.timer.call_repeatedly(TICK_SECONDS, self.look)

    def look(self) -> None:
        """End, once every task that was received has begun."""
        from celery.worker import state  # noqa: PLC0415 - there in a worker; a sender need not load it

        begun = len(state.reserved_requests) <= len(state.active_requests)
        if begun and time.monotonic() - self._told >= SETTLE_SECONDS:
            self.end()

    def tell(self) -> None:
        from celery.worker import state  # noqa: PLC0415 - as above

        path = Path(os.environ["CELERY_FLEET_COUNTS"], f"{os.environ['SUPERVISOR_PROCESS_NAME']}.ending")
        temporary = path.with_suffix(".part")
        # A set that changes meanwhile, or a disk that is full: the next time then.
        with contextlib.suppress(RuntimeError, OSError):
            tasks = [{"name": task.name, "since": task.time_start} for task in list(state.active_requests)]
            temporary.write_text(json.dumps({"pid": os.getpid(), "tasks": tasks}), encoding="utf-8")
            temporary.replace(path)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._end(signal.SIGTERM, None)


def install() -> None:
    """Stop the worker so, if it is a program that Supervisor runs."""
    if not os.environ.get("SUPERVISOR_PROCESS_NAME") or not os.environ.get("CELERY_FLEET_COUNTS"):
        return

    def replace(sender: Any, **_: object) -> None:  # noqa: ANN401 - as above
        end = signal.getsignal(signal.SIGTERM)
        if callable(end):
            signal.signal(signal.SIGTERM, Stop(sender, end).handle)
            from celery.worker.control import Panel  # noqa: PLC0415 - as above

            # By remote control it is to end in the same way: Celery's own leaves the loop at once.
            Panel.data["shutdown"] = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)

    signals.worker_ready.connect(replace, weak=False, dispatch_uid="celery_fleet_stop")
