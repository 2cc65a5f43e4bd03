#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Take the workers off a host until it is given back, a slice of time a call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_drain
short_description: Take the workers off a host until it is given back, a slice of time a call
description:
  - Tells all workers of the host to end, warm, at the same time, and has Supervisor forget them, so that they don't
    come back with the host either. Other modules start none while it is drained.
  - Returns after O(seconds), ended or not, with what it waits for. Called again it goes on.
  - Ten seconds before the O(deadline) it has workers that are left hand back their tasks, by SIGQUIT. After it, it ends
    by SIGKILL what is left still. RabbitMQ then gives the tasks to others at once; with Redis, C(playbooks/drain.yml)
    does so.
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.supervisor]
attributes:
  check_mode: {support: full, description: It says which programs would end.}
  diff_mode: {support: none, description: There is no text to differ.}
options:
  app_name:
    description: The application.
    type: str
    required: true
  root:
    description: The application's directory, in which is kept that the host is drained.
    type: path
    required: true
  state_dir:
    description: Directory of the counts.
    type: path
    required: true
  programs:
    description: The programs of this host's workers, also those that don't run.
    type: list
    elements: str
    required: true
  drained:
    description: Whether the host is to be drained. If not, what drained it is forgotten, and workers may be started.
    type: bool
    default: true
  deadline:
    description: Seconds since the host was first told, after which tasks are broken off. 0 waits as long as it takes.
    type: int
    default: 0
  seconds:
    description: Seconds after which it returns, ended or not. 0 is 15, and more once it has waited for minutes.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Take the workers off
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
done: {description: Whether no worker is left., type: bool, returned: success}
waits: {description: What is waited for., type: list, elements: str, returned: success}
broken_off: {description: Programs whose tasks were not ended., type: list, elements: str, returned: success}
"""

import json
import signal
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._activation import slice_seconds
from ansible_collections.fleet.celery.plugins.module_utils._files import write_file
from ansible_collections.fleet.celery.plugins.module_utils._release import DRAINED
from ansible_collections.fleet.celery.plugins.module_utils._strays import Stray, end, strays, supervisord
from ansible_collections.fleet.celery.plugins.module_utils._supervisor import (
    OPTIONS,
    Process,
    SocketServer,
    answer,
    program_file,
)
from ansible_collections.fleet.celery.plugins.module_utils._workers import still_at

POLL_SECONDS = 0.5
# A worker that is to hand back its tasks does so within a second or two.
HAND_BACK_SECONDS = 10


class Drain:
    """One call: tells, waits and, after the deadline, ends."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.parameters: dict[str, Any] = module.params
        self.names: list[str] = module.params["programs"]
        self.marker = Path(module.params["root"]) / DRAINED
        self.server = SocketServer(module.params["socket"])
        self.changed = False
        self.told: set[Stray] = set()
        # When the host was first told, and when its workers were told to hand back what they are at.
        self.since, self.handed_back = 0.0, 0.0

    def read(self) -> None:
        """Take up what an earlier call noted, or begin."""
        try:
            noted = json.loads(self.marker.read_text(encoding="utf-8"))
            self.since, self.handed_back = float(noted["since"]), float(noted.get("handed_back", 0))
        except (FileNotFoundError, ValueError, KeyError):
            self.since = time.time()
            self.changed = True
            if not self.module.check_mode:
                self.write()

    def write(self) -> None:
        noted = {"since": self.since, "handed_back": self.handed_back}
        write_file(self.marker, json.dumps(noted) + "\n", 0o644, "root")

    def left(self) -> dict[str, Process]:
        return {name: process for name, process in self.server.processes().items() if name in self.names}

    def strays(self) -> list[Stray]:
        """Return the workers' processes that a supervisord left which was killed."""
        return [stray for stray in strays(supervisord()) if stray.program in self.names]

    def tell(self) -> None:
        """Have all workers end, and Supervisor forget those that have."""
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
        end([stray for stray in self.strays() if stray not in self.told])
        self.told.update(self.strays())

    def run(self) -> dict[str, Any]:
        if not self.parameters["drained"]:
            there = self.marker.exists()
            if there and not self.module.check_mode:
                self.marker.unlink()
            return {"changed": there, "done": True, "waits": [], "broken_off": []}
        self.read()
        if self.module.check_mode:
            waits = [f"{name} would end" for name, process in self.left().items() if not process.stopped]
            return {"changed": bool(waits) or self.changed, "done": True, "waits": waits, "broken_off": []}
        broken_off: set[str] = set()
        until = time.monotonic() + (self.parameters["seconds"] or slice_seconds(time.time() - self.since))
        while True:
            self.tell()
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
                *(f"{stray.program} (process {stray.pid}, of no Supervisor) ends its tasks" for stray in strays_left),
            ],
            "broken_off": sorted(broken_off),
        }

    def break_off(self, left: dict[str, Process], strays_left: list[Stray]) -> bool:
        """Near the deadline, have workers hand back their tasks, and then end them; return whether it is so near."""
        deadline, now = self.parameters["deadline"], time.time()
        if not deadline or now < self.since + max(deadline - HAND_BACK_SECONDS, deadline / 2):
            return False
        if not self.handed_back:
            self.handed_back = now
            self.write()
            for name in left:
                self.server.quit(name)
            end(strays_left, signal.SIGQUIT)
        elif now > max(self.since + deadline, self.handed_back + HAND_BACK_SECONDS / 2):
            for name in left:
                self.server.kill(name)
            end(strays_left, signal.SIGKILL)
        return True

    def _waits(self, name: str, process: Process) -> str:
        counts = Path(self.parameters["state_dir"]) / "counts"
        tasks = still_at(counts, name, process.pid, time.time())
        deadline = self.parameters["deadline"]
        until = f"; broken off in {max(0.0, self.since + deadline - time.time()):.0f} s" if deadline else ""
        return f"{name} ends its tasks{f': {tasks}' if tasks else ''}{until}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app_name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "programs": {"type": "list", "elements": "str", "required": True},
            "drained": {"type": "bool", "default": True},
            "deadline": {"type": "int", "default": 0},
            "seconds": {"type": "int", "default": 0},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    answer(module, Drain(module).run)


if __name__ == "__main__":
    main()
