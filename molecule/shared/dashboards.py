"""The queries of the dashboards, for tests against a running Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILES = Path(__file__).resolve().parents[2] / "roles" / "grafana_dashboards" / "files"
BROKERS = frozenset({"rabbitmq", "redis"})
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
LABEL_VALUES = re.compile(r"label_values\((?P<metric>.+), (?P<label>\w+)\)")
# What matches every value of a label, and no series that lacks it.
ALL = ".+"


@dataclass(frozen=True)
class Query:
    """A query of a dashboard.

    Attributes:
        dashboard: its uid.
        panel: its title; for what the reader chooses from, "variable" and its name; for a mark, "mark" and its name.
        expr: in PromQL, with all variables replaced.
        may_be_empty: nothing to show is right in a healthy fleet: the panel says what it shows then, or it is a mark.
    """

    dashboard: str
    panel: str
    expr: str
    may_be_empty: bool


def dashboards(broker_kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the dashboards for a kind of broker, or all. Those for one kind have it as a tag.

    Args:
        broker_kind: rabbitmq or redis.

    Raises:
        ValueError: if there is no such kind.
    """
    if broker_kind not in {*BROKERS, None}:
        raise ValueError(f"{broker_kind} is no kind of broker: {', '.join(sorted(BROKERS))}")
    for path in sorted(FILES.glob("*.json")):
        dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kinds = BROKERS.intersection(dashboard["tags"])
        if broker_kind is None or not kinds or broker_kind in kinds:
            yield dashboard


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the panels of a dashboard, including those in collapsed rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panels(panel)
        else:
            yield panel


def queries(broker_kind: str | None = None, window: str = "2m", seen: str = "10m") -> Iterator[Query]:
    """Yield the queries of the dashboards, with all values of their variables selected.

    Args:
        broker_kind: rabbitmq or redis; None: both.
        window: value of "$__rate_interval", at least four scrape intervals.
        seen: value of "$__range".

    Raises:
        ValueError: if a dashboard uses a variable that it does not have.
    """
    for dashboard in dashboards(broker_kind):
        uid = dashboard["uid"]
        chosen = [variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
        values = {variable["name"]: variable.get("allValue", ALL) for variable in chosen}
        values |= {"__rate_interval": window, "__range": seen}
        for variable in chosen:
            match = LABEL_VALUES.fullmatch(variable["query"]["query"])
            if not match:
                raise ValueError(f"{uid}: the variable {variable['name']} has no values of a label")
            expr = f"group by ({match['label']}) ({_replaced(match['metric'], values, uid)})"
            yield Query(uid, f"variable {variable['name']}", expr, may_be_empty=False)
        for mark in dashboard["annotations"].get("list", []):
            yield Query(uid, f"mark {mark['name']}", _replaced(mark["expr"], values, uid), may_be_empty=True)
        for panel in panels(dashboard):
            may_be_empty = bool(panel["fieldConfig"]["defaults"].get("noValue"))
            for target in panel["targets"]:
                yield Query(uid, panel["title"], _replaced(target["expr"], values, uid), may_be_empty)


def _replaced(expr: str, values: Mapping[str, str], uid: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in values:
            raise ValueError(f"{uid}: there is no variable {name} for {expr}")
        return values[name]

    return VARIABLE.sub(value, expr)
