"""Keep a worker running tasks during a memory or disk alarm of RabbitMQ.

The settings of Supervisor's programs import this module. Celery 5.7 publishes events and replies to remote control from
the event loop that also receives and acknowledges tasks, and with publisher confirms it waits for each confirm. During
an alarm, RabbitMQ blocks the connection and confirms nothing, without a timeout. The worker would stop until the end of
the alarm, and the backlog that raised the alarm would never shrink. So events and replies are not confirmed, and they
are dropped while their connection is blocked. Publishing a task is confirmed, and waits.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any
from weakref import WeakSet

from amqp import Channel, Connection
from celery import signals

_blocked: WeakSet[Connection] = WeakSet()


def is_blocked(channel: object) -> bool:
    """Return whether RabbitMQ has reported that it blocks a channel's connection."""
    connection = channel.connection if isinstance(channel, Channel) else None
    # Reading from a closed connection would open it.
    if connection is None or not connection.connected:
        return False
    if connection.on_blocked is None:
        connection.on_blocked = lambda _: _blocked.add(connection)
        connection.on_unblocked = lambda: _blocked.discard(connection)
    # Ends with a timeout when nothing is left to read. Publishing reports any other error.
    with contextlib.suppress(Exception):
        while True:
            connection.drain_events(timeout=0)
    return connection in _blocked


def wait_for_none(instance: Any, conf: Any, **_: object) -> None:  # noqa: ANN401 - Celery has no types
    """Publish a starting worker's events and replies without waiting for confirms."""
    if not conf.broker_transport_options.get("confirm_publish"):
        return
    from celery.events.dispatcher import EventDispatcher  # noqa: PLC0415 - a producer does not need it
    from kombu.pidbox import Mailbox  # noqa: PLC0415 - as above
    from kombu.pools import producers  # noqa: PLC0415 - as above

    dispatchers: Any = EventDispatcher
    mailboxes: Any = Mailbox
    publish_confirmed, publish_reply = dispatchers._publish, mailboxes._publish_reply
    app = instance.app

    def publish(self: Any, event: object, producer: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as above
        # The event of a sent task is published by the task's own producer, which confirms.
        if producer is not None and producer is self.producer:
            channel = producer.channel
            if is_blocked(channel):
                return
            if isinstance(channel, Channel):
                channel.basic_publish = channel._basic_publish
        publish_confirmed(self, event, producer, *arguments, **options)

    def reply(self: Any, *arguments: Any, channel: Any = None, producer: Any = None, **options: Any) -> None:  # noqa: ANN401 - as above
        with self.producer_or_acquire(producer, channel) as acquired:
            if not is_blocked(acquired.channel):
                publish_reply(self, *arguments, channel=channel, producer=acquired, **options)

    dispatchers._publish, mailboxes._publish_reply = publish, reply
    # Not the connections that publish tasks: an unread confirm would be taken for that of a later task.
    replies = app.connection_for_write(transport_options={"confirm_publish": False})
    app.control.mailbox.producer_pool = producers[replies]


def install() -> None:
    """Do so in a worker that Supervisor runs."""
    if os.environ.get("SUPERVISOR_PROCESS_NAME"):
        signals.celeryd_init.connect(wait_for_none, weak=False, dispatch_uid=__name__)
