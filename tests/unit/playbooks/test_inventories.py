"""The project's inventories are valid."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.fleet.celery.plugins.module_utils._plan import make_plan
from jinja2 import Template

ROOT = Path(__file__).parents[3]


def inventory(name: str) -> dict[str, Any]:
    run = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-inventory")), "-i", str(ROOT / "inventories" / name), "--list"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    listed: dict[str, Any] = json.loads(run.stdout)
    return listed


def members(listed: dict[str, Any], group: str) -> list[str]:
    entry = listed.get(group, {})
    hosts = list(entry.get("hosts", []))
    for child in entry.get("children", []):
        hosts += [host for host in members(listed, child) if host not in hosts]
    return hosts


def rendered(value: Any, groups: dict[str, list[str]]) -> Any:
    """Return a variable with its templates of groups rendered, which Ansible does when it is used."""
    if isinstance(value, dict):
        return {key: rendered(each, groups) for key, each in value.items()}
    if isinstance(value, list):
        return [rendered(each, groups) for each in value]
    return Template(value).render(groups=groups) if isinstance(value, str) and "groups[" in value else value


@pytest.mark.parametrize("name", ["lab", "lab-cluster", "single", "example"])
def test_an_inventory_of_the_project_can_be_planned(name: str) -> None:
    listed = inventory(name)
    hosts = listed["_meta"]["hostvars"]
    variables = next(iter(hosts.values()))
    groups = {group: members(listed, group) for group in listed if group != "_meta"}
    raw = {
        key.removeprefix("celery_"): rendered(value, groups)
        for key, value in variables.items()
        if key.startswith("celery_")
    }
    facts = {
        host: {"memory_mb": 4096, "processors": 2, "address": f"192.0.2.{number}"} for number, host in enumerate(hosts)
    }
    plan = make_plan(raw, groups, facts)
    assert plan.problems == ()
    assert plan.values["beat_host"]
    assert plan.values["flower_host"]
    assert {duty for host in plan.values["hosts"].values() for duty in host["duties"]} >= {"rabbitmq", "workers"}


@pytest.mark.parametrize(
    ("page", "scenario"),
    [
        ("deploy-django", "tutorial"),
        ("deploy-flask", "factory"),
        ("deploy-celeryconfig", "celeryconfig"),
        ("deploy-package", "pretix"),
    ],
)
def test_a_page_shows_the_inventory_that_its_scenario_tests(page: str, scenario: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    shown = [yaml.safe_load(block) for block in re.findall(r"(?ms)^```yaml\n(.*?)^```", text)]
    # Further blocks show other applications.
    shown = shown[:2]
    directory = ROOT / "molecule" / scenario / "inventory"
    tested = [yaml.safe_load((directory / name).read_text()) for name in ("hosts.yml", "group_vars/all.yml")]
    for hosts, variables in (shown, tested):
        # What differs from user to user: where things are, and secrets.
        variables.pop("celery_app_source")
        for entry in variables.get("celery_firewall_ports", []):
            entry.pop("sources")
        for name in ("DATABASE_HOST", "DATABASE_PASSWORD"):
            variables.get("celery_app_environment", {}).pop(name, None)
        for group in [hosts["all"], *hosts["all"]["children"].values()]:
            group["hosts"] = list(group.get("hosts", []))
        hosts["all"].pop("vars", None)
        hosts["all"]["children"].pop("producers", None)
    assert shown == tested
