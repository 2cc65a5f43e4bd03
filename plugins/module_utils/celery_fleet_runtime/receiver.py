"""Verify the messages that a worker receives, and start each task once.

Refused tasks are sent to the dead letters with their reason.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .alarm import is_blocked
from .refusals import REASONS, Refusals
from .replay import DONE, GONE, LEASE_SECONDS, RENEW_SECONDS, ReplayCache
from .report import DELAY
from .signing import PROPERTIES, SKEW_SECONDS, RefusedError, Statement, Trust, TrustedKey, verify

#: Exchange of the commands of remote control, as Celery names it.
CONTROL = "celery.pidbox"
#: A command of remote control, a reply and an event are valid for this time.
FRESH_SECONDS = 60 + SKEW_SECONDS
#: Between two attempts to claim a message that another worker has.
RETRY_SECONDS = 1.0
#: Header of a refused task among the dead letters, with the reason.
REFUSED = "fleet-refused"
# Less than two heartbeats of the broker.
DEAD_LETTER_SECONDS = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How messages are signed.

    Attributes:
        directory: that has the keys.
        required: whether unsigned messages are refused.
        window: seconds for which a message is valid, from its time or its eta on.
        dead_letters: queue for refused tasks.
    """

    directory: Path
    required: bool
    window: int
    dead_letters: str


def verified(trust: Trust, message: Any) -> tuple[TrustedKey, Statement]:  # noqa: ANN401 - as above
    """Return the key of a message's sender, and what the sender states. Raises RefusedError."""
    return verify(trust.keys, message.headers, message.body, content_type=message.content_type, now=time.time())


class Recent:
    """The messages of the last time that were received, for those that are valid for FRESH_SECONDS only."""

    def __init__(self) -> None:
        # The oldest come first.
        self._nonces: OrderedDict[str, float] = OrderedDict()

    def add(self, nonce: str) -> None:
        """Remember a message. Raises RefusedError if it was received before."""
        now = time.monotonic()
        if nonce in self._nonces:
            raise RefusedError("replayed")
        while self._nonces and next(iter(self._nonces.values())) <= now - FRESH_SECONDS - SKEW_SECONDS:
            self._nonces.popitem(last=False)
        self._nonces[nonce] = now


