"""What people are told of, and from when on. A queue's own thresholds stand beside the queue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._declaration import Problem, Reader, closest

SEVERITIES = ("page", "warn")
_ENDPOINT = re.compile(r"https://[^\s/]+(/\S*)?|[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


@dataclass(frozen=True)
class Alert:
    """An alert of templates/celery_rules.yml.j2, which has what it watches.

    Attributes:
        severity: page if it can't wait until the morning, else warn.
        lasting: seconds that it must have been so ("for" in a rule).
        above: what it is held against; None: nothing. Its unit is the rule's.
        least: how many there must be of what is held against it as a share; None: it is no share.
        window: seconds that are looked back at; None: it is about now.
        enabled: whether anybody is told.
    """

    severity: str
    lasting: int
    above: int | None = None
    least: int | None = None
    window: int | None = None
    enabled: bool = True


ALERTS: Mapping[str, Alert] = {
    "CeleryQueueOld": Alert("page", 120),
    "CeleryQueueDeep": Alert("warn", 300),
    "CeleryQueueSlow": Alert("warn", 600),
    "CeleryQueueWithoutConsumer": Alert("page", 180),
    "CeleryWorkerGone": Alert("page", 120),
    "CeleryWorkerFlapping": Alert("page", 0, above=3, window=900),
    "CeleryTasksKilled": Alert("warn", 0, above=0, window=600),
    "CeleryTasksFail": Alert("warn", 120, above=5, least=10, window=600),
    "CeleryTasksRetried": Alert("warn", 120, above=20, least=10, window=600),
    "CeleryReleaseMixed": Alert("warn", 1800),
    "CeleryBeatSilent": Alert("page", 0, above=600),
    "CeleryTaskLogLoses": Alert("warn", 0, above=0, window=600),
    "CeleryTaskLogBehind": Alert("warn", 300, above=600),
    "CeleryBrokerDown": Alert("page", 60),
    "CeleryBrokerMemory": Alert("page", 60, above=90),
    "CeleryBrokerDisk": Alert("page", 60),
    "CeleryBrokerConnections": Alert("page", 60, above=80),
    "CeleryCertificateExpires": Alert("warn", 3600, above=14 * 24 * 3600),
    "CeleryExporterDown": Alert("page", 120),
    "CeleryMetricsAbsent": Alert("page", 300),
}


def read_alerts(raw: object, problems: list[Problem]) -> dict[str, dict[str, Any]]:
    """Return all alerts, with what celery_alerts changes of them.

    Args:
        raw: by an alert's name what is different: severity, for, above, least, window, enabled.
        problems: what is wrong with it is added.
    """
    if not isinstance(raw, Mapping):
        problems.append(
            Problem("celery_alerts", f"{raw!r} is not a mapping", "Write it as {CeleryWorkerGone: {for: 60}}")
        )
        raw = {}
    for name in raw:
        if name not in ALERTS:
            fix = (
                "A queue's thresholds stand beside it, in celery_queues; the others are the chapters of docs/alerts.md"
            )
            problems.append(Problem(f"celery_alerts.{name}", f"is no alert{closest(str(name), ALERTS)}", fix))
    return {name: _read_alert(name, raw.get(name, {}), alert, problems) for name, alert in ALERTS.items()}


def _read_alert(name: str, raw: object, default: Alert, problems: list[Problem]) -> dict[str, Any]:
    where, found = f"celery_alerts.{name}", asdict(default)
    if not isinstance(raw, Mapping):
        problems.append(Problem(where, f"{raw!r} is not a mapping", f"Write it as {name}: {{severity: warn}}"))
        return found
    reader = Reader(raw, where, problems)
    given: dict[str, Any] = {
        "severity": reader.choice("severity", SEVERITIES, default.severity),
        "lasting": reader.integer("for", least=0, unit="a number of seconds"),
        # What an alert does not have, it can't be given.
        **{key: reader.integer(key, least=0) for key in ("above", "least") if found[key] is not None},
        **{key: reader.seconds(key) for key in ("window",) if found[key] is not None},
        "enabled": reader.flag("enabled") if "enabled" in raw else None,
    }
    reader.known.add("enabled")
    reader.unknown_keys()
    return found | {key: value for key, value in given.items() if value is not None}


def read_certificates(raw: object, problems: list[Problem]) -> list[str]:
    """Return the endpoints whose certificates are watched: https://host/... or host:port."""
    found = raw if isinstance(raw, list) else [raw]
    for endpoint in found:
        if not isinstance(endpoint, str) or not _ENDPOINT.fullmatch(endpoint):
            problems.append(
                Problem("celery_certificates", f"{endpoint!r} is no endpoint", "Write https://host or host:port")
            )
    return [str(endpoint) for endpoint in found]
