"""The settings of alerts."""

from __future__ import annotations

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._alerts import ALERTS, Alert, read_alerts, read_certificates
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem


def test_an_alert_keeps_the_settings_that_are_not_changed() -> None:
    problems: list[Problem] = []
    found = read_alerts(
        {"CeleryWorkerGone": {"for": 30}, "CeleryTasksFail": {"threshold": 50, "enabled": False}}, problems
    )
    assert not problems
    assert set(found) == set(ALERTS)
    assert found["CeleryWorkerGone"] == Alert("page", 30)
    assert found["CeleryTasksFail"] == Alert("warn", 120, threshold=50, min_samples=10, window=600, enabled=False)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (["CeleryWorkerGone"], "celery_alerts: ['CeleryWorkerGone'] is not a mapping"),
        ({"CeleryWorkerGon": {}}, "celery_alerts.CeleryWorkerGon: is not an alert (did you mean 'CeleryWorkerGone'?)"),
        ({"emial": {"depth": 3}}, "celery_alerts.emial: is not an alert"),
        ({"CeleryWorkerGone": 30}, "celery_alerts.CeleryWorkerGone: 30 is not a mapping"),
        ({"CeleryWorkerGone": {"threshold": 3}}, "celery_alerts.CeleryWorkerGone.threshold: is not an option"),
        ({"CeleryWorkerGone": {"for": "2m"}}, "celery_alerts.CeleryWorkerGone.for: '2m' is not a number of seconds"),
        (
            {"CeleryWorkerGone": {"severity": "pager"}},
            "celery_alerts.CeleryWorkerGone.severity: 'pager' is not a valid value",
        ),
        ({"CeleryTasksFail": {"window": 0}}, "celery_alerts.CeleryTasksFail.window: 0 is not a number of seconds"),
    ],
)
def test_an_invalid_setting_is_refused(raw: object, message: str) -> None:
    problems: list[Problem] = []
    read_alerts(raw, problems)
    assert [str(problem).startswith(message) for problem in problems] == [True]


def test_certificates_are_given_as_endpoints() -> None:
    problems: list[Problem] = []
    assert read_certificates(["https://flower.example.com", "broker.example.com:5671"], problems)
    assert not problems
    read_certificates(["flower.example.com", "http://flower.example.com", 443], problems)
    assert [problem.where for problem in problems] == ["celery_certificate_targets"] * 3
