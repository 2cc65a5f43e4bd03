"""Which messages a worker starts, drops, keeps and refuses, by their signature and the replay cache."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import guard as module
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import receiver
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.receiver import Guard, Options, Receiver
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.refusals import REASONS, read_refusals
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.replay import (
    DONE,
    GONE,
    LEASE_SECONDS,
)
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.signing import RefusedError, Signer
from celery import Celery, signals
from celery.worker.consumer.consumer import Consumer
from celery.worker.pidbox import Pidbox
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from signed_messages import BODY, HEADERS, JSON, pem, trusted_as

WORKER, OPERATOR = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
WINDOW = 3600


class Cache:
    """The replay cache as its server keeps it, for the worker me.

    Attributes:
        alive: other workers that have a lease.
        down: whether it can't be reached.
    """

    def __init__(self, _: object) -> None:
        self.owner = "me"
        self.owners: dict[str, str] = {}
        self.alive: set[str] = set()
        self.down = False

    def claim(self, nonce: str, seconds: float, gone: str = "") -> str:
        assert seconds > 0
        self._check()
        owner = self.owners.get(nonce, "")
        if owner in {DONE, "me"} or owner in self.alive:
            return owner
        if owner != gone:
            return GONE + owner
        self.owners[nonce] = "me"
        return ""

    def finish(self, nonce: str, _: float) -> None:
        self._check()
        self.owners[nonce] = DONE

    def release(self, nonce: str) -> None:
        self._check()
        del self.owners[nonce]

    def renew(self) -> None:
        self._check()

    def _check(self) -> None:
        if self.down:
            raise OSError("down")


class Timer:
    """The timer of a worker, which the test turns."""

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def call_after(self, seconds: float, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        assert 0 < seconds <= 5
        self._calls.append((function, arguments))

    def turn(self) -> int:
        """Call what is due, and return how much."""
        due, self._calls = self._calls, []
        for function, arguments in due:
            function(*arguments)
        return len(due)


class Message(SimpleNamespace):
    """A received message. Its end is one of ack, reject and requeue."""

    def ack_log_error(self, *_: object) -> None:
        self.ack()

    def reject_log_error(self, *_: object) -> None:
        self.reject()


class Worker:
    """A worker that receives messages.

    Attributes:
        started: the messages whose tasks it has started.
        dead: reason of each message that it has sent to the dead letters.
    """

    def __init__(self, directory: Path, *, required: bool) -> None:
        self.guard = Guard(Options(directory, required, WINDOW, "shop.dead"))
        self.cache: Any = self.guard.cache
        self.timer = Timer()
        self.started: list[Any] = []
        self.dead: list[str] = []
        app = SimpleNamespace(conf=SimpleNamespace(broker_url="redis://"))
        queues = SimpleNamespace(queues=[SimpleNamespace(name="customers")])
        self.consumer = SimpleNamespace(task_consumer=queues, timer=self.timer, connection_errors=(), app=app)
        receiver: Any = Receiver(self.guard, self.consumer, self.started.append)
        self.receiver = receiver
        receiver._send_to_dead_letters = lambda _, reason: self.dead.append(reason)

    def receive(self, message: Message) -> Message:
        self.receiver.receive(message)
        return message


def message(
    headers: dict[str, Any] | None = None, *, again: bool = False, routing_key: str = "customers", **more: Any
) -> Message:
    """Return a signed message.

    Args:
        again: whether the broker says that it delivers it again.
        more: attributes, in place of those of a signed one.
    """
    if headers is None:
        routing = {"exchange": "shop", "routing_key": routing_key}
        headers = Signer(pem(WORKER)).sign(BODY, HEADERS, {"reply_to": "mine"}, content_type=JSON, **routing)
    ends: list[str] = []
    actions = {name: lambda *_, _name=name, **__: ends.append(_name) for name in ("ack", "reject", "requeue")}
    fields = {"headers": headers, "body": BODY, "content_type": JSON, "properties": {}, "ends": ends}
    return Message(**fields, **actions, delivery_info={"redelivered": again}, **more)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    keys = [trusted_as("worker1", WORKER), trusted_as("worker1.operator", OPERATOR, operator=True)]
    (tmp_path / "trusted.json").write_text(json.dumps(keys))
    monkeypatch.setattr(receiver, "ReplayCache", Cache)
    monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", "shop-mail")
    monkeypatch.setenv("CELERY_FLEET_COUNTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def worker(directory: Path) -> Worker:
    return Worker(directory, required=True)


def test_a_task_starts_with_what_is_signed_and_is_done_once_it_is_acknowledged(worker: Worker) -> None:
    sent = message()
    sent.headers |= {"task": "shop.refund", "retries": 9, "x-delivery-count": 1}
    sent.properties |= {"reply_to": "another", "priority": 3}
    worker.receive(sent)
    assert worker.started == [sent]
    assert sent.headers == {**HEADERS, "x-delivery-count": 1}
    assert sent.properties == {"reply_to": "mine", "priority": 3}
    assert set(worker.cache.owners.values()) == {"me"}
    sent.ack()
    assert sent.ends == ["ack"]
    assert set(worker.cache.owners.values()) == {DONE}


@pytest.mark.parametrize("again", [False, True])
def test_a_message_that_is_done_does_not_run_again(worker: Worker, again: bool) -> None:
    headers = message().headers
    first = worker.receive(message(dict(headers)))
    copy = message(dict(headers), again=again)
    first.ack()
    worker.receive(copy)
    assert copy.ends == ["ack"]
    assert worker.started == [first]
    # A broker delivers a message again whose acknowledgment was lost. That is no attack.
    assert worker.dead == ([] if again else ["replayed"])


def test_a_copy_of_a_running_task_is_refused(worker: Worker) -> None:
    headers = message().headers
    worker.receive(message(dict(headers)))
    worker.receive(message(dict(headers)))
    assert (len(worker.started), worker.dead) == (1, ["replayed"])


def test_a_message_of_a_worker_that_lives_waits_until_it_is_done_or_gone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has lost the connection to a worker that still runs the task."""
    for end in ("done", "gone"):
        sent = message(again=True)
        nonce = worker.guard.verify(sent)[1].id
        worker.cache.owners[nonce], worker.cache.alive = "other", {"other"}
        worker.receive(sent)
        assert worker.timer.turn() == 1
        assert sent.ends == []
        if end == "done":
            worker.cache.owners[nonce] = DONE
        worker.cache.alive.clear()
        worker.timer.turn()
        # Its lease may be gone with the cache, for a while.
        assert end == "done" or worker.timer.turn() == 1
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda now=now: now + LEASE_SECONDS)
        worker.timer.turn()
        monkeypatch.undo()
        assert (sent in worker.started, sent.ends) == ((False, ["ack"]) if end == "done" else (True, []))
    assert worker.dead == []