class Guard:
    """What a worker's process knows about the messages that it receives."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.trust = Trust(options.directory / "trusted.json")
        self.cache = ReplayCache(options.directory / "replay_cache.json")
        self.started = time.time()
        #: Messages that this process has claimed, and not acknowledged, with the IDs of their tasks.
        self.claimed: dict[str, str] = {}
        #: What the cache does not know yet: messages that are done, with their seconds, and claims that are given up.
        self._finished: dict[str, float] = {}
        self._released: set[str] = set()
        # A thread tells the cache.
        self._lock = threading.Lock()
        #: Numbers of connections to the broker that were lost, and of those whose tasks were cancelled.
        self.connection = self.cancelled = 0
        self._gone: dict[str, tuple[str, float]] = {}
        self._recent = Recent()
        program = os.environ.get("SUPERVISOR_PROCESS_NAME")
        self._refusals = Refusals(Path(os.environ["CELERY_FLEET_COUNTS"]), program) if program else None

    def verify(self, message: Any) -> tuple[TrustedKey, Statement]:  # noqa: ANN401 - kombu has no types
        """Return the key of a message's sender, and what the sender states. Raises RefusedError."""
        return verified(self.trust, message)

    def is_accepted_unsigned(self, error: RefusedError) -> bool:
        return str(error) == "unsigned" and not self.options.required

    def refused(self, what: str, reason: str) -> None:
        """Log and count a refused message."""
        log.error("Refused %s: %s (%s)", what, REASONS[reason], reason)
        if self._refusals:
            self._refusals.count(reason)

    def executes(self, message: Any) -> bool:  # noqa: ANN401 - as above
        """Return whether a command of remote control is executed. Raises RefusedError.

        A process does not remember the commands of the time before its start, which wait for it in its queue. It drops
        them: each of them may be a recorded one.
        """
        key, statement = self.verify(message)
        if statement.exchange != CONTROL:
            raise RefusedError("wrong_destination")
        if not key.operator:
            raise RefusedError("not_operator")
        if statement.at < time.time() - FRESH_SECONDS:
            raise RefusedError("expired")
        self._recent.add(statement.id)
        if statement.at < self.started:
            log.info("Dropped a command of the time before the start of this worker")
        return statement.at >= self.started

    def valid_seconds(self, statement: Statement) -> float:
        """Return for how many seconds a message is valid; not above 0 if it has expired."""
        return statement.due + self.options.window - time.time()

    def renew(self) -> None:
        """Renew the lease, and tell the cache what it does not know yet."""
        try:
            self.cache.renew()
            for nonce, seconds in list(self._finished.items()):
                self.cache.finish(nonce, seconds)
                del self._finished[nonce]
            for nonce in list(self._released):
                with self._lock:
                    # It may be claimed again meanwhile.
                    if nonce in self._released:
                        self.cache.release(nonce)
                        self._released.discard(nonce)
        except OSError as error:
            log.warning("The replay cache can't be reached: %s", error)

    def claim(self, nonce: str, task: str, seconds: float) -> str:
        """Claim a message, and return who has it instead; empty if this process may start it.

        A worker without a lease may have lost it with the cache for a while. So its claim is taken over only if it
        still has none after LEASE_SECONDS.

        Args:
            task: ID of its task.

        Raises:
            OSError: the cache can't be reached.
        """
        gone, since = self._gone.get(nonce, ("", 0.0))
        over = gone if time.monotonic() - since >= LEASE_SECONDS else ""
        with self._lock:
            owner = self.cache.claim(nonce, seconds, over)
            if owner == self.cache.owner:
                # It was released, or the reply to its claim was lost.
                owner = DONE if nonce in self._finished else owner if nonce in self.claimed else ""
            if not owner:
                self.claimed[nonce] = task
                self._released.discard(nonce)
        if owner.startswith(GONE):
            if owner.removeprefix(GONE) != gone:
                self._gone[nonce] = (owner.removeprefix(GONE), time.monotonic())
        else:
            self._gone.pop(nonce, None)
        return owner

    def finish(self, nonce: str, seconds: float) -> None:
        """Mark a message as done. If the cache can't be reached, the lease's renewal does so later."""
        self.claimed.pop(nonce, None)
        try:
            self.cache.finish(nonce, seconds)
        except OSError:
            self._finished[nonce] = seconds

    def release(self, nonce: str) -> None:
        """Give up the claim of a message, so that another worker may start it. As with finish, it may take a while."""
        self.claimed.pop(nonce, None)
        try:
            self.cache.release(nonce)
        except OSError:
            self._released.add(nonce)

    def lose_connection(self, running: Collection[str], *, redelivers: bool) -> None:
        """Give up the claims of tasks that will not end here, because the connection to the broker is lost.

        Args:
            running: IDs of the tasks that run. Celery drops those that have not started.
            redelivers: whether the broker delivers all messages again at once, so that Celery cancels these, too.
        """
        self.connection += 1
        self.cancelled += redelivers
        self.end(() if redelivers else running)

    def end(self, kept: Collection[str] = ()) -> None:
        """Give up all claims, but those of some tasks."""
        for nonce, task in list(self.claimed.items()):
            if task not in kept:
                self.release(nonce)

    def close(self, **_: object) -> None:
        """Give up all claims and the lease, before this process ends."""
        self.end()
        self.renew()
        # With its lease, a claim of a message that is done is not free at once.
        if not self._finished:
            with contextlib.suppress(OSError):
                self.cache.end()

    def keep_lease(self) -> None:
        """Renew the lease for as long as the process lives, also while its event loop stands still."""
        threading.Thread(target=self._renew_always, name="celery-fleet-lease", daemon=True).start()

    def _renew_always(self) -> None:
        while True:
            time.sleep(RENEW_SECONDS)
            self.renew()


