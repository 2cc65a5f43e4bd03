"""Options that roles of the monitor refuse."""

from __future__ import annotations

from typing import Any

import pytest
from role import Role


@pytest.mark.parametrize("role", ["alertmanager", "grafana_dashboards"])
def test_the_defaults_are_valid(role: str) -> None:
    assert Role(role).problems() == []


@pytest.mark.parametrize(
    ("role", "variables", "problem"),
    [
        (
            "alertmanager",
            {"alertmanager_page_receivers": [{}], "alertmanager_warn_receivers": []},
            "alertmanager_page_receivers[0]: has no receiver",
        ),
        ("alertmanager", {"alertmanager_warn_receivers": [{"email": "a@b"}]}, "alertmanager_smtp_smarthost"),
        ("grafana_dashboards", {"grafana_dashboards_datasource": "a b"}, "'a b' is not valid"),
        ("grafana_dashboards", {"grafana_dashboards_prometheus_url": "http://a:b@c"}, "URL without user and password"),
        ("grafana_dashboards", {"grafana_dashboards_scrape_interval": "15"}, "'15' is not a duration"),
    ],
)
def test_invalid_values_are_refused(role: str, variables: dict[str, Any], problem: str) -> None:
    (found,) = Role(role).problems(**variables)
    assert problem in found


def test_a_password_in_a_url_is_not_repeated() -> None:
    (found,) = Role("grafana_dashboards").problems(grafana_dashboards_prometheus_url="http://a:secret@c")
    assert "secret" not in found