@pytest.mark.parametrize("returned", [True, False])
def test_a_rejected_message_starts_again_only_if_it_returns_to_its_queue(
    worker: Worker,
    returned: bool,
) -> None:
    headers = message().headers
    first: Any = worker.receive(message(dict(headers)))
    first.reject(requeue=returned)
    assert first.ends == ["reject"]
    worker.receive(message(dict(headers)))
    assert (len(worker.started), worker.dead) == ((2, []) if returned else (1, ["replayed"]))


def test_a_task_that_a_worker_does_not_know_has_not_run(worker: Worker) -> None:
    """It is rejected, and an operator may return it once the worker knows it."""
    headers = message().headers
    unknown: Any = Receiver(worker.guard, worker.consumer, lambda rejected: rejected.reject())
    unknown.receive(message(dict(headers)))
    worker.receive(message(dict(headers)))
    assert (len(worker.started), worker.dead) == (1, [])


def test_tasks_wait_while_the_replay_cache_is_down(worker: Worker) -> None:
    worker.cache.down = True
    sent = worker.receive(message())
    worker.timer.turn()
    assert (worker.started, sent.ends) == ([], [])
    worker.cache.down = False
    worker.timer.turn()
    assert worker.started == [sent]


def test_a_task_that_ends_while_the_cache_is_down_is_done_later(worker: Worker) -> None:
    headers = message().headers
    first = worker.receive(message(dict(headers)))
    worker.cache.down = True
    first.ack()
    assert first.ends == ["ack"]
    worker.guard.renew()
    worker.cache.down = False
    worker.receive(message(dict(headers)))
    worker.guard.renew()
    worker.receive(message(dict(headers)))
    assert (worker.started, worker.dead) == ([first], ["replayed", "replayed"])
    assert set(worker.cache.owners.values()) == {DONE}


