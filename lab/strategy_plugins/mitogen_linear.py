"""Ansible's linear strategy, made to take less of the machine that all scenarios share.

Mitogen keeps one Python a host in place of starting one a task. Ansible looks for strategies in directories, and
mitogen's own lies where pip puts it: this names it from a place that is known.
"""

from __future__ import annotations

from pathlib import Path
from types import CodeType

import ansible
from ansible._internal._templating import _jinja_bits as templating
from ansible.plugins.loader import filter_loader, test_loader
from ansible_mitogen import affinity, planner
from ansible_mitogen.loaders import strategy_loader
from ansible_mitogen.strategy import StrategyMixin
from jinja2.bccache import FileSystemBytecodeCache
from jinja2.nodes import Template

# Mitogen keeps a processor for itself, and what it starts off it: of two processors, one would be idle.
affinity.policy = affinity.Policy()
# For each module of a collection it reads what all collections say of themselves, for modules that import from one
# which Ansible has not loaded. We have none such.
planner._load_collections = lambda _invocation: None

# What each forked process would find and load anew.
filter_loader.get("mandatory")
test_loader.get("defined")
# Ansible compiles each template and condition anew in the process that it forks for a task on a host.
COMPILED = Path(__file__).resolve().parents[2] / ".cache" / "templates"
COMPILED.mkdir(parents=True, exist_ok=True)
cache = FileSystemBytecodeCache(str(COMPILED))
compile_anew = templating.AnsibleEnvironment.compile


def compile_once(
    environment: templating.AnsibleEnvironment,
    source: str | Template,
    name: str | None = None,
    filename: str | None = None,
    *options: bool,
) -> str | CodeType:
    """Compile a template, unless that was done before with the same Ansible, by any run."""
    if not isinstance(source, str):
        compiled: str | CodeType = compile_anew(environment, source, name, filename, *options)
        return compiled
    syntax = [getattr(environment, field) for field in templating._TEMPLATE_OVERRIDE_FIELD_NAMES]
    context = templating._TemplateCompileContext.current()
    key = repr((ansible.__version__, str(source), name, syntax, context.escape_backslashes, options))
    bucket = cache.get_bucket(environment, key, filename, source)
    if bucket.code is None:
        bucket.code = compile_anew(environment, source, name, filename, *options)
        cache.set_bucket(bucket)
    return bucket.code


templating.AnsibleEnvironment.compile = compile_once

Linear = strategy_loader.get("linear", class_only=True)


class StrategyModule(StrategyMixin, Linear):  # type: ignore[misc,valid-type]
    """Mitogen's part before Ansible's."""
