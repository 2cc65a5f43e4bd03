#!/usr/bin/env python3
"""Check that the argument spec and the defaults of each role agree.

Ansible validates types by the spec but takes values from the defaults, so a difference only results in wrong
documentation. Prints a line for each problem; exits with 1 if there is any.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"


def load(path: Path) -> dict[str, Any]:
    """Return the YAML mapping in a file; empty if the file is missing or empty."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None) or {}


def text_of(value: object) -> str:
    """Return a canonical text of a value, in which true and 1 differ, unlike in Python."""
    return json.dumps(value, sort_keys=True)


def problems_of(role: str, defaults: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    """Return the differences between a role's defaults and its spec."""
    entry_points: dict[str, Any] = spec.get("argument_specs", {})
    if "main" not in entry_points:
        return [f"{role}: meta/argument_specs.yml has no entry point main"]
    problems = [
        f"{role}: entry point {name} has no short_description"
        for name, entry in entry_points.items()
        if not entry.get("short_description")
    ]
    options: dict[str, Any] = {}
    for entry in entry_points.values():
        options |= entry.get("options") or {}
    for name, option in options.items():
        if not name.startswith(f"{role}_"):
            problems.append(f"{role}: {name} does not begin with the role's name")
        problems += [f"{role}: {name} has no {field}" for field in ("description", "type") if not option.get(field)]
        if option.get("required") and name in defaults:
            problems.append(f"{role}: {name} is required, yet it has a default")
        if "default" in option and name not in defaults:
            problems.append(f"{role}: the spec gives {name} a default that defaults/main.yml does not have")
        # Ansible's documentation refuses a template as the default of an option that is no string.
        shown = option.get("type") == "str" or "{{" not in text_of(defaults.get(name))
        if "default" not in option and not option.get("required") and name in defaults and shown:
            problems.append(f"{role}: the spec does not show the default of {name}")
        if "default" in option and name in defaults and text_of(option["default"]) != text_of(defaults[name]):
            problems.append(f"{role}: {name} defaults to {defaults[name]!r}, but its spec says {option['default']!r}")
    problems += [f"{role}: {name} has a default but is not in the spec" for name in defaults if name not in options]
    return problems


def main() -> int:
    """Check every role."""
    problems = [
        problem
        for role in sorted(path for path in ROLES.iterdir() if path.is_dir())
        for problem in problems_of(
            role.name, load(role / "defaults" / "main.yml"), load(role / "meta" / "argument_specs.yml")
        )
    ]
    print("\n".join(problems) if problems else "Specs and defaults agree.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
