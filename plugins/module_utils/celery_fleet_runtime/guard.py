"""Sign the messages that this process sends, and refuse messages that are not signed as they must be.

The settings import this module if celery_signed_messages is set. Signed are tasks, commands of remote control, replies
to them, and events. A worker verifies tasks and commands, a process that controls workers verifies replies and events.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from celery import current_app, signals
from celery.bootsteps import StartStopStep
from kombu import compression, messaging

from .receiver import CONTROL, FRESH_SECONDS, REFUSED, Guard, Options, Receiver, Recent, use_signed, verified
from .refusals import REASONS
from .signing import RefusedError, SenderKey, Signer, Trust

#: Exchanges of replies to remote control, and of events, as Celery names them.
REPLIES, EVENTS = "reply.celery.pidbox", "celeryev"
#: Variable with the number of a file descriptor from which the operator's key is read.
OPERATOR_KEY = "CELERY_FLEET_OPERATOR_KEY"
_KEY_BYTES = 4096
# Not __wrapped__, which the wrappers of others have, too.
_MARK = "celery_fleet_signing"

# kombu has no types.
Consumer: Any = messaging.Consumer
Producer: Any = messaging.Producer
decompress: Any = compression.decompress

log = logging.getLogger(__name__)


def install(directory: str, *, required: bool, window: int, dead_letters: str, operator: bool = False) -> None:
    """Sign what this process sends, and verify what it receives.

    Args:
        directory: see Options, as for the others.
        operator: whether the process controls workers with its own key, as Flower does.
    """
    options = Options(Path(directory), required, window, dead_letters)
    commands = _operator_key()
    sign_published(options.directory, commands)
    if operator or commands:
        verify_answers(options)

    def start(**_: object) -> None:
        # Celery logs an exception of a handler, and would start the worker without its guard.
        try:
            guard_worker(options)
        except Exception as error:
            traceback.print_exc()
            sys.exit(f"celery_signed_messages: the worker can't verify messages: {error}")

    signals.celeryd_init.connect(start, weak=False, dispatch_uid=__name__)


def sign_published(directory: Path, operator: Signer | None) -> None:
    """Sign what this process publishes: commands with the operator's key if it is there, and all else with its own."""
    sender = SenderKey(directory / "sender.key")
    publish = Producer._publish

    if hasattr(publish, _MARK):
        return

    @functools.wraps(publish)
    def publish_signed(self: Any, body: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - kombu has no types
        priority, content_type, encoding, headers, properties, routing_key, *rest = arguments
        exchange = rest[2]
        if REFUSED not in headers and ("task" in headers or exchange in {CONTROL, REPLIES, EVENTS}):
            # The receiver's kombu decompresses a message before anyone else sees it.
            content = decompress(body, headers["compression"]) if headers.get("compression") else body
            signer = operator if operator and exchange == CONTROL else sender.signer
            routing = {"exchange": exchange, "routing_key": routing_key}
            headers = signer.sign(content, headers, properties, content_type=content_type, **routing)
        return publish(self, body, priority, content_type, encoding, headers, properties, routing_key, *rest, **options)

    setattr(publish_signed, _MARK, True)
    Producer._publish = publish_signed


def _operator_key() -> Signer | None:
    """Return the operator's key, if root has passed it to this process."""
    number = os.environ.pop(OPERATOR_KEY, "")
    if not number.isdigit():
        return None
    try:
        return Signer(os.pread(int(number), _KEY_BYTES, 0))
    finally:
        os.close(int(number))


def guard_worker(options: Options) -> None:
    """Have the worker that starts in this process refuse messages that are not signed as they must be."""
    from celery.worker import state  # noqa: PLC0415 - a producer does not need it
    from celery.worker.consumer.consumer import Consumer  # noqa: PLC0415 - as above
    from celery.worker.pidbox import Pidbox  # noqa: PLC0415 - as above

    guard = Guard(options)
    consumers, mailboxes = Consumer, Pidbox
    create_task_handler, on_message = consumers.create_task_handler, mailboxes.on_message
    on_connection_error = consumers.on_connection_error_after_connected

    def create_guarded(self: Any, *arguments: Any, **more: Any) -> Callable[[Any], None]:  # noqa: ANN401 - as above
        return Receiver(guard, self, create_task_handler(self, *arguments, **more)).receive

    def execute_checked(self: Any, body: Mapping[str, Any], message: Any) -> None:  # noqa: ANN401 - as above
        try:
            executes = guard.executes(message)
        except RefusedError as error:
            executes = guard.is_accepted_unsigned(error)
            if not executes:
                guard.refused(f"the command {str(body)[:100]!r}", str(error))
        if executes:
            on_message(self, body, message)

    def on_lost(self: Any, error: Exception) -> None:  # noqa: ANN401 - as above
        # Before Celery cancels the tasks.
        redelivers = bool(self.app.conf.worker_cancel_long_running_tasks_on_connection_loss)
        guard.lose_connection({request.id for request in state.active_requests}, redelivers=redelivers)
        on_connection_error(self, error)

    consumers.create_task_handler, mailboxes.on_message = create_guarded, execute_checked
    consumers.on_connection_error_after_connected = on_lost
    Claims.guard = guard
    current_app.steps["consumer"].add(Claims)
    signals.worker_shutdown.connect(guard.close, weak=False, dispatch_uid=__name__)


class Claims(StartStopStep):  # type: ignore[misc]
    """Bootstep that begins to renew this worker's lease before its first task."""

    # After the pool, whose children a thread would not reach.
    requires = ("celery.worker.consumer.tasks:Tasks",)
    guard: Guard
    _begun = False

    def start(self, _: object) -> None:
        self.guard.renew()
        if not self._begun:
            self._begun = True
            self.guard.keep_lease()


def verify_answers(options: Options) -> None:
    """Drop replies of workers and events that are not signed as they must be, in a process that controls workers."""
    trust, recent = Trust(options.directory / "trusted.json"), Recent()
    receive = Consumer.receive

    def check(message: Any, exchange: str) -> None:  # noqa: ANN401 - as above
        """Use what is signed in a message. Raises RefusedError."""
        _, statement = verified(trust, message)
        if statement.exchange != exchange:
            raise RefusedError("wrong_destination")
        if statement.at < time.time() - FRESH_SECONDS:
            raise RefusedError("expired")
        recent.add(statement.id)
        use_signed(message, statement)

    if hasattr(receive, _MARK):
        return

    @functools.wraps(receive)
    def receive_checked(self: Any, body: Any, message: Any) -> None:  # noqa: ANN401 - as above
        # With Redis, the exchange in the message is the sender's choice.
        exchange = next((queue.exchange.name for queue in self.queues), "")
        if exchange in {REPLIES, EVENTS}:
            try:
                check(message, exchange)
            except RefusedError as error:
                if options.required or str(error) != "unsigned":
                    log.warning("Dropped a message of %s: %s", exchange, REASONS[str(error)])
                    return
        receive(self, body, message)

    setattr(receive_checked, _MARK, True)
    Consumer.receive = receive_checked
