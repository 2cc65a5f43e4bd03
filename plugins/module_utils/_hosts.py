"""The hosts of an inventory, as far as the plan needs to know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._declaration import Problem, as_integer
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, parse_size


@dataclass(frozen=True)
class Host:
    """What is known of a host.

    Attributes:
        memory: bytes that the fleet may use there; None if it is not known.
        processors: None if it is not known.
        address: what other hosts reach it by; empty if it is not known.
        disk: bytes of the file system below /var/lib; None if it is not known.
        debian: number of the release; None if it is not known.
        role_variables: set there, though the plan derives them.
    """

    name: str
    memory: int | None = None
    processors: int | None = None
    address: str = ""
    disk: int | None = None
    debian: int | None = None
    role_variables: tuple[str, ...] = ()


def read_hosts(raw: Mapping[str, Mapping[str, Any]], problems: list[Problem]) -> dict[str, Host]:
    """Return the hosts of an inventory.

    Args:
        raw: for each inventory name what host_facts tells of it; declared_memory where the user set celery_host_memory.
    """
    hosts = {}
    for name, facts in raw.items():
        memory = int(facts["memory_mb"]) * MIB if facts.get("memory_mb") else None
        if facts.get("declared_memory"):
            try:
                memory = parse_size(facts["declared_memory"])
            except ValueError as error:
                problems.append(Problem(f"celery_host_memory of {name}", str(error), "Set it to 2GB, say"))
        hosts[name] = Host(
            name,
            memory,
            facts.get("processors") or None,
            str(facts.get("address") or ""),
            facts.get("disk"),
            as_integer(facts.get("debian")),
            tuple(facts.get("role_variables") or ()),
        )
    return hosts
