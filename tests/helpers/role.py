"""A role's variables and templates, rendered as by Ansible."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.filter.core import FilterModule as AnsibleFilters
from ansible.template import Templar, trust_as_template
from ansible_collections.fleet.celery.plugins.action.role_options import RoleVariables
from ansible_collections.fleet.celery.plugins.filter.fleet import FilterModule
from ansible_collections.fleet.celery.plugins.module_utils._role_options import OPTION_CHECKS
from jinja2 import Environment, StrictUndefined, meta

# A file that a template takes in as it is. With its own lookup, Ansible would look for all imports from then on.
_TAKEN_IN = re.compile(r"\{\{ lookup\('ansible\.builtin\.file', role_path ~ '([^']+)'\) \}\}")


class Role:
    """A role with variables, which a call may override. Their values are not templates."""

    def __init__(self, name: str, **variables: Any) -> None:
        self.path = Path(__file__).parents[2] / "roles" / name
        self._given = {"ansible_managed": "managed", "role_path": str(self.path)} | variables

    @cached_property
    def _variables(self) -> dict[str, Any]:
        files = (self.path / name / "main.yml" for name in ("defaults", "vars"))
        own = [trusted(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files if path.exists()]
        return {name: value for variables in own for name, value in variables.items()} | self._given

    def value(self, expression: str, **given: Any) -> Any:
        """Return the value of an expression with the role's variables."""
        return self._template("{{ " + expression + " }}", given)

    def problems(self, **given: Any) -> list[str]:
        """Return what is wrong with the role's options."""
        variables = self._variables | given
        options = RoleVariables(variables, self.path.name, _templar(variables))
        return list(map(str, OPTION_CHECKS[self.path.name](options, variables.get("ansible_facts", {}))))

    def render(self, template: str, **given: Any) -> str:
        """Render a template of the role as ansible.builtin.template does. It must not use the collection's filters."""
        text = (self.path / "templates" / template).read_text(encoding="utf-8")
        text = _TAKEN_IN.sub(lambda found: Path(f"{self.path}{found[1]}").read_text(encoding="utf-8"), text)
        return str(self._template(text, given))

    def render_with_filters(self, template: str, **given: Any) -> str:
        """Render a template that uses filters of the collection."""
        environment = Environment(undefined=StrictUndefined, trim_blocks=True)  # noqa: S701 - not HTML
        environment.filters |= AnsibleFilters().filters()
        environment.filters |= {f"fleet.celery.{name}": call for name, call in FilterModule().filters().items()}
        text = (self.path / "templates" / template).read_text(encoding="utf-8")
        names = meta.find_undeclared_variables(environment.parse(text))
        return environment.from_string(text).render({name: self.value(name, **given) for name in names})

    def _template(self, text: str, given: dict[str, Any]) -> Any:
        return _templar(self._variables | given).template(trust_as_template(text), escape_backslashes=False)


def _templar(variables: dict[str, Any]) -> Templar:
    return Templar(loader=DataLoader(), variables=variables)


def trusted(value: Any) -> Any:
    """Return a value in which Ansible renders each string as a template."""
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value
