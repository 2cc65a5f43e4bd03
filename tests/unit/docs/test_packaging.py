"""What the collection tells tools and users about itself."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def tags(plays: Path) -> set[str]:
    found = yaml.safe_load(plays.read_text(encoding="utf-8"))
    return {tag for play in found for tag in play.get("tags", [])}


def test_an_execution_environment_has_what_the_controller_needs() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    lines = (ROOT / "meta" / "ee-requirements.txt").read_text(encoding="utf-8").splitlines()
    # Ansible itself is part of each environment. Rich shows the demo.
    needed = [each for each in groups["controller"] if not each.startswith(("ansible==", "rich"))]
    assert [line for line in lines if not line.startswith("#")] == needed


def test_collections_are_declared_once_for_users_and_once_for_the_lab() -> None:
    declared = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["dependencies"]
    listed = {
        each["name"]: each["version"].split(",")[0]
        for each in yaml.safe_load((ROOT / "requirements.yml").read_text(encoding="utf-8"))["collections"]
    }
    assert declared.items() <= listed.items()


def test_each_tag_of_site_yml_is_documented() -> None:
    page = (ROOT / "docs" / "first-fleet.md").read_text(encoding="utf-8")
    parts = ("site", "broker", "producers", "flower", "measure")
    for tag in set().union(*(tags(ROOT / "playbooks" / f"{name}.yml") for name in parts)) - {"always"}:
        assert f"| `{tag}` |" in page, tag
