"""Celery has the settings of the defaults."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._settings import Setting, celery_settings
from celery.app.defaults import DEFAULTS

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
