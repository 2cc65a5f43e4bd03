"""Has a worker go on with its tasks while RabbitMQ has a memory or disk alarm.

Imported by the settings of a program that Supervisor runs. Celery 5.7 sends events and replies to remote control from
the loop that also receives and acknowledges tasks, and with publisher confirms it waits for the broker to confirm each.
RabbitMQ confirms nothing over a connection that an alarm blocks, without a time limit: the worker would stand still
until the alarm is over, and the backlog that raised the alarm would never shrink. Events and replies are dropped
instead. Tasks that are sent still wait.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any
from weakref import WeakSet

from amqp import Connection
from celery import signals

_blocked: WeakSet[Connection] = WeakSet()


def is_blocked(producer: Any) -> bool:  # noqa: ANN401 - kombu has no types
    """Return whether RabbitMQ has reported that it blocks a producer's connection.

    RabbitMQ takes and confirms the first message after an alarm, and reports the block before the second.
    """
    connection = getattr(producer.channel, "connection", None)
    # One that is not connected would connect to be read from.
    if not isinstance(connection, Connection) or not connection.connected:
        return False
    if connection.on_blocked is None:
        connection.on_blocked = lambda _: _blocked.add(connection)
        connection.on_unblocked = lambda: _blocked.discard(connection)
    # Ends with a timeout once nothing is left to read. Any other error is for the send to report.
    with contextlib.suppress(Exception):
        while True:
            connection.drain_events(timeout=0)
    return connection in _blocked


def drop_blocked(**_: object) -> None:
    """Have this worker drop events and replies that it could not send at once."""
    from celery.events.dispatcher import EventDispatcher  # noqa: PLC0415 - a sender need not load it
    from kombu.pidbox import Mailbox  # noqa: PLC0415 - as above

    dispatchers: Any = EventDispatcher
    mailboxes: Any = Mailbox
    publish, publish_reply = dispatchers._publish, mailboxes._publish_reply

    def publish_event(self: Any, event: object, producer: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as above
        if producer is None or not is_blocked(producer):
            publish(self, event, producer, *arguments, **options)

    def reply(self: Any, *arguments: Any, channel: Any = None, producer: Any = None, **options: Any) -> None:  # noqa: ANN401 - as above
        with self.producer_or_acquire(producer, channel) as acquired:
            if not is_blocked(acquired):
                publish_reply(self, *arguments, channel=channel, producer=acquired, **options)

    dispatchers._publish, mailboxes._publish_reply = publish_event, reply


def install() -> None:
    """Drop them in a worker that Supervisor runs."""
    if os.environ.get("SUPERVISOR_PROCESS_NAME"):
        signals.celeryd_init.connect(drop_blocked, weak=False, dispatch_uid="celery_fleet_alarm")
