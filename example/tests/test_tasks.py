from __future__ import annotations

import threading
import time
import uuid

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.core import mail
from django.test import override_settings

from shop.celery import app
from shop.customers import tasks as customers
from shop.mailer import tasks as mailer
from shop.reports import tasks as reports
from shop.tasks import heartbeat
from shop.video import tasks as video

pytestmark = pytest.mark.usefixtures("eager")


def test_tasks_have_the_names_that_routes_match():
    app.loader.import_default_modules()
    names = {name for name in app.tasks if not name.startswith("celery.")}
    assert names == {
        "customers.sync",
        "customers.fan_out",
        "customers.noop",
        "customers.fail",
        "email.send_order_confirmation",
        "video.transcode",
        "reports.build",
        "reports.hoard",
        "ticks.heartbeat",
    }


def test_every_task_goes_to_the_queue_of_its_name():
    app.loader.import_default_modules()
    for name in app.tasks:
        if not name.startswith("celery."):
            assert app.amqp.router.route({}, name)["queue"].name == name.split(".")[0]


def test_sync_retries_as_often_as_the_service_is_away(ledger):
    assert customers.sync.delay(7, transient_errors=2).get() == 7
    assert [entry["event"] for entry in ledger()].count("retried") == 2


def test_sync_gives_up_when_the_service_stays_away(ledger):
    result = customers.sync.delay(7, transient_errors=99)
    assert isinstance(result.result, customers.CustomerServiceUnavailableError)
    events = [entry["event"] for entry in ledger()]
    assert events.count("retried") == customers.sync.max_retries
    assert events.count("failed") == 1


def test_sync_waits_longer_each_time_and_not_the_same_time():
    """What Celery reads off the task: exponential, bounded, jittered, finite."""
    waits = []

    class Stop(Exception):
        pass

    def note(**options):
        waits.append(options["countdown"])
        return Stop()

    for retries, longest in [(0, 1), (3, 8), (5, 32)]:
        waits.clear()
        for _ in range(200):
            customers.sync.push_request(retries=retries, called_directly=False)
            original, customers.sync.retry = customers.sync.retry, note
            try:
                with pytest.raises(Stop):
                    customers.sync.run(1, transient_errors=99)
            finally:
                customers.sync.retry = original
                customers.sync.pop_request()
        assert max(waits) <= longest
        assert max(waits) >= longest * 0.7
        assert len(set(waits)) > 1
    assert customers.sync.max_retries is not None


@pytest.mark.parametrize("count", [10, 20])
def test_fan_out_sends_one_task_for_each_customer(count, ledger):
    ids = customers.fan_out.delay(500, count).get()
    done = {entry["id"] for entry in ledger() if entry["event"] == "done" and entry["task"] == "customers.sync"}
    assert len(ids) == count
    assert done == set(ids)


def test_fan_out_run_again_sends_the_same_ids():
    task_id = str(uuid.uuid4())
    first = customers.fan_out.apply_async((500,), task_id=task_id).get()
    assert customers.fan_out.apply_async((500,), task_id=task_id).get() == first
    assert customers.fan_out.delay(500).get() != first


@pytest.mark.parametrize("count", [9, 21])
def test_fan_out_refuses_too_few_and_too_many(count, ledger):
    result = customers.fan_out.delay(500, count)
    assert "from 10 to 20" in str(result.result)
    assert {entry["task"] for entry in ledger()} == {"customers.fan_out"}


def test_noop_does_nothing():
    assert customers.noop.delay().get() is None


def test_fail_fails_without_a_retry(ledger):
    assert str(customers.fail.delay("broken").result) == "broken"
    assert [entry["event"] for entry in ledger()] == ["started", "failed"]


@override_settings(EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend")
def test_order_confirmation_reaches_the_customer_with_an_id_of_its_order():
    mail.outbox = []
    for _ in range(2):
        mailer.send_order_confirmation.delay(42, "ann@shop.example", wait=0).get()
    first, second = mail.outbox
    assert first.to == ["ann@shop.example"]
    assert "42" in first.subject
    assert first.message()["Message-ID"] == second.message()["Message-ID"] == "<order-42@shop.example>"


def test_transcode_works_for_the_time_given():
    start, processor = time.monotonic(), time.process_time()
    assert video.transcode.delay(1, seconds=0.2).get() > 0
    assert time.monotonic() - start >= 0.2
    # Work, not a sleep. The machine may be shared, so only part of the time must be ours.
    assert time.process_time() - processor > 0.02


def test_build_takes_its_time_and_names_its_report():
    start = time.monotonic()
    assert reports.build.delay("2026-07", seconds=0.2).get() == "report-2026-07"
    assert time.monotonic() - start >= 0.2


def test_build_is_done_once_its_figures_are_there(tmp_path):
    figures = tmp_path / "2026-07"
    start = time.monotonic()
    threading.Timer(0.3, figures.touch).start()
    assert reports.build.delay("2026-07", seconds=600, figures=str(figures)).get() == "report-2026-07"
    assert 0.3 <= time.monotonic() - start < 600


def _limit_once(monkeypatch):
    real, calls = time.sleep, []

    def sleep(seconds):
        calls.append(seconds)
        if len(calls) == 1:
            raise SoftTimeLimitExceeded
        real(0)

    monkeypatch.setattr(time, "sleep", sleep)


def test_build_ends_at_its_soft_time_limit(monkeypatch, caplog, ledger):
    _limit_once(monkeypatch)
    result = reports.build.delay("2026-07", seconds=30)
    assert isinstance(result.result, SoftTimeLimitExceeded)
    assert "2026-07 is not ready in time" in caplog.text
    assert ledger()[-1]["event"] == "failed"


def test_stubborn_build_goes_on_after_its_soft_time_limit(monkeypatch):
    _limit_once(monkeypatch)
    assert reports.build.delay("2026-07", seconds=0.1, stubborn=True).get() == "report-2026-07"


def test_hoard_uses_the_memory():
    assert reports.hoard.delay(3).get() == 3


def test_heartbeat_is_scheduled_and_does_not_pile_up():
    assert heartbeat.delay().get() == "tick"
    (entry,) = app.conf.beat_schedule.values()
    assert entry["task"] == heartbeat.name
    assert entry["options"]["expires"] > entry["schedule"]