def test_a_claim_that_is_given_up_while_the_cache_is_down_is_free_later(worker: Worker) -> None:
    """Otherwise, another worker would wait for it as long as this one lives."""
    worker.receive(message())
    worker.cache.down = True
    worker.guard.lose_connection((), redelivers=True)
    worker.cache.down = False
    worker.guard.renew()
    assert worker.cache.owners == {}


def test_a_message_that_waits_is_left_to_the_broker_when_the_connection_is_lost(worker: Worker) -> None:
    worker.cache.down = True
    worker.receive(message())
    worker.cache.down = False
    worker.guard.lose_connection((), redelivers=True)
    assert worker.timer.turn() == 1
    assert (worker.started, worker.timer.turn()) == ([], 0)


def test_a_task_that_is_cancelled_with_its_connection_runs_again(worker: Worker) -> None:
    """Celery acknowledges it, but the broker does not hear that."""
    headers = message().headers
    first = worker.receive(message(dict(headers)))
    worker.guard.lose_connection((), redelivers=True)
    first.ack()
    again = message(dict(headers), again=True)
    Receiver(worker.guard, worker.consumer, worker.started.append).receive(again)
    assert worker.started == [first, again]


def test_a_task_survives_the_loss_of_a_connection_to_redis(worker: Worker) -> None:
    """It runs on, and its acknowledgment reaches Redis by another connection."""
    headers = message().headers
    first = worker.receive(message(dict(headers)))
    worker.guard.lose_connection({"1"}, redelivers=False)
    first.ack()
    again = message(dict(headers), again=True)
    Receiver(worker.guard, worker.consumer, worker.started.append).receive(again)
    assert (worker.started, again.ends) == ([first], ["ack"])


def test_a_task_that_waits_in_a_worker_that_loses_redis_starts_later(worker: Worker) -> None:
    """Celery drops it, and Redis delivers it again."""
    headers = message().headers
    worker.receive(message(dict(headers)))
    worker.guard.lose_connection({"another"}, redelivers=False)
    again = message(dict(headers), again=True)
    Receiver(worker.guard, worker.consumer, worker.started.append).receive(again)
    assert again in worker.started


def test_refused_tasks_go_to_the_dead_letters_and_are_counted(worker: Worker, directory: Path) -> None:
    worker.receive(message(dict(HEADERS)))
    worker.receive(message(routing_key="reports"))
    stranger = Signer(pem(Ed25519PrivateKey.generate()))
    headers = stranger.sign(BODY, HEADERS, {}, content_type=JSON, exchange="shop", routing_key="customers")
    sent = worker.receive(message(headers))
    assert worker.started == []
    assert sent.ends == ["ack"]
    assert worker.dead == ["unsigned", "wrong_destination", "unknown_key"]
    counts = dict.fromkeys(REASONS, 0) | dict.fromkeys(worker.dead, 1)
    assert read_refusals(directory, "shop-mail") == counts
    # A restart continues them.
    Worker(directory, required=True).receive(message(dict(HEADERS)))
    assert read_refusals(directory, "shop-mail") == counts | {"unsigned": 2}


def test_a_refused_task_that_the_dead_letters_do_not_take_is_rejected(worker: Worker) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("blocked")

    worker.receiver._send_to_dead_letters = fail
    assert worker.receive(message(dict(HEADERS))).ends == ["reject"]


def test_a_delayed_task_has_the_bits_of_its_delay_before_its_queue(worker: Worker) -> None:
    worker.receive(message(routing_key="0." * 26 + "1.0.customers"))
    assert len(worker.started) == 1


