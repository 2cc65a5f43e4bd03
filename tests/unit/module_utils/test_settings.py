"""Celery has the settings of the defaults."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._settings import Setting, celery_settings
from celery import Celery
from celery.app.defaults import DEFAULTS
from kombu.exceptions import OperationalError
from kombu.utils import functional

BROKERS: list[dict[str, Any]] = [
    {"kind": "rabbitmq"},
    {"kind": "redis", "key_prefix": "shop:", "visibility_timeout": 4000},
]


@pytest.fixture(params=BROKERS, ids=lambda broker: broker["kind"])
def found(request: pytest.FixtureRequest) -> dict[str, Setting]:
    return celery_settings(broker=request.param, app_name="shop", default_queue="customers")


def test_celery_has_each_setting(found: dict[str, Setting]) -> None:
    assert set(found) - set(DEFAULTS) == set()


def test_each_setting_has_a_reason(found: dict[str, Setting]) -> None:
    assert all(setting.reason for setting in found.values())


def test_who_sends_waits_for_a_broker_that_is_away(
    found: dict[str, Setting], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Also in a process that has no connection yet, for longer than the broker's host takes to boot."""
    scheme = {"rabbitmq": "amqp", "redis": "redis"}[request.node.callspec.id]
    # Nobody listens there.
    app = Celery("shop", broker=f"{scheme}://127.0.0.1:1", set_as_current=False)
    app.conf.update({name: setting.value for name, setting in found.items()})
    app.conf.task_queues = {"customers": {"exchange": "shop", "routing_key": "customers"}}
    clock = [0.0]
    monkeypatch.setattr(functional, "time", lambda: clock[0])
    monkeypatch.setattr(functional, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    with pytest.raises(OperationalError):
        app.send_task("customers.sync")
    assert 60 < clock[0] < 120
