"""Alerts: their severities and thresholds. The thresholds of queues are in celery_queues."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, Reader, closest

SEVERITIES = ("page", "warn")
_URL = re.compile(r"https?://[^\s/]+(/[^\s#?]*)?")
_ENDPOINT = re.compile(r"https://[^\s/]+(/\S*)?|[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


@dataclass(frozen=True)
class Alert:
    """The settings of an alert, whose expression is in templates/celery_rules.yml.j2.

    Attributes:
        severity: "page" if it can't wait until the morning, else "warn".
        for_seconds: seconds that the expression must hold before the alert fires ("for" in a rule).
        threshold: the value above which it fires, in the expression's unit; None: it has none.
        min_samples: number of tasks below which a share is not evaluated; None: the expression is no share.
        window: seconds of the range that the expression evaluates; None: it evaluates the current value.
        enabled: whether the alert is sent.
    """

    severity: str
    for_seconds: int
    threshold: int | None = None
    min_samples: int | None = None
    window: int | None = None
    enabled: bool = True


ALERTS: Mapping[str, Alert] = {
    "CeleryQueueOld": Alert("page", 120),
    "CeleryQueueDeep": Alert("warn", 300),
    "CeleryQueueSlow": Alert("warn", 600),
    "CeleryQueueWithoutConsumer": Alert("page", 180),
    "CeleryWorkerGone": Alert("page", 120),
    "CeleryWorkerDisconnected": Alert("page", 120),
    "CeleryWorkerFlapping": Alert("page", 0, threshold=3, window=900),
    "CeleryTasksKilled": Alert("warn", 0, threshold=0, window=600),
    "CeleryTasksFail": Alert("warn", 120, threshold=5, min_samples=10, window=600),
    "CeleryTasksRetried": Alert("warn", 120, threshold=20, min_samples=10, window=600),
    "CeleryMessagesRefused": Alert("page", 0, threshold=0, window=600),
    "CeleryReleaseMixed": Alert("warn", 1800),
    "CeleryBeatSilent": Alert("page", 0, threshold=600),
    "CeleryTaskLogLoses": Alert("warn", 0, threshold=0, window=600),
    "CeleryTaskLogBehind": Alert("warn", 300, threshold=600),
    "CeleryBrokerDown": Alert("page", 60),
    "CeleryBrokerNodeDown": Alert("warn", 120),
    "CeleryQueueUnderReplicated": Alert("warn", 900),
    "CeleryBrokerMemory": Alert("page", 60, threshold=90),
    "CeleryBrokerDisk": Alert("page", 60),
    "CeleryBrokerBackupOld": Alert("warn", 0),
    "CeleryBrokerConnections": Alert("page", 60, threshold=80),
    "CeleryRedisPrimaries": Alert("page", 60),
    "CeleryRedisReplicas": Alert("warn", 120),
    "CeleryHostDisk": Alert("warn", 300, threshold=90),
    "CeleryCertificateExpires": Alert("warn", 3600, threshold=14 * 24 * 3600),
    "CeleryCertificateRefused": Alert("page", 60),
    "CeleryExporterDown": Alert("page", 120),
    "CeleryMetricsAbsent": Alert("page", 300),
}


def read_alerts(raw: object, problems: list[Problem]) -> dict[str, Alert]:
    """Return all alerts, with the changes of celery_alerts.

    Args:
        raw: for each alert that changes, a mapping of severity, for, threshold, min_samples, window or enabled.
        problems: gets the errors of raw.
    """
    if not isinstance(raw, Mapping):
        problems.append(
            Problem("celery_alerts", f"{raw!r} is not a mapping", "Write it as {CeleryWorkerGone: {for: 60}}")
        )
        raw = {}
    for name in raw:
        if name not in ALERTS:
            fix = "docs/alerts.md lists the alerts. The thresholds of a queue are its alerts in celery_queues"
            problems.append(Problem(f"celery_alerts.{name}", f"is not an alert{closest(str(name), ALERTS)}", fix))
    return {name: _read_alert(name, raw.get(name, {}), alert, problems) for name, alert in ALERTS.items()}


def _read_alert(name: str, raw: object, default: Alert, problems: list[Problem]) -> Alert:
    where = f"celery_alerts.{name}"
    if not isinstance(raw, Mapping):
        problems.append(Problem(where, f"{raw!r} is not a mapping", f"Write it as {name}: {{severity: warn}}"))
        return default
    reader = Reader(raw, where, problems)
    given: dict[str, Any] = {
        "severity": reader.choice("severity", SEVERITIES, default.severity),
        "for_seconds": reader.integer("for", least=0, unit="a number of seconds"),
        # An alert only takes the settings that its expression uses.
        **{
            key: read(key)
            for key, read in (
                ("threshold", partial(reader.integer, least=0)),
                ("min_samples", partial(reader.integer, least=0)),
                ("window", reader.seconds),
            )
            if getattr(default, key) is not None
        },
        "enabled": reader.flag("enabled") if "enabled" in raw else None,
    }
    reader.known.add("enabled")
    reader.unknown_keys()
    return replace(default, **{key: value for key, value in given.items() if value is not None})


def runbook_base(raw: object, problems: list[Problem]) -> str:
    """Return the prefix of the alerts' runbook_url: celery_docs_url, or the path of docs in the collection."""
    if not raw:
        return "docs"
    if not isinstance(raw, str) or not _URL.fullmatch(raw):
        problems.append(
            Problem(
                "celery_docs_url",
                f"{raw!r} is not a URL",
                "Set it to where alerts.md is, e.g. https://git.example.com/fleet/blob/main/docs, or remove it",
            )
        )
    return str(raw).rstrip("/")


def read_certificates(raw: object, problems: list[Problem]) -> tuple[str, ...]:
    """Return the endpoints whose certificates are monitored, each as https://host/... or host:port."""
    endpoints = raw if isinstance(raw, list) else [raw]
    for endpoint in endpoints:
        if not isinstance(endpoint, str) or not _ENDPOINT.fullmatch(endpoint):
            problems.append(
                Problem(
                    "celery_certificate_targets",
                    f"{endpoint!r} is not an endpoint",
                    "Set it to https://host or host:port",
                )
            )
    return tuple(str(endpoint) for endpoint in endpoints)
