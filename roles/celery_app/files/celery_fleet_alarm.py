"""Keep a worker running tasks during a memory or disk alarm of RabbitMQ.

The settings of Supervisor's programs import this module. Celery 5.7 publishes events and replies to remote control from
the event loop that also receives and acknowledges tasks, and with publisher confirms it waits for each confirm. During
an alarm, RabbitMQ blocks the connection and confirms nothing, without a timeout. The worker would stop until the end of
the alarm, and the backlog that raised the alarm would never shrink. So events and replies are dropped. Publishing a
task still waits.
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

    RabbitMQ accepts the first message after an alarm, and reports the block before the second one.
    """
    connection = getattr(producer.channel, "connection", None)
    # Reading from a closed connection would open it.
    if not isinstance(connection, Connection) or not connection.connected:
        return False
    if connection.on_blocked is None:
        connection.on_blocked = lambda _: _blocked.add(connection)
        connection.on_unblocked = lambda: _blocked.discard(connection)
    # Ends with a timeout when nothing is left to read. Publishing reports any other error.
    with contextlib.suppress(Exception):
        while True:
            connection.drain_events(timeout=0)
    return connection in _blocked


def drop_blocked(**_: object) -> None:
    """Drop this worker's events and replies while its connection is blocked."""
    from celery.events.dispatcher import EventDispatcher  # noqa: PLC0415 - a producer does not need it
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
    """Drop events and replies during an alarm, if this process is a worker of Supervisor."""
    if os.environ.get("SUPERVISOR_PROCESS_NAME"):
        signals.celeryd_init.connect(drop_blocked, weak=False, dispatch_uid="celery_fleet_alarm")