class Receiver:
    """Receives the tasks of a worker's present connection to its broker."""

    def __init__(self, guard: Guard, consumer: Any, start: Callable[[Any], object]) -> None:  # noqa: ANN401 - as above
        """Prepare to receive tasks.

        Args:
            consumer: the worker's consumer.
            start: Celery's handler of a received task.
        """
        self._guard = guard
        self._consumer = consumer
        self._start = start
        self._connection = guard.connection
        self._queues = self._consumed()

    def receive(self, message: Any) -> None:  # noqa: ANN401 - as above
        """Start the task of a message, or refuse it."""
        guard = self._guard
        try:
            _, statement = guard.verify(message)
            if not self._consumes(DELAY.sub("", statement.routing_key)):
                raise RefusedError("wrong_destination")
            if guard.valid_seconds(statement) <= 0:
                raise RefusedError("expired")
        except RefusedError as error:
            if guard.is_accepted_unsigned(error):
                self._start(message)
            else:
                self._refuse(message, str(error))
        else:
            self._claim(message, statement)

    def _consumes(self, queue: str) -> bool:
        # Before a shutdown, a worker cancels its consumers, and still receives what is in transit.
        if queue not in self._queues:
            self._queues |= self._consumed()
        return queue in self._queues

    def _consumed(self) -> set[str]:
        return {queue.name for queue in self._consumer.task_consumer.queues}

    def _claim(self, message: Any, statement: Statement) -> None:  # noqa: ANN401 - as above
        """Start the task of a message that no worker has started, and settle the others."""
        guard = self._guard
        if guard.connection != self._connection:  # the broker delivers the message again
            return
        seconds = guard.valid_seconds(statement) + SKEW_SECONDS
        try:
            owner = guard.claim(statement.id, str(statement.headers.get("id")), seconds)
        except OSError as error:
            log.warning("The task %s waits for the replay cache: %s", _name(message), error)
            self._claim_later(message, statement)
            return
        if not owner:
            started = _settle_with(guard, message, statement.id, seconds)
            use_signed(message, statement)
            if self._consumer.app.conf.broker_url.startswith(("redis", "sentinel")):
                # A retry is sent to them. With RabbitMQ, they are the broker's own.
                routing = {"exchange": statement.exchange, "routing_key": statement.routing_key}
                message.delivery_info = {**message.delivery_info, **routing}
            self._start(message)
            started.set()
        elif not message.delivery_info.get("redelivered"):
            self._refuse(message, "replayed")
        elif owner == DONE:
            log.info("Dropped the second delivery of the task %s, which is done", _name(message))
            message.ack_log_error(log, self._consumer.connection_errors)
        else:
            self._claim_later(message, statement)

    def _claim_later(self, message: Any, statement: Statement) -> None:  # noqa: ANN401 - as above
        self._consumer.timer.call_after(RETRY_SECONDS, self._claim, (message, statement))

    def _refuse(self, message: Any, reason: str) -> None:  # noqa: ANN401 - as above
        self._guard.refused(f"the task {_name(message)}", reason)
        try:
            self._send_to_dead_letters(message, reason)
        except Exception:
            log.exception("The refused task %s could not be sent to the dead letters", _name(message))
            message.reject_log_error(log, self._consumer.connection_errors)
        else:
            message.ack_log_error(log, self._consumer.connection_errors)

    def _send_to_dead_letters(self, message: Any, reason: str) -> None:  # noqa: ANN401 - as above
        headers = {name: value for name, value in message.headers.items() if name != "compression"}
        with self._consumer.app.amqp.producer_pool.acquire(block=True, timeout=DEAD_LETTER_SECONDS) as producer:
            if is_blocked(producer.channel):
                raise ConnectionError("RabbitMQ blocks the connection")
            producer.publish(
                message.body,
                exchange="",
                routing_key=self._guard.options.dead_letters,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers={**headers, REFUSED: reason},
                confirm_timeout=DEAD_LETTER_SECONDS,
                # The pool keeps connections that the broker has closed.
                retry=True,
                retry_policy={"max_retries": 1, "interval_start": 0},
            )


def _name(message: Any) -> str:  # noqa: ANN401 - as above
    """Return the name of a message's task, and its ID, as the log shows them. They may be anything."""
    headers = message.headers
    return f"{str(headers.get('task'))[:100]!r} ({str(headers.get('id'))[:100]!r})"


def use_signed(message: Any, statement: Statement) -> None:  # noqa: ANN401 - as above
    """Replace what is not signed in a message. RabbitMQ adds headers, such as the number of deliveries."""
    added = {name: value for name, value in message.headers.items() if name.startswith("x-")}
    message.headers = {**added, **statement.headers}
    unsigned_ones = {name: value for name, value in message.properties.items() if name not in PROPERTIES}
    message.properties = {**unsigned_ones, **statement.properties}


def _settle_with(guard: Guard, message: Any, nonce: str, seconds: float) -> threading.Event:  # noqa: ANN401 - as above
    """Have a message's acknowledgment mark it as done, and its return to the queue give up its claim.

    Returns:
        what is to be set once its task has started. A message that is rejected before, as of a task that this worker
        does not know, has not run.
    """
    ack, reject, requeue = message.ack, message.reject, message.requeue
    cancelled, started = guard.cancelled, threading.Event()

    def settle(*, done: bool) -> None:
        if not done:
            guard.release(nonce)
        # A cancelled task ends with an acknowledgment, too, which the broker never gets.
        elif guard.cancelled == cancelled:
            guard.finish(nonce, seconds)

    def ack_done(*arguments: object, **options: object) -> None:
        settle(done=True)
        ack(*arguments, **options)

    def reject_settled(requeue: bool = False) -> None:
        settle(done=started.is_set() and not requeue)
        reject(requeue=requeue)

    def requeue_released() -> None:
        settle(done=False)
        requeue()

    message.ack, message.reject, message.requeue = ack_done, reject_settled, requeue_released
    return started
