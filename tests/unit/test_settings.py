"""The rendered defaults are settings that Celery knows."""

from __future__ import annotations

from ansible_collections.fleet.celery.plugins.module_utils._settings import celery_settings
from celery.app.defaults import DEFAULTS

SETTINGS = celery_settings(broker="rabbitmq", app_name="shop", default_queue="customers")


def test_celery_knows_each_name() -> None:
    assert set(SETTINGS) - set(DEFAULTS) == set()


def test_each_has_its_reason() -> None:
    assert all(setting.reason for setting in SETTINGS.values())
