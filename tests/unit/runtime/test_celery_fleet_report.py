"""The counts and the log of tasks of a real worker with an in-memory broker."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import importlib
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import report
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import BOUNDS, Tasks, read_counts
from celery import Celery, signals
from celery.contrib.testing.worker import start_worker
from celery.exceptions import WorkerLostError
from kombu.transport.native_delayed_delivery import calculate_routing_key

USED = (
    signals.before_task_publish,
    signals.after_task_publish,
    signals.task_prerun,
    signals.task_success,
    signals.task_failure,
    signals.task_retry,
    signals.task_postrun,
)


@pytest.fixture
def module() -> Iterator[Any]:
    """Return the module, and restore Celery's signals afterwards."""
    before = [(signal, list(signal.receivers)) for signal in USED]
    yield importlib.reload(report)
    for signal, receivers in before:
        signal.receivers = receivers
        signal.sender_receivers_cache.clear()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taking:
        taking.bind(str(tmp_path / "journal"))
        taking.settimeout(10)
        yield taking


@pytest.fixture
def program(tmp_path: Path, module: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this process a program of Supervisor. Return the directory of its counts."""
    environment = {
        "SUPERVISOR_PROCESS_NAME": "shop-email",
        "CELERY_APP_RELEASE": "1.4.0",
        "CELERY_FLEET_COUNTS": str(tmp_path / "counts"),
        "CELERY_FLEET_JOURNAL": str(tmp_path / "journal"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "counts").mkdir()
    module.install()
    return tmp_path / "counts"


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Celery:
    app = Celery("shop", broker=f"memory://{request.node.name}/", backend="cache+memory://", set_as_current=False)
    app.conf.task_default_queue = "email"
    app.conf.worker_hijack_root_logger = False
    tries: list[float] = []

    @app.task(shared=False, name="mailer.send")
    def send(text: str) -> str:
        return text

    @app.task(shared=False, name="mailer.break")
    def break_off() -> None:
        raise KeyError("no such\ncustomer")

    @app.task(shared=False, name="mailer.again", bind=True, max_retries=1)
    def again(self: Any) -> None:
        tries.append(time.time())
        if len(tries) == 1:
            raise self.retry(countdown=1)

    return app


def entry(journal: socket.socket) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the fields of the next entry, and its parsed message."""
    fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
    return fields, json.loads(fields["MESSAGE"])


def counted(directory: Path, task: str) -> Tasks:
    return read_counts(directory)["shop-email", "1.4.0"].tasks["email", task]


def test_wait_run_time_and_result_are_logged(program: Path, app: Celery, journal: socket.socket) -> None:
    with start_worker(app, pool="solo", perform_ping_check=False):
        result = app.tasks["mailer.send"].delay("hello")
        fields, message = entry(journal)
    assert fields["CELERY_TASK"] == "mailer.send"
    assert fields["CELERY_STATE"] == "SUCCESS"
    assert fields["SYSLOG_IDENTIFIER"] == "celery"
    assert {name: message[name] for name in ("id", "queue", "program", "release", "retries", "exception")} == {
        "id": result.id,
        "queue": "email",
        "program": "shop-email",
        "release": "1.4.0",
        "retries": 0,
        "exception": "",
    }
    assert 0 <= message["wait"] < 10
    assert 0 <= message["run"] < 10
    assert "hello" not in json.dumps([fields, message])
    tasks = counted(program, "mailer.send")
    assert tasks.kinds == {"begun": 1, "done": 1, "failed": 0, "retried": 0}
    assert (sum(tasks.waits), sum(tasks.runs)) == (1, 1)
    assert abs(read_counts(program)["shop-email", "1.4.0"].sent - time.time()) < 60
    assert abs(tasks.latest_sent - time.time()) < 60


def test_failure_is_logged_with_its_exception_on_one_line(program: Path, app: Celery, journal: socket.socket) -> None:
    with start_worker(app, pool="solo", perform_ping_check=False):
        app.tasks["mailer.break"].delay()
        fields, message = entry(journal)
    assert (fields["CELERY_STATE"], fields["PRIORITY"]) == ("FAILURE", "4")
    assert message["exception"].startswith("KeyError: ")
    assert counted(program, "mailer.break").kinds["failed"] == 1


def test_wait_of_a_retry_begins_at_its_eta(program: Path, app: Celery, journal: socket.socket) -> None:
    with start_worker(app, pool="solo", perform_ping_check=False):
        app.tasks["mailer.again"].delay()
        states = [entry(journal)[1] for _ in range(2)]
    assert [(each["state"], each["retries"]) for each in states] == [("RETRY", 0), ("SUCCESS", 1)]
    # The countdown of one second is not part of the wait.
    assert states[1]["wait"] < 1.0
    assert counted(program, "mailer.again").kinds == {"begun": 2, "done": 1, "failed": 0, "retried": 1}


def test_wait_behind_other_tasks_is_measured(program: Path, app: Celery, journal: socket.socket) -> None:
    app.tasks["mailer.send"].apply_async(["x"], eta=datetime.now(UTC) - timedelta(hours=1))
    time.sleep(0.3)
    with start_worker(app, pool="solo", perform_ping_check=False):
        assert entry(journal)[1]["wait"] >= 0.3
    assert sum(counted(program, "mailer.send").waits[BOUNDS.index(0.5) :]) == 1


def test_message_without_time_has_no_wait(program: Path, app: Celery, journal: socket.socket) -> None:
    receivers, signals.before_task_publish.receivers = signals.before_task_publish.receivers, []
    app.tasks["mailer.send"].delay("hello")
    signals.before_task_publish.receivers = receivers
    with start_worker(app, pool="solo", perform_ping_check=False):
        assert entry(journal)[1]["wait"] is None
    tasks = counted(program, "mailer.send")
    assert (tasks.kinds["begun"], sum(tasks.waits), tasks.latest_sent) == (1, 0, 0.0)


@pytest.mark.parametrize("queue", ["email", ""])
def test_parent_reports_the_task_of_a_killed_child(
    program: Path, app: Celery, journal: socket.socket, queue: str
) -> None:
    lost = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL)")
    task = app.tasks["mailer.send"]
    if queue:
        task.push_request(id="1", delivery_info={"routing_key": queue})
    signals.task_failure.send(sender=task, task_id="1", exception=lost)
    _, message = entry(journal)
    assert (message["state"], message["task"], message["run"]) == ("FAILURE", "mailer.send", None)
    assert "SIGKILL" in message["exception"]
    counts = read_counts(program)["shop-email", "1.4.0"]
    assert counts.tasks[queue, "mailer.send"].kinds["failed"] == 1


