from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict

import pytest

from shop.customers import tasks as customers
from shop.ledger import Tally, connect, count, directory, record
from shop.ledger.__main__ import main
from shop.ledger.writing import _on_failure, _on_publish


def line(event, task_id="1", queue="customers", **fields):
    return json.dumps({"event": event, "id": task_id, "queue": queue, **fields})


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (["sent", "started", "done"], Tally(sent=1, done=1)),
        (["done", "started", "sent"], Tally(sent=1, done=1)),
        (["sent", "started", "failed"], Tally(sent=1, failed=1)),
        (["sent", "revoked"], Tally(sent=1, revoked=1)),
        (["sent"], Tally(sent=1, lost=1)),
        (["sent", "started"], Tally(sent=1, lost=1)),
        (["sent", "started", "done", "started", "done"], Tally(sent=1, done=1, repeated=1)),
        (["sent", "started", "started", "done"], Tally(sent=1, done=1)),
        (["sent", "started", "failed", "started", "done"], Tally(sent=1, done=1)),
        (["sent", "started", "retried", "sent", "started", "done"], Tally(sent=1, done=1, retried=1)),
        (["sent", "started", "retried", "sent"], Tally(sent=1, lost=1, retried=1)),
        (["started", "done"], Tally(done=1)),
        (["started"], Tally()),
    ],
)
def test_one_task_is_counted_once(events, expected):
    result = count([line(event) for event in events])
    assert result.total == expected
    assert result.queues == {"customers": expected}
    assert result.lost_ids == (["1"] if expected.lost else [])
    assert result.repeated_ids == (["1"] if expected.repeated else [])


def test_queues_are_counted_apart_and_together():
    result = count(
        [
            line("sent", "a"),
            line("done", "a"),
            line("sent", "b", "email"),
            line("sent", "c", "email"),
            line("done", "c", "email"),
        ]
    )
    assert result.queues["customers"] == Tally(sent=1, done=1)
    assert result.queues["email"] == Tally(sent=2, done=1, lost=1)
    assert result.total == Tally(sent=3, done=2, lost=1)
    assert result.lost_ids == ["b"]


def test_an_event_without_a_queue_belongs_to_its_task():
    failed = json.dumps({"event": "failed", "id": "1"})
    assert count([failed, line("sent")]).queues == {"customers": Tally(sent=1, failed=1)}


def test_only_chosen_tasks_and_what_they_sent_are_counted():
    lines = [
        line("sent", "parent", root="parent"),
        line("sent", "child", root="parent"),
        line("sent", "other", root="other"),
    ]
    assert count(lines, roots={"parent"}).total.sent == 2


def test_a_torn_line_is_counted_and_hides_no_other():
    result = count([line("sent"), '{"event": "done", "id"\n', "[]", '{"event": 1}', "", line("done")])
    assert result.unreadable == 3
    assert result.total == Tally(sent=1, done=1)


@pytest.mark.usefixtures("eager")
def test_an_execution_is_written_with_all_that_is_known(ledger, monkeypatch):
    monkeypatch.setenv("CELERY_APP_RELEASE", "1.2.3")
    result = customers.noop.delay()
    started, done = ledger()
    assert [started["event"], done["event"]] == ["started", "done"]
    assert set(done) == {
        "time", "event", "id", "root", "task", "queue", "worker", "retries", "host", "user", "pid", "release"
    }  # fmt: skip
    assert done["id"] == done["root"] == result.id
    assert done["task"] == "customers.noop"
    assert done["release"] == "1.2.3"
    assert done["host"] == socket.gethostname()
    assert done["pid"] == os.getpid()
    assert done["retries"] == 0


def test_a_publish_is_written_with_its_queue(ledger):
    result = customers.noop.delay()
    (sent,) = ledger()
    assert sent["event"] == "sent"
    assert sent["id"] == sent["root"] == result.id
    assert sent["task"] == "customers.noop"
    assert sent["queue"] == "customers"


def test_a_delayed_message_is_written_under_its_own_queue(ledger):
    digits = ".".join("0" * 25 + "101")
    _on_publish(sender="email.x", headers={"id": "1"}, routing_key=f"{digits}.email")
    assert ledger()[0]["queue"] == "email"


def test_a_task_killed_at_its_hard_limit_is_written_as_failed(ledger):
    _on_failure(sender=customers.noop, task_id="killed")
    (failed,) = ledger()
    assert (failed["event"], failed["id"], failed["task"]) == ("failed", "killed", "customers.noop")


def test_lines_of_many_writers_do_not_mix(ledger):
    threads = [threading.Thread(target=lambda: [record("sent", "x" * 200) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger()) == 400


def test_a_ledger_that_was_removed_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_LEDGER_DIR", str(tmp_path / "a" / "b"))
    record("sent", "1")
    (path,) = (tmp_path / "a" / "b").iterdir()
    assert path.stat().st_mode & 0o007 == 0
    path.unlink()
    path.parent.rmdir()
    record("sent", "2")
    assert '"2"' in path.read_text()


def test_without_a_fleet_the_ledger_lies_with_temporary_files(tmp_path, monkeypatch):
    monkeypatch.delenv("SHOP_LEDGER_DIR")
    monkeypatch.setattr("shop.ledger.writing.STATE_DIR", tmp_path / "absent")
    assert directory().name.startswith("shop-ledger-")
    monkeypatch.setattr("shop.ledger.writing.STATE_DIR", tmp_path)
    assert directory() == tmp_path / "ledger"


def test_command_counts_the_ledgers_of_several_hosts(tmp_path, capsys):
    for host, lines in {"one": [line("sent")], "two": [line("started"), line("done")]}.items():
        (tmp_path / host).mkdir()
        (tmp_path / host / "x.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["count", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == asdict(Tally(sent=1, done=1))


def test_command_says_which_directory_is_missing(tmp_path, capsys):
    assert main(["count", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_counting_needs_no_celery():
    """It is run on hosts every second or two, so it must start fast."""
    script = "import sys, shop.ledger.__main__; sys.exit('celery' in sys.modules or 'django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.usefixtures("eager")
def test_every_line_is_written_once_however_often_it_is_connected(ledger):
    connect()
    customers.noop.delay()
    assert len(ledger()) == 2
