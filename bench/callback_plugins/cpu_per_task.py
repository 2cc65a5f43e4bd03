"""Report the controller's CPU seconds of each task of a playbook, and the number of its hosts.

ANSIBLE_CALLBACK_PLUGINS=bench/callback_plugins ANSIBLE_CALLBACKS_ENABLED=cpu_per_task ansible-playbook …
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: cpu_per_task
type: aggregate
short_description: What each task cost the controller, in CPU seconds
description:
  - Of its main process, and of those that it started. SSH's masters are not among them.
  - A process counts when it is waited for. That of a task's last host may come with the next task.
requirements: [to be enabled]
"""


@dataclass
class Cost:
    """The cost of a task, in CPU seconds.

    Attributes:
        hosts: on how many it ran or was skipped.
        main: of the main process.
        children: of the processes that it started.
    """

    name: str
    hosts: int = 0
    main: float = 0.0
    children: float = 0.0


def used() -> tuple[float, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Records the CPU time at the start of each task, and prints the differences at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "cpu_per_task"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._costs = [Cost("start")]
        self._since = (0.0, 0.0)

    def _next(self, name: str) -> None:
        now = used()
        self._costs[-1].main = now[0] - self._since[0]
        self._costs[-1].children = now[1] - self._since[1]
        self._since = now
        self._costs.append(Cost(name))

    def v2_playbook_on_play_start(self, play: Any) -> None:  # noqa: ANN401 - Ansible has no types
        self._next(f"PLAY {play.get_name()}")

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ANN401, ARG002
        self._next(task.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:  # noqa: ANN401, ARG002
        self._costs[-1].hosts += 1

    def v2_runner_on_skipped(self, result: Any) -> None:  # noqa: ANN401, ARG002
        self._costs[-1].hosts += 1

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ANN401, ARG002
        self._next("end")
        self._display.display(f"{'hosts':>5} {'main':>6} {'others':>6}  CPU seconds of each task")
        for cost in self._costs[:-1]:
            self._display.display(f"{cost.hosts:>5} {cost.main:>6.2f} {cost.children:>6.2f}  {cost.name[:90]}")
        main, children = (sum(getattr(cost, name) for cost in self._costs) for name in ("main", "children"))
        self._display.display(f"{'all':>5} {main:>6.2f} {children:>6.2f}")
