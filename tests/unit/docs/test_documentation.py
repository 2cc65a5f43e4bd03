"""The documentation of modules and filters, as ansible-doc shows it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.fleet.celery.plugins.filter.fleet import FilterModule
from ansible_collections.fleet.celery.plugins.module_utils._declaration import read_queue, read_worker
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem

PLUGINS = Path(__file__).parents[3] / "plugins"
MODULES = sorted(path.stem for path in (PLUGINS / "modules").glob("*.py"))
KEYS = {
    "description", "type", "required", "default", "choices", "elements", "suboptions", "returned", "contains", "sample",
    "version_added",
}  # fmt: skip


def entries(raw: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for name, entry in raw.items():
        yield f"{where}.{name}", entry
        if isinstance(entry, Mapping):
            yield from entries(entry.get("suboptions") or entry.get("contains") or {}, f"{where}.{name}")


@pytest.mark.parametrize("name", MODULES)
def test_no_description_of_a_module_is_cut_off(name: str) -> None:
    # A comma in a mapping on one line ends the description, and what follows becomes a key.
    module = importlib.import_module(f"ansible_collections.fleet.celery.plugins.modules.{name}")
    documentation = yaml.safe_load(module.DOCUMENTATION)
    attributes = documentation.get("attributes", {})
    for where, entry in (
        *entries(documentation.get("options", {}), f"{name}.options"),
        *entries(yaml.safe_load(module.RETURN), f"{name}.return"),
    ):
        assert entry.keys() <= KEYS, where
        texts = entry["description"] if isinstance(entry["description"], list) else [entry["description"]]
        assert all(isinstance(text, str) and text.endswith(".") for text in texts), where
    assert all(attribute.keys() == {"support", "description"} for attribute in attributes.values()), name


def test_each_filter_has_its_documentation() -> None:
    for name in FilterModule().filters():
        (path,) = (PLUGINS / "filter").glob(f"{name}.yml")
        documentation = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert documentation["DOCUMENTATION"]["name"] == name
        assert f"fleet.celery.{name}" in documentation["EXAMPLES"], name
    assert {path.stem for path in (PLUGINS / "filter").glob("*.yml")} == FilterModule().filters().keys()


def documented(variable: str) -> dict[str, Any]:
    specs = yaml.safe_load((PLUGINS.parent / "roles/celery/meta/argument_specs.yml").read_text(encoding="utf-8"))
    options: dict[str, Any] = specs["argument_specs"]["main"]["options"][variable]["options"]
    return options


def defaults_of(options: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, option in options.items():
        if suboptions := option.get("options"):
            found[name] = defaults_of(suboptions)
        elif "default" in option:
            found[name] = option["default"]
    return {name: value for name, value in found.items() if value != {}}


@pytest.mark.parametrize(
    ("variable", "read", "least"),
    [
        ("celery_queues", read_queue, {"name": "email"}),
        ("celery_workers", read_worker, {"name": "email", "group": "workers", "queues": ["email"]}),
    ],
)
def test_options_of_queues_and_workers_are_documented_with_their_defaults(
    variable: str, read: Callable[..., Any], least: dict[str, Any]
) -> None:
    options = documented(variable)
    problems: list[Problem] = []
    assert read(least | defaults_of(options), "", problems) == read(least, "", problems)
    assert not problems
    assert {name for name, option in options.items() if option.get("required")} == least.keys()
    read(least | {"nothing": 1}, "", problems)
    assert problems[0].fix == f"The options are {', '.join(sorted(options))}"
