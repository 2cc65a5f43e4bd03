"""Has a worker take no more tasks before it ends, so that none is on its way to a child at that moment.

Imported by the settings of a program that Supervisor runs. Celery 5.7 may forget to acknowledge a task that it hands to
a child while it begins to end: the task is done, and then done again by another worker.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import signals

# Redis may still answer a question for a message that was asked before the consumer was cancelled.
SETTLE_SECONDS = 1.5
# Where many messages were reserved, the rest is handed back.
LONGEST_SECONDS = 10.0
TICK_SECONDS = 0.25


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

    def handle(self, *_: object) -> None:
        """Begin, or, when told again, end at once."""
        if self._told:
            self.end()
            return
        self._told = time.monotonic()
        # A worker whose broker is away does not come to what it is asked to do soon.
        timer = threading.Timer(LONGEST_SECONDS, self.end)
        timer.daemon = True
        timer.start()
        self._consumer.call_soon(self.take_no_more)

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

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._end(signal.SIGTERM, None)


def install() -> None:
    """Stop the worker so, if it is a program that Supervisor runs."""
    if not os.environ.get("SUPERVISOR_PROCESS_NAME"):
        return

    def replace(sender: Any, **_: object) -> None:  # noqa: ANN401 - as above
        end = signal.getsignal(signal.SIGTERM)
        if callable(end):
            signal.signal(signal.SIGTERM, Stop(sender, end).handle)

    signals.worker_ready.connect(replace, weak=False, dispatch_uid="celery_fleet_stop")