def test_retry_after_a_lost_worker_is_logged_as_a_retry(program: Path, app: Celery, journal: socket.socket) -> None:
    task = app.tasks["mailer.send"]
    task.push_request(id="1", delivery_info={"routing_key": "email"})
    signals.task_retry.send(sender=task, request=task.request, reason="lost")
    assert entry(journal)[1]["state"] == "RETRY"
    assert counted(program, "mailer.send").kinds["retried"] == 1


@pytest.fixture
def with_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_FLEET_JOURNAL_ARGUMENTS", "1")


@pytest.mark.usefixtures("with_arguments", "program")
def test_arguments_are_logged_if_enabled(app: Celery, journal: socket.socket) -> None:
    with start_worker(app, pool="solo", perform_ping_check=False):
        app.tasks["mailer.send"].delay("hello")
        assert "hello" in entry(journal)[1]["arguments"]


def test_unavailable_journal_does_not_fail_tasks(program: Path, app: Celery, journal: socket.socket) -> None:
    journal.close()
    with start_worker(app, pool="solo", perform_ping_check=False):
        assert app.tasks["mailer.send"].delay("hello").get(timeout=10) == "hello"
    assert read_counts(program)["shop-email", "1.4.0"].untold == 1


def test_missing_directory_of_counts_does_not_fail_tasks(program: Path, app: Celery) -> None:
    program.rmdir()
    with start_worker(app, pool="solo", perform_ping_check=False):
        assert app.tasks["mailer.send"].delay("hello").get(timeout=10) == "hello"


def test_other_process_adds_the_time_and_logs_nothing(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPERVISOR_PROCESS_NAME", raising=False)
    before = len(signals.task_prerun.receivers)
    module.install()
    assert len(signals.task_prerun.receivers) == before
    headers = {"sent_at": 1.0}
    properties: dict[str, Any] = {}
    signals.before_task_publish.send(sender="mailer.send", headers=headers, properties=properties)
    assert abs(headers["sent_at"] - time.time()) < 60
    assert properties["timestamp"] == int(headers["sent_at"])


@pytest.mark.parametrize("countdown", [1, 5, 86400])
def test_queue_of_a_delayed_task_is_read_from_its_routing_key(module: Any, countdown: int) -> None:
    request = SimpleNamespace(delivery_info={"routing_key": calculate_routing_key(countdown, "email.0.1")})
    assert module.queue_of(request) == "email.0.1"
