"""What the plan needs to know of a host, from its variables and gathered facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def host_facts(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return memory_mb, processors, address and declared_memory of a host; None where nothing is known."""
    facts: Mapping[str, Any] = variables.get("ansible_facts") or {}
    route: Mapping[str, Any] = facts.get("default_ipv4") or {}
    return {
        "memory_mb": facts.get("memtotal_mb"),
        "processors": facts.get("processor_vcpus"),
        "address": route.get("address") or variables.get("ansible_host"),
        "declared_memory": variables.get("celery_host_memory"),
    }
