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

import json
import signal
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._files import write_file
from ansible_collections.fleet.celery.plugins.module_utils._release import DRAINED
from ansible_collections.fleet.celery.plugins.module_utils._strays import Stray, stop_strays, strays, supervisord
from ansible_collections.fleet.celery.plugins.module_utils._supervisor import OPTIONS, program_file, run_module
from ansible_collections.fleet.celery.plugins.module_utils._workers import in_flight
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import (
    Process,
    SocketServer,
)

POLL_SECONDS = 0.5
# Seconds before the deadline at which workers get SIGQUIT. They hand back their tasks within a second or two.
HAND_BACK_SECONDS = 10


class Drain:
    """One call of the module: stops the workers, waits, and interrupts their tasks at the deadline."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.parameters: dict[str, Any] = module.params
        self.names: list[str] = module.params["programs"]
        self.marker = Path(module.params["root"]) / DRAINED
        self.server = SocketServer(module.params["socket"])
        self.changed = False
        self.stopped_strays: set[Stray] = set()
        # When the drain began, and when its workers got SIGQUIT, in seconds since the epoch; 0: they did not.
        self.since, self.handed_back = 0.0, 0.0

    def read(self) -> None:
        """Read the state of an earlier call from the marker, or begin the drain."""
        try:
            state = json.loads(self.marker.read_text(encoding="utf-8"))
            self.since, self.handed_back = float(state["since"]), float(state.get("handed_back", 0))
        except (FileNotFoundError, ValueError, KeyError):
            self.since = time.time()
            self.changed = True
            if not self.module.check_mode:
                self.write()

    def write(self) -> None:
        state = {"since": self.since, "handed_back": self.handed_back}
        write_file(self.marker, json.dumps(state) + "\n", 0o644, "root")

    def left(self) -> dict[str, Process]:
        return {name: process for name, process in self.server.processes().items() if name in self.names}

    def strays(self) -> list[Stray]:
        """Return the workers that outlived their supervisord."""
        return [stray for stray in strays(supervisord()) if stray.program in self.names]

    def stop_workers(self) -> None:
        """Stop all workers warm, and remove from Supervisor those that have stopped."""
        directory = Path(self.parameters["directory"])
        for name in self.names:
            program_file(directory, self.parameters["app_name"], "worker", name).unlink(missing_ok=True)
        self.server.reread()
        for name, process in self.left().items():
            self.changed = True
            if process.stopped:
                self.server.remove(name)
            elif process.state != "STOPPING":
                self.server.stop(name)
        stop_strays([stray for stray in self.strays() if stray not in self.stopped_strays])
        self.stopped_strays.update(self.strays())

    def run(self) -> dict[str, Any]:
        if not self.parameters["drained"]:
            there = self.marker.exists()
            if there and not self.module.check_mode:
                self.marker.unlink()
            return {"changed": there, "done": True, "waits": [], "broken_off": []}
        self.read()
        if self.module.check_mode:
            waits = [f"{name} would be stopped" for name, process in self.left().items() if not process.stopped]
            return {"changed": bool(waits) or self.changed, "done": True, "waits": waits, "broken_off": []}
        broken_off: set[str] = set()
        until = time.monotonic() + self.parameters["seconds"]
        while True:
            self.stop_workers()
            left, strays_left = self.left(), self.strays()
            if not (left or strays_left) or time.monotonic() > until:
                break
            if self.break_off(left, strays_left):
                broken_off |= {*left, *(stray.program for stray in strays_left)}
            time.sleep(POLL_SECONDS)
        return {
            "changed": self.changed,
            "done": not (left or strays_left),
            "waits": [
                *(self._waits(name, process) for name, process in left.items()),
                *(
                    f"{stray.program} (process {stray.pid}, without a Supervisor) is finishing its tasks"
                    for stray in strays_left
                ),
            ],
            "broken_off": sorted(broken_off),
        }

    def break_off(self, left: dict[str, Process], strays_left: list[Stray]) -> bool:
        """Send SIGQUIT shortly before the deadline and SIGKILL at it; return whether tasks are interrupted."""
        deadline, now = self.parameters["deadline"], time.time()
        if not deadline or now < self.since + max(deadline - HAND_BACK_SECONDS, deadline / 2):
            return False
        if not self.handed_back:
            self.handed_back = now
            self.write()
            for name in left:
                self.server.quit(name)
            stop_strays(strays_left, signal.SIGQUIT)
        elif now > max(self.since + deadline, self.handed_back + HAND_BACK_SECONDS / 2):
            for name in left:
                self.server.kill(name)
            stop_strays(strays_left, signal.SIGKILL)
        return True

    def _waits(self, name: str, process: Process) -> str:
        counts = Path(self.parameters["state_dir"]) / "counts"
        tasks = in_flight(counts, name, process.pid, time.time())
        deadline = self.parameters["deadline"]
        until = f"; interrupted in {max(0.0, self.since + deadline - time.time()):.0f} s" if deadline else ""
        return f"{name} is finishing its tasks{f': {tasks}' if tasks else ''}{until}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app_name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "programs": {"type": "list", "elements": "str", "required": True},
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
