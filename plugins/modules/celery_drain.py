#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Drain a host: stop its workers, and keep them stopped until it is undrained."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_drain
short_description: Drain a host, or undrain it
description:
  - Stops all workers of the host at the same time by a warm shutdown, in which they end their tasks, and removes their
    programs from Supervisor. They stay stopped after a reboot.
  - While a host is drained, M(fleet.celery.celery_activate) and M(fleet.celery.supervisor_programs) start no worker.
  - Returns after O(seconds), whether all workers have stopped or not. Call it again until RV(done) is true.
  - Workers that still run get SIGQUIT at most 10 seconds before O(deadline), and hand their tasks back to the broker.
    At O(deadline) they get SIGKILL.
  - RabbitMQ redelivers tasks of killed workers at once. For Redis, run C(playbooks/sweep.yml).
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.supervisor]
attributes:
  check_mode: {support: full, description: Returns the programs that would stop.}
  diff_mode: {support: none, description: Programs have no text to compare.}
options:
  app_name:
    description: The application's name.
    type: str
    required: true
  root:
    description: The application's directory. A marker file in it says that the host is drained.
    type: path
    required: true
  state_dir:
    description: Directory below which the programs count their tasks.
    type: path
    required: true
  programs:
    description: The programs of this host's workers, running or not.
    type: list
    elements: str
    required: true
  without_cold_shutdown:
    description:
      - Those of O(programs) whose pool loses its tasks by SIGQUIT, as gevent and eventlet do. They get only SIGKILL at
        O(deadline).
    type: list
    elements: str
    default: []
  drained:
    description: V(true) drains the host. V(false) removes the marker, so that workers may be started again.
    type: bool
    default: true
  deadline:
    description: Seconds after the first call at which tasks are interrupted. V(0) waits until all tasks have ended.
    type: int
    default: 0
  seconds:
    description: Seconds after which the module returns.
    type: int
    default: 15
"""

EXAMPLES = r"""
- name: Drain the host
  fleet.celery.celery_drain:
    app_name: shop
    root: /srv/shop
    state_dir: /var/lib/shop
    programs: [shop-email]
    deadline: 300
  register: drain
  until: drain.done
  retries: 30
"""

RETURN = r"""
done:
  description: Whether all workers have stopped.
  type: bool
  returned: success
waits:
  description: For each program that still runs, what it is waited for.
  type: list
  elements: str
  returned: success
broken_off:
  description: Programs whose tasks were interrupted.
  type: list
  elements: str
  returned: success
"""

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._release import DRAINED
from ansible_collections.fleet.celery.plugins.module_utils._supervisor import OPTIONS, run_module
from ansible_collections.fleet.celery.plugins.module_utils._workers import in_flight
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.drain import (
    POLL_SECONDS,
    Deadline,
    HostDrain,
)
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import Process


class Drain:
    """One call of the module: stops the workers, waits, and interrupts their tasks at the deadline."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.parameters: dict[str, Any] = module.params
        self.drain = HostDrain(
            module.params["app_name"],
            Path(module.params["root"]) / DRAINED,
            module.params["programs"],
            module.params["without_cold_shutdown"],
            module.params["directory"],
            module.params["socket"],
        )

    def run(self) -> dict[str, Any]:
        drain = self.drain
        if not self.parameters["drained"]:
            there = drain.marker.exists()
            if there and not self.module.check_mode:
                drain.marker.unlink()
            return {"changed": there, "done": True, "waits": [], "broken_off": []}
        drain.begin(write=not self.module.check_mode)
        if self.module.check_mode:
            waits = [f"{name} would be stopped" for name, process in drain.running().items() if not process.stopped]
            return {"changed": bool(waits) or drain.changed, "done": True, "waits": waits, "broken_off": []}
        seconds = self.parameters["deadline"]
        deadline = Deadline(drain.since, drain.since + seconds) if seconds else None
        until = time.monotonic() + self.parameters["seconds"]
        while not (done := drain.step(deadline)) and time.monotonic() <= until:
            time.sleep(POLL_SECONDS)
        return {
            "changed": drain.changed,
            "done": done,
            "waits": [
                *(self._waits(name, process) for name, process in drain.left.items()),
                *(
                    f"{stray.program} (process {stray.pid}, without a Supervisor) is finishing its tasks"
                    for stray in drain.strays_left
                ),
            ],
            "broken_off": sorted(drain.interrupted),
        }

    def _waits(self, name: str, process: Process) -> str:
        counts = Path(self.parameters["state_dir"]) / "counts"
        tasks = in_flight(counts, name, process.pid, time.time())
        deadline = self.parameters["deadline"]
        until = f"; interrupted in {max(0.0, self.drain.since + deadline - time.time()):.0f} s" if deadline else ""
        return f"{name} is finishing its tasks{f': {tasks}' if tasks else ''}{until}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app_name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "programs": {"type": "list", "elements": "str", "required": True},
            "without_cold_shutdown": {"type": "list", "elements": "str", "default": []},
            "drained": {"type": "bool", "default": True},
            "deadline": {"type": "int", "default": 0},
            "seconds": {"type": "int", "default": 15},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    run_module(module, Drain(module).run)


if __name__ == "__main__":
    main()
