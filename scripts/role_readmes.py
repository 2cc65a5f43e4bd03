#!/usr/bin/env python3
"""Write the table of variables in each role's README.md from its argument spec.

The table is between two comments; the rest of the file is left alone. A missing README, or missing comments, are
created. With --check, nothing is written, and it exits with 1 if a file would change.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"
BEGIN = "<!-- Variables: written by scripts/role_readmes.py from meta/argument_specs.yml -->"
END = "<!-- End of the variables -->"
MARKUP = re.compile(r"\b([BCEILMOPRUV])\(([^()]*)\)")


def plain(text: str | list[str]) -> str:
    """Convert a description from Ansible's markup to one line of Markdown."""
    joined = " ".join(text if isinstance(text, list) else [text])

    def markdown(match: re.Match[str]) -> str:
        kind, words = match.groups()
        if kind == "B":
            return f"**{words}**"
        if kind == "I":
            return f"*{words}*"
        if kind == "L":
            label, _, url = words.partition(",")
            return f"[{label.strip()}]({url.strip()})"
        return words if kind in "UR" else f"`{words}`"

    return " ".join(MARKUP.sub(markdown, joined).replace("|", "\\|").split())


def shown(value: object) -> str:
    """Return a default value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    text = text.removesuffix("...").strip()
    if isinstance(value, str) and value:
        text = value
    return f"`{text}`".replace("|", "\\|")


def rows(options: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a row of a table for each option, each followed by the rows of its suboptions."""
    found = []
    for name, option in options.items():
        kind = option.get("type", "str")
        suboptions = option.get("options", {})
        if option.get("elements"):
            kind += f" of {'dict' if suboptions else option['elements']}"
        default = "**required**" if option.get("required") else shown(option["default"]) if "default" in option else ""
        description = plain(option.get("description", ""))
        if option.get("choices"):
            description += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
        found.append(f"| `{prefix}{name}` | {kind} | {default} | {description} |")
        found += rows(suboptions, f"{prefix}{name}{'[]' if option.get('elements') else ''}.")
    return found


def table(options: dict[str, Any]) -> list[str]:
    """Return the table of an entry point's options."""
    return ["| variable | type | default | what it is |", "| --- | --- | --- | --- |", *rows(options)]


def section(spec: dict[str, Any]) -> str:
    """Return the text between the two comments."""
    lines = [BEGIN]
    entry_points: dict[str, Any] = spec["argument_specs"]
    for name, entry in entry_points.items():
        if name == "main":
            lines += ["## Variables", ""]
        else:
            lines += ["", f"### With `tasks_from: {name}`", "", plain(entry.get("short_description", "")) + ".", ""]
        options = entry.get("options") or {}
        lines += table(options) if options else ["None."]
    return "\n".join([*lines, END])


def rendered(role: str, spec: dict[str, Any], current: str) -> str:
    """Return the text of a README with its table updated from the spec."""
    text = section(spec)
    if BEGIN in current and END in current:
        before, _, rest = current.partition(BEGIN)
        return before + text + rest.partition(END)[2]
    if current:
        return f"{current.rstrip()}\n\n{text}\n"
    entry = spec["argument_specs"]["main"]
    description = entry.get("description", [])
    paragraphs = [description] if isinstance(description, str) else description
    body = "\n\n".join(plain(paragraph) for paragraph in paragraphs)
    return f"# Role {role}\n\n{plain(entry['short_description'])}.\n\n{body}\n\n{text}\n"


def main() -> int:
    """Write or check the READMEs of all roles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file would change")
    check: bool = parser.parse_args().check
    stale = []
    for spec_file in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        role = spec_file.parent.parent
        readme = role / "README.md"
        current = readme.read_text(encoding="utf-8") if readme.exists() else ""
        text = rendered(role.name, yaml.safe_load(spec_file.read_text(encoding="utf-8")), current)
        if text == current:
            continue
        stale.append(str(readme.relative_to(ROLES.parent)))
        if not check:
            readme.write_text(text, encoding="utf-8")
    if stale and check:
        print("Differs from the argument spec: " + ", ".join(stale) + ". Run `make readmes`")
        return 1
    print("Wrote " + ", ".join(stale) if stale else "The READMEs agree with the argument specs.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
