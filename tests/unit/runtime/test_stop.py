"""The shutdown of a worker."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._workers import in_flight
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import stop as stop_module
from celery import signals


class Worker:
    """A fake consumer, whose event loop runs in turn()."""

    def __init__(self) -> None:
        self.consumed = {"customers": None, "email": None}
        self.app = SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=self.consumed)))
        self.timer = self
        self._soon: list[Callable[[], object]] = []
        self._repeated: list[Callable[[], object]] = []

    def cancel_task_queue(self, queue: str) -> None:
        del self.consumed[queue]

    def call_soon(self, call: Callable[[], object]) -> None:
        self._soon.append(call)

    def call_repeatedly(self, _: float, call: Callable[[], object]) -> None:
        self._repeated.append(call)

    def turn(self) -> None:
        while self._soon:
            self._soon.pop()()
        for call in self._repeated:
            call()


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    module: Any = importlib.reload(stop_module)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: module.now))
    module.now = 100.0
    monkeypatch.setattr(module, "threading", SimpleNamespace(Thread=lambda **_: SimpleNamespace(start=lambda: None)))
    monkeypatch.setenv("CELERY_FLEET_COUNTS", str(tmp_path))
    monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", "shop-video")
    return module


def test_remote_shutdown_cancels_consumers_too(stop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.worker.control import Panel  # noqa: PLC0415 - as the module itself

    monkeypatch.setitem(Panel.data, "shutdown", None)
    monkeypatch.setattr(signals.worker_ready, "receivers", [])
    handlers: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda _, handler: handlers.append(handler))
    monkeypatch.setattr(signal, "getsignal", lambda _: lambda *_: None)
    worker = Worker()
    stop.install()
    signals.worker_ready.send(sender=worker)
    monkeypatch.setattr(os, "kill", lambda _, number: handlers[0](number, None))
    Panel.data["shutdown"](None)
    worker.turn()
    assert not worker.consumed


def begin(stop: Any) -> tuple[Worker, Any, list[int]]:
    worker, ends = Worker(), list[int]()
    handler = stop.Stop(worker, lambda number, _: ends.append(number))
    handler.handle(signal.SIGTERM, None)
    return worker, handler, ends


def test_shutdown_begins_after_all_received_tasks_have_started(stop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.worker import state  # noqa: PLC0415 - as the module itself

    monkeypatch.setattr(state, "reserved_requests", {"one", "two"})
    monkeypatch.setattr(state, "active_requests", {"one"})
    worker, _, ends = begin(stop)
    assert worker.consumed, "a signal handler must leave the cancellation to the event loop"
    worker.turn()
    assert not worker.consumed
    stop.now += 5
    worker.turn()
    assert ends == []
    state.active_requests.add("two")
    worker.turn()
    worker.turn()
    assert ends == [signal.SIGTERM]


def test_shutdown_waits_for_messages_in_transit(stop: Any) -> None:
    worker, _, ends = begin(stop)
    worker.turn()
    assert ends == []
    stop.now += stop.SETTLE_SECONDS
    worker.turn()
    assert ends == [signal.SIGTERM]


def test_second_signal_shuts_down_at_once(stop: Any) -> None:
    _, handler, ends = begin(stop)
    handler.handle(signal.SIGTERM, None)
    handler.handle(signal.SIGTERM, None)
    assert ends == [signal.SIGTERM]


def test_worker_with_a_blocked_event_loop_shuts_down(stop: Any) -> None:
    _, handler, ends = begin(stop)

    class OverError(Exception):
        """The test is over."""

    def sleep(seconds: float) -> None:
        if ends:
            raise OverError
        stop.now += seconds

    stop.time.sleep = sleep
    with pytest.raises(OverError):
        handler.watch()
    assert ends == [signal.SIGTERM]
    assert stop.now == 100.0 + stop.LONGEST_SECONDS


def test_tasks_in_flight_are_reported_during_a_shutdown(
    stop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from celery.worker import state  # noqa: PLC0415 - as the module itself

    tasks = [SimpleNamespace(name="a", time_start=90.0), SimpleNamespace(name="b", time_start=70.0)]
    monkeypatch.setattr(state, "active_requests", [*tasks, SimpleNamespace(name="c", time_start=None)])
    stop.Stop(None, print).report()
    assert in_flight(tmp_path, "shop-video", os.getpid(), 100.0) == "2 in flight, the oldest, b, for 30 s"
    assert in_flight(tmp_path, "shop-video", 1, 100.0) == ""
    assert in_flight(tmp_path, "shop-email", os.getpid(), 100.0) == ""
