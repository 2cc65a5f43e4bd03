"""Ansible's linear strategy with Mitogen, which needs less CPU time in scenarios.

Mitogen keeps a Python process on each host instead of starting one for each task. Ansible looks for strategies in
directories; this file makes Mitogen's strategy, which pip installed elsewhere, available in a known one.
"""

from __future__ import annotations

import gc
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

# Mitogen reserves a processor for itself. With two processors, one would be idle.
affinity.policy = affinity.Policy()
# For each module, Mitogen reads the metadata of all collections, for imports from collections that Ansible has not
# loaded. There are none.
planner._load_collections = lambda _invocation: None

# A collection in a forked process copies the memory that it shares with its parent, and a run is short.
gc.disable()
# Load these once, instead of in each forked process.
filter_loader.get("mandatory")
test_loader.get("defined")
# Ansible compiles each template and condition in each forked process.
COMPILED = Path(__file__).resolve().parents[2] / ".cache" / "templates"
COMPILED.mkdir(parents=True, exist_ok=True)
cache = FileSystemBytecodeCache(str(COMPILED))
compile_uncached = templating.AnsibleEnvironment.compile


def compile_once(
    environment: templating.AnsibleEnvironment,
    source: str | Template,
    name: str | None = None,
    filename: str | None = None,
    *options: bool,
) -> str | CodeType:
    """Compile a template, or load its code from the cache of earlier runs with the same version of Ansible."""
    if not isinstance(source, str):
        compiled: str | CodeType = compile_uncached(environment, source, name, filename, *options)
        return compiled
    syntax = [getattr(environment, field) for field in templating._TEMPLATE_OVERRIDE_FIELD_NAMES]
    context = templating._TemplateCompileContext.current()
    key = repr((ansible.__version__, str(source), name, syntax, context.escape_backslashes, options))
    bucket = cache.get_bucket(environment, key, filename, source)
    if bucket.code is None:
        bucket.code = compile_uncached(environment, source, name, filename, *options)
        cache.set_bucket(bucket)
    return bucket.code


templating.AnsibleEnvironment.compile = compile_once

Linear = strategy_loader.get("linear", class_only=True)


class StrategyModule(StrategyMixin, Linear):  # type: ignore[misc,valid-type]
    """Ansible's linear strategy with Mitogen's mixin."""
