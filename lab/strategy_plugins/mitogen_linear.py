"""Ansible's linear strategy with mitogen, which keeps one Python a host in place of starting one a task.

Scenarios use it, so that they take less of the machine. Ansible looks for strategies in directories, and mitogen's own
lies where pip puts it: this names it from a place that is known.
"""

from __future__ import annotations

from ansible_mitogen import affinity
from ansible_mitogen.loaders import strategy_loader
from ansible_mitogen.strategy import StrategyMixin

# Mitogen keeps a processor for itself, and what it starts off it: of two processors, one would be idle.
affinity.policy = affinity.Policy()
Linear = strategy_loader.get("linear", class_only=True)


class StrategyModule(StrategyMixin, Linear):  # type: ignore[misc,valid-type]
    """Mitogen's part before Ansible's."""