def test_a_message_is_valid_for_the_window_after_its_eta(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    old = message()
    monkeypatch.setattr(time, "time", lambda: now + WINDOW + 5)
    worker.receive(old)
    assert worker.dead == ["expired"]
    monkeypatch.setattr(time, "time", lambda: now)
    eta = {**HEADERS, "eta": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now + 600))}
    routing = {"content_type": JSON, "exchange": "shop", "routing_key": "customers"}
    late = message(Signer(pem(WORKER)).sign(BODY, eta, {}, **routing))
    monkeypatch.setattr(time, "time", lambda: now + WINDOW + 500)
    worker.receive(late)
    assert worker.started == [late]


def test_unsigned_tasks_start_until_they_are_refused(directory: Path) -> None:
    worker = Worker(directory, required=False)
    plain = worker.receive(message(dict(HEADERS)))
    assert (worker.started, worker.dead) == ([plain], [])
    # A wrong signature is worse than none.
    worker.receive(message({**message().headers, "fleet-signature": "AAAA"}))
    assert worker.dead == ["wrong_signature"]


def command(key: Ed25519PrivateKey, exchange: str = "celery.pidbox") -> Message:
    body = b'{"method": "shutdown"}'
    headers = Signer(pem(key)).sign(body, {"clock": 1}, {}, content_type=JSON, exchange=exchange, routing_key="")
    return Message(headers=headers, body=body, content_type=JSON)


def test_only_an_operator_controls_workers_and_each_command_once(worker: Worker) -> None:
    allowed = command(OPERATOR)
    assert worker.guard.executes(allowed)
    for refused, reason in (
        (allowed, "replayed"),
        (command(WORKER), "not_operator"),
        (command(OPERATOR, "shop"), "wrong_destination"),
        (Message(headers={}, body=b"{}", content_type=JSON), "unsigned"),
    ):
        with pytest.raises(RefusedError, match=reason):
            worker.guard.executes(refused)


def test_a_restarted_worker_drops_the_commands_of_the_time_before(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not remember which of them it has executed. Some wait for it, so they raise no alert."""
    sent = command(OPERATOR)
    assert not Worker(directory, required=True).guard.executes(sent)
    worker, now = Worker(directory, required=True), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 600)
    with pytest.raises(RefusedError, match="expired"):
        worker.guard.executes(sent)


@pytest.mark.parametrize("body", [[], None, "shutdown", {"method": {}}])
def test_no_command_of_a_stranger_ends_a_worker(directory: Path, monkeypatch: pytest.MonkeyPatch, body: object) -> None:
    """Whatever leaves the handler of a message ends Celery's event loop."""
    executed: list[object] = []
    monkeypatch.setattr(Pidbox, "on_message", lambda *arguments: executed.append(arguments))
    monkeypatch.setattr(Consumer, "create_task_handler", Consumer.create_task_handler)
    monkeypatch.setattr(signals.worker_shutdown, "receivers", [])
    module.guard_worker(Options(directory, True, WINDOW, "shop.dead"))
    mailbox: Any = SimpleNamespace()
    given: tuple[dict[str, Any], ...] = ({}, message().headers)
    for headers in given:
        Pidbox.on_message(mailbox, body, Message(headers=headers, body=b"[]", content_type=JSON))
    assert executed == []
    assert sum(read_refusals(directory, "shop-mail").values()) == 2


def test_a_worker_that_can_not_verify_does_not_start(tmp_path: Path) -> None:
    """Celery would log the exception of a handler, and go on."""
    before = list(signals.celeryd_init.receivers)
    publish = module.Producer._publish
    try:
        module.install(str(tmp_path / "missing"), required=True, window=WINDOW, dead_letters="shop.dead")
        with pytest.raises(SystemExit, match="can't verify messages"):
            signals.celeryd_init.send(sender="worker", instance=SimpleNamespace(app=Celery("shop")))
    finally:
        signals.celeryd_init.receivers, module.Producer._publish = before, publish
