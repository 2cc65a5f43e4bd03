"""The plan of a fleet that leaves its broker for another one."""

from __future__ import annotations

from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from fleet import FACTS, GROUPS, declaration

OLD: dict[str, Any] = {
    "address": "10.0.1.1",
    "addresses": ["10.0.1.1"],
    "memory_mb": 8192,
    "processors": 2,
    "system": ["Debian", "12"],
}


def moved(
    *previous: str, brokers: tuple[str, ...] = ("new1",), facts: dict[str, dict[str, Any]] | None = None, **changes: Any
) -> Plan:
    """Return the plan of a fleet that leaves the hosts `previous` for the hosts `brokers`."""
    own = {name: OLD | {"address": f"10.0.1.{at}", "addresses": [f"10.0.1.{at}"]} for at, name in enumerate(previous)}
    own |= {
        name: OLD | {"address": f"10.0.2.{at}", "addresses": [f"10.0.2.{at}"], "system": ["Debian", "13"]}
        for at, name in enumerate(brokers)
    }
    given = {name: values | (facts or {}).get(name, {}) for name, values in own.items()}
    groups = GROUPS | {
        "all": [*GROUPS["all"], *previous, *brokers],
        "broker": [*brokers],
        "broker_previous": [*previous],
    }
    return make_plan(declaration(**changes), groups, {**FACTS, **given})
