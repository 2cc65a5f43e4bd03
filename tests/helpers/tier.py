"""Plans of brokers with several hosts."""

from __future__ import annotations

from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from fleet import FACTS, GROUPS, declaration

BROKERS = ("broker1", "broker2", "broker3")


def tier(*brokers: str, facts: dict[str, dict[str, Any]] | None = None, **changes: Any) -> Plan:
    """Return the plan of a fleet with these hosts as its broker."""
    addresses = {name: f"10.0.0.{200 + number}" for number, name in enumerate(brokers)}
    own: dict[str, dict[str, Any]] = {
        name: {
            "memory_mb": 8192,
            "processors": 2,
            "address": address,
            "addresses": [address],
            "system": ["Debian", "13"],
        }
        for name, address in addresses.items()
    }
    given = {name: values | (facts or {}).get(name, {}) for name, values in own.items()}
    groups = GROUPS | {"all": [*GROUPS["all"], *brokers], "broker": [*brokers]}
    return make_plan(declaration(**changes), groups, FACTS | given)


def refusals(made: Plan) -> str:
    return "\n".join(map(str, made.problems))
