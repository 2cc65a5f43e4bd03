"""A scenario's Prometheus and Alertmanager."""

from __future__ import annotations

import base64
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from playwright.sync_api import HttpCredentials

SCENARIO = Path(os.environ.get("MOLECULE_SCENARIO_DIRECTORY", "."))
SECRETS = SCENARIO.parents[1] / ".lab" / f"fleet-{SCENARIO.name}" / "secrets"
#: The authorities that clients of the fleet trust. A fleet of one host has none.
CA = SECRETS / "ca" / "trusted.crt"
PORTS = {"prometheus": 9090, "alertmanager": 9093}
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Alarm:
    """An alert in Alertmanager.

    Attributes:
        about: what its labels say of where it is.
    """

    name: str
    about: frozenset[tuple[str, str]]

    def of(self, **labels: str) -> bool:
        """Return whether it has these labels."""
        return set(labels.items()) <= self.about


@dataclass(frozen=True)
class Monitor:
    """The services of the monitor's host.

    Attributes:
        address: of that host.
    """

    address: str

    def credentials(self, program: str) -> HttpCredentials:
        password = (SECRETS / program).read_text(encoding="utf-8").strip()
        return {"username": "prometheus", "password": password}

    def url(self, program: str) -> str:
        return f"{'https' if CA.exists() else 'http'}://{self.address}:{PORTS[program]}"

    def page(self, program: str, path: str, password: str | None = None, **options: str) -> tuple[int, str]:
        """Return the status and the text of a page.

        Args:
            password: another than the right one.
        """
        if password is None:
            password = self.credentials(program)["password"]
        credentials = base64.b64encode(f"prometheus:{password}".encode()).decode()
        url = f"{self.url(program)}{path}?{urlencode(options)}"
        request = Request(url, headers={"Authorization": f"Basic {credentials}"})  # noqa: S310 - https
        context = ssl.create_default_context(cafile=CA) if CA.exists() else None
        try:
            with urlopen(request, timeout=TIMEOUT_SECONDS, context=context) as answer:  # noqa: S310 - as above
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series of an expression."""
        status, text = self.page("prometheus", "/api/v1/query", query=expression)
        assert status == 200, f"{expression}: {text}"
        return [(item["metric"], float(item["value"][1])) for item in json.loads(text)["data"]["result"]]

    def value(self, expression: str) -> float | None:
        """Return the value of an expression with at most one series; None if it has none."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression}: {found}"
        return found[0][1] if found else None

    def alarms(self) -> set[Alarm]:
        """Return all alerts, including inhibited ones."""
        _, text = self.page("alertmanager", "/api/v2/alerts")
        found: list[dict[str, Any]] = json.loads(text)
        return {Alarm(item["labels"]["alertname"], frozenset(item["labels"].items())) for item in found}
