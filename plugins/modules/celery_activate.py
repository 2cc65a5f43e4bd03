#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Activate a staged release on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_activate
short_description: Activate a staged release on a host, by warm restart or by handover
description:
  - Points C(current) to the release, and restarts all programs that run on another one, all at the same time.
  - A program with one slot is restarted warm. The old worker ends its tasks, then the new one starts.
  - A program with two slots is handed over. The new worker starts beside the old one, which ends its tasks once the
    new one consumes.
  - A program is done once it runs on the release, its heartbeat is fresh and it consumes its queues.
  - Returns after O(seconds), whether all programs are done or not. Call it again until RV(done) is true. It continues
    where it was, also after a crash of the controller or of the host.
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.supervisor]
attributes:
  check_mode: {support: full, description: Returns the programs that would be restarted.}
  diff_mode: {support: full, description: Shows the release that C(current) points to.}
options:
  app_name:
    description: The application's name.
    type: str
    required: true
  app:
    description: The application as C(celery -A) takes it.
    type: str
    required: true
  user:
    description: The application's user.
    type: str
    required: true
  version:
    description: The release. M(fleet.celery.celery_release) must have staged and checked it.
    type: str
    required: true
  run:
    description: Identifier of the activation. Calls with another one begin a new activation of the same release.
    type: str
    default: ""
  root:
    description: The application's directory, which holds C(current) and C(releases).
    type: path
    required: true
  config_dir:
    description: Directory of the application's environment and settings.
    type: path
    required: true
  state_dir:
    description: Directory below which the programs count their tasks.
    type: path
    required: true
  programs:
    description: The programs of this host.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The program's name in Supervisor.
        type: str
        required: true
      slot_of:
        description: The worker that the program is a slot of. See M(fleet.celery.supervisor_programs).
        type: str
        default: ""
      kind:
        description: The kind of program, part of its file's name. See M(fleet.celery.supervisor_programs).
        type: str
        default: worker
      node:
        description: The node name. A program without one is done once Supervisor reports it RUNNING.
        type: str
        default: ""
      queues:
        description: Queues that the program must consume.
        type: list
        elements: str
        default: []
      config:
        description: Content of the program's configuration file. Only slots need it.
        type: str
        default: ""
      environment:
        description: Environment variables of this program alone.
        type: dict
        default: {}
  previous:
    description: The release to record as the previous one. The default is the one that C(current) pointed to.
    type: str
  only:
    description: Restart only these programs, or programs of these workers. Empty restarts all.
    type: list
    elements: str
    default: []
  restart_before:
    description:
      - Also restart programs that run on the release but were started before this time.
      - In seconds since the epoch, by the host's clock.
    type: float
    default: 0
  stop_by:
    description:
      - How workers are stopped, by Supervisor's signal or by Celery's remote control.
      - A worker with two slots is always stopped by a signal, as Supervisor would restart it otherwise.
    type: str
    choices: [supervisor, remote_control]
    default: supervisor
  keep_releases:
    description:
      - Number of releases to keep once all programs are done. V(0) keeps all.
      - The current release, the previous one and those that a process runs on are always kept.
    type: int
    default: 0
  start_timeout:
    description: Seconds within which a started program must be done. The activation fails after that.
    type: int
    default: 180
  seconds:
    description: Seconds after which the module returns.
    type: int
    default: 15
"""

EXAMPLES = r"""
- name: Activate the release
  fleet.celery.celery_activate:
    app_name: shop
    app: shop.celery:app
    user: shop
    version: 1.4.0
    root: /srv/shop
    config_dir: /etc/shop
    state_dir: /var/lib/shop
    programs: "{{ programs }}"
  register: activation
  until: activation.done or activation.failures
  retries: 300
"""

RETURN = r"""
version:
  description: The release.
  type: str
  returned: always
pruned:
  description: Releases that were removed.
  type: list
  elements: str
  returned: always
drained:
  description: Whether the host is drained. No worker is started then.
  type: bool
  returned: always
done:
  description: Whether all programs are done.
  type: bool
  returned: always
failures:
  description: For each program that can't be activated, the reason.
  type: list
  elements: str
  returned: always
waits:
  description: For each program that is not done, what it is waited for.
  type: list
  elements: str
  returned: always
previous:
  description: The release before this activation.
  type: str
  returned: always
programs:
  description: For each program its phases, each with the time at which it began.
  type: dict
  returned: always
"""

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._activation import (
    DOWN,
    Observed,
    Step,
    Wanted,
    next_step,
)
from ansible_collections.fleet.celery.plugins.module_utils._environment import environment_text
from ansible_collections.fleet.celery.plugins.module_utils._files import replace_link, write_file
from ansible_collections.fleet.celery.plugins.module_utils._release import (
    ACTIVATION,
    DRAINED,
    STARTED_FROM,
    in_use,
    prunable,
    read_record,
    started_from,
)
from ansible_collections.fleet.celery.plugins.module_utils._supervisor import (
    OPTIONS,
    environment_of,
    log_tail,
    run_module,
)
from ansible_collections.fleet.celery.plugins.module_utils._workers import (
    RemoteControl,
    in_flight,
    query_command,
)
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.alive import is_fresh, read_alive
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import remove_counts
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import (
    Process,
    SocketServer,
    program_file,
)

POLL_SECONDS = 0.5
# A worker that runs longer without a file of its own is probed by remote control.
SILENT_SECONDS = 30.0


class State:
    """The state of an activation, which later calls read from a file of root."""

    def __init__(self, path: Path, version: str, run: str, *, keep: bool) -> None:
        self._path, self._keep, self._version, self._run = path, keep, version, run
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            raw = {}
        # Of another run, only the previous release and the programs that were never ready matter.
        mine = raw if (raw.get("version"), raw.get("run")) == (version, run) else {}
        self.previous: str = raw.get("previous", "") if raw.get("version") == version else ""
        # When each program was first started, in seconds since the epoch.
        self.tried: dict[str, float] = mine.get("tried", {})
        # The process id of each program that was shut down by remote control.
        self.shut_down: dict[str, int] = mine.get("shut_down", {})
        # Programs that this activation, or one that failed, started and that were never ready.
        self.idle: set[str] = set(raw.get("idle", []))
        self.phases: dict[str, list[list[Any]]] = mine.get("phases", {})

    def phase(self, program: str, name: str) -> None:
        """Record that a program enters a phase now."""
        phases = self.phases.setdefault(program, [])
        if not phases or phases[-1][1] != name:
            phases.append([round(time.time(), 2), name])

    def write(self) -> None:
        if not self._keep:
            return
        state = {
            "version": self._version,
            "run": self._run,
            "previous": self.previous,
            "tried": self.tried,
            "shut_down": self.shut_down,
            "idle": sorted(self.idle),
            "phases": self.phases,
        }
        write_file(self._path, json.dumps(state, indent=1) + "\n", 0o600, "root")


class Activation:
    """One call of the module: polls, decides and acts until all programs are done, one failed, or the time is over."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.parameters: dict[str, Any] = module.params
        self.root, self.config_dir = Path(module.params["root"]), Path(module.params["config_dir"])
        self.directory = Path(module.params["directory"])
        self.items: dict[str, dict[str, Any]] = {item["name"]: item for item in module.params["programs"]}
        self.slots: dict[str, list[str]] = {}
        self.drained = (self.root / DRAINED).exists()
        only = set(module.params["only"])
        for item in module.params["programs"]:
            worker = item["slot_of"] or item["name"]
            if (not only or {worker, item["name"]} & only) and not (self.drained and item["kind"] == "worker"):
                self.slots.setdefault(worker, []).append(item["name"])
        self.pruned: list[str] = []
        self.server = SocketServer(module.params["socket"])
        self.state = State(
            self.root / ACTIVATION, module.params["version"], module.params["run"], keep=not module.check_mode
        )
        self.counts = Path(module.params["state_dir"]) / "counts"
        self.current = self.root / "current"
        self.target = Path("releases") / module.params["version"]
        self.remote_control: RemoteControl | None = None
        self.ready: set[str] = set()
        self.changed = False

    # ---- Observe ----

    def live(self, worker: str) -> str:
        """Return the slot of a worker that starts at boot: the one that has a configuration file."""
        slots = self.slots[worker]
        return next((slot for slot in slots if self._config(slot).exists()), slots[0])

    def _config(self, name: str) -> Path:
        return program_file(self.directory, self.parameters["app_name"], self.items[name]["kind"], name)

    def poll(self) -> dict[str, Observed]:
        """Return the state of each program that Supervisor has. Programs that are current are pinged."""
        processes = {name: item for name, item in self.server.processes().items() if name in self.items}
        current = {name for name, item in processes.items() if self._is_current(name, item)}
        for name in current:
            self.state.tried.setdefault(name, time.time())
        answers = self._answers({name: processes[name] for name in current})
        now = time.time()
        observed = {}
        for name, item in processes.items():
            tried = self.state.tried.get(name)
            answered, queues = answers.get(name, (False, frozenset()))
            if answered:
                self.state.idle.discard(name)
            observed[name] = Observed(
                self._program_state(name, item),
                name in current,
                answered,
                queues,
                None if tried is None else max(0.0, now - tried),
                name in self.state.idle,
                log_tail(item.logfile) if item.state in DOWN or (tried and now - tried > self._start_timeout) else "",
            )
        return observed

    def _program_state(self, name: str, process: Process) -> str:
        """Return the state of a program. Supervisor does not know of a shutdown by remote control."""
        stopping = process.pid and process.pid == self.state.shut_down.get(name)
        return "STOPPING" if stopping and process.state == "RUNNING" else process.state

    @property
    def _start_timeout(self) -> float:
        return float(self.parameters["start_timeout"])

    def _is_current(self, name: str, process: Process) -> bool:
        if not process.pid or process.state not in {"STARTING", "RUNNING"}:
            return False
        if process.started < self.parameters["restart_before"]:
            return False
        digest = environment_of(process.pid).get(STARTED_FROM)
        if digest is None:
            # Supervisor has just spawned it. It is still the wrapper's shell, which reads what is on disk now.
            return True
        return digest == started_from(self.root, self.config_dir, name)

    def _answers(self, current: dict[str, Process]) -> dict[str, tuple[bool, frozenset[str]]]:
        """Return for each of these programs whether it answers, and the queues that it consumes."""
        answers = {}
        names = {}
        for name, process in current.items():
            item = self.items[name]
            if name in self.ready or not item["node"]:
                # Beat has no remote control. Supervisor reports RUNNING once it has stayed up for startsecs.
                up = name in self.ready or process.state == "RUNNING"
                answers[name] = (up, frozenset(item["queues"]))
            elif alive := read_alive(self.counts, name, process.pid):
                answers[name] = (is_fresh(alive), frozenset(alive.queues))
            elif time.time() - process.started > SILENT_SECONDS:
                # It could not write its file, as on a full disk.
                names[item["node"]] = name
        if names:
            for node, queues in self._consumed_queues(names).items():
                answers[names[node]] = (True, queues)
        self.ready |= {
            name for name, (up, queues) in answers.items() if up and set(self.items[name]["queues"]) <= queues
        }
        return answers

    def _consumed_queues(self, nodes: Iterable[str], *, shutdown: bool = False) -> dict[str, frozenset[str]]:
        if self.remote_control is None:
            command = query_command(self.parameters["root"], "control", self.parameters["app"])
            self.remote_control = RemoteControl(command)
        return self.remote_control.consumed_queues(nodes, shutdown=shutdown)

    # ---- Act ----

    def act(self, worker: str, step: Step) -> None:
        """Carry out the next step of a worker."""
        if step.live:
            self._go_live(worker, step.live)
        if step.stop:
            self.changed = True
            self._stop(step.stop)
            self.state.phase(step.stop, "draining")
        if step.kill:
            self.changed = True
            self.server.stop(step.kill)
            self.server.kill(step.kill)
            self.state.phase(step.kill, "killed")
        if step.start:
            self.changed = True
            self.state.tried.setdefault(step.start, time.time())
            self.state.idle.add(step.start)
            self._start(step.start, self.live(worker))
            self.state.phase(step.start, "starting")
        if step.done:
            self.state.phase(self.live(worker), "up")
        self.state.write()

    def _start(self, name: str, live: str) -> None:
        if name in self.server.processes():
            self.server.start(name)
            return
        self._write(name)
        self.server.reread()
        self.server.add(name)
        if self.items[name]["slot_of"] and name != live:
            # The slot with a configuration file starts at boot. That is still the other one.
            self._config(name).unlink()

    def _write(self, name: str) -> None:
        item = self.items[name]
        environment = self.config_dir / "programs" / f"{name}.env"
        if item["environment"]:
            write_file(environment, environment_text(item["environment"]), 0o640, self.parameters["user"])
        write_file(self._config(name), item["config"], 0o640, "root")

    def _go_live(self, worker: str, slot: str) -> None:
        """Make this slot of a worker the one that starts at boot."""
        self._write(slot)
        for other in self.slots[worker]:
            if other != slot:
                self._config(other).unlink(missing_ok=True)
        self.server.reread()

    def _stop(self, name: str) -> None:
        """Stop a program warm, without waiting for it."""
        node = self.items[name]["node"]
        # Supervisor restarts a program that exits by itself, which a slot must not do after a handover.
        slots = self.slots[self.items[name]["slot_of"] or name]
        remote = bool(node) and self.parameters["stop_by"] == "remote_control" and len(slots) == 1
        if not remote:
            self.server.stop(name)
            return
        self._consumed_queues([node], shutdown=True)
        self.state.shut_down[name] = self.server.processes()[name].pid

    def remove_stopped_slots(self, processes: dict[str, Process]) -> None:
        """Remove from Supervisor the slots that have stopped and have no configuration file."""
        for name, item in processes.items():
            if name in self.items and item.stopped and not self._config(name).exists():
                self.server.remove(name)
                self.state.phase(name, "down")

    def link_current(self) -> list[dict[str, str]]:
        """Point current to the release, and return the diff."""
        before = str(self.current.readlink()) if self.current.is_symlink() else ""
        if before == str(self.target):
            return []
        self.changed = True
        if not self.state.previous:
            previous = self.parameters["previous"]
            self.state.previous = Path(before).name if previous is None else previous
        if not self.module.check_mode:
            self.state.write()
            replace_link(self.current, self.target)
        header = {"before_header": str(self.current), "after_header": str(self.current)}
        return [{**header, "before": f"{before}\n" if before else "", "after": f"{self.target}\n"}]

    # ---- Run ----

    def run(self) -> dict[str, Any]:
        release = self.root / self.target
        record = read_record(release)
        if not self.module.check_mode and (not record or not record.checked):
            return self._result(
                [f"release {self.target.name} is not staged on this host. Run deploy.yml, which stages and checks it"],
                {},
                [],
            )
        known = self.server.processes().keys()
        if missing := [worker for worker, slots in self.slots.items() if not known & set(slots)]:
            return self._result(
                [f"{worker} is not configured on this host. Run site.yml first" for worker in missing], {}, []
            )
        diff = self.link_current()
        if self.module.check_mode:
            return self._predicted(diff)
        deadline = time.monotonic() + self.parameters["seconds"]
        waits: dict[str, str] = {}
        failures: list[str] = []
        try:
            while True:
                observed = self.poll()
                steps = {worker: next_step(self._wanted(worker), observed, self.live(worker)) for worker in self.slots}
                for worker, step in steps.items():
                    self.act(worker, step)
                self.remove_stopped_slots(self.server.processes())
                waits = {worker: step.waits for worker, step in steps.items() if step.waits}
                failures = [step.failure for step in steps.values() if step.failure]
                if not waits or failures or time.monotonic() > deadline:
                    break
                time.sleep(POLL_SECONDS)
            if not waits and not failures:
                self._prune()
        finally:
            if self.remote_control:
                self.remote_control.close()
            self.state.write()
        return self._result(failures, waits, diff)

    def _predicted(self, diff: list[dict[str, str]]) -> dict[str, Any]:
        """Return the result in check mode."""
        before = self.parameters["restart_before"]
        processes = self.server.processes()
        names = [slot for slots in self.slots.values() for slot in slots if slot in processes]
        stale = [name for name in names if processes[name].pid and (diff or processes[name].started < before)]
        self.changed = bool(diff or stale)
        waits = {name: f"{name} would be restarted on {self.target.name}" for name in stale}
        return self._result([], waits, diff) | {"done": True}

    def _prune(self) -> None:
        keep = self.parameters["keep_releases"]
        if not keep:
            return
        releases = self.root / "releases"
        needed = {self.target.name, self.state.previous} | in_use(releases)
        self.pruned = prunable([record for path in releases.glob("*") if (record := read_record(path))], keep, needed)
        for version in self.pruned:
            shutil.rmtree(releases / version)
            remove_counts(self.counts, version)

    def _wanted(self, worker: str) -> Wanted:
        slots = tuple(self.slots[worker])
        return Wanted(worker, slots, frozenset(self.items[slots[0]]["queues"]), self._start_timeout)

    def _result(self, failures: list[str], waits: dict[str, str], diff: list[dict[str, str]]) -> dict[str, Any]:
        result = {
            "changed": self.changed,
            "version": self.target.name,
            "pruned": self.pruned,
            "drained": self.drained,
            "done": not waits and not failures,
            "failures": failures,
            "waits": [self._with_tasks(text) for text in waits.values()],
            "previous": self.state.previous,
            "programs": self.state.phases,
        }
        return {**result, "diff": diff} if self.module._diff else result

    def _with_tasks(self, text: str) -> str:
        """Return a text of waits, with the in-flight tasks of its program."""
        name = text.split(maxsplit=1)[0]
        process = self.server.processes().get(name)
        if not process or process.state != "STOPPING":
            return text
        tasks = in_flight(self.counts, name, process.pid, time.time())
        return f"{text}: {tasks}" if tasks else text


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **{name: {"type": "str", "required": True} for name in ("app_name", "app", "user", "version")},
            **{name: {"type": "path", "required": True} for name in ("root", "config_dir", "state_dir")},
            "run": {"type": "str", "default": ""},
            "programs": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "slot_of": {"type": "str", "default": ""},
                    "kind": {"type": "str", "default": "worker"},
                    "node": {"type": "str", "default": ""},
                    "queues": {"type": "list", "elements": "str", "default": []},
                    "config": {"type": "str", "default": ""},
                    "environment": {"type": "dict", "default": {}},
                },
            },
            "previous": {"type": "str"},
            "only": {"type": "list", "elements": "str", "default": []},
            "restart_before": {"type": "float", "default": 0},
            "stop_by": {"type": "str", "choices": ["supervisor", "remote_control"], "default": "supervisor"},
            "keep_releases": {"type": "int", "default": 0},
            "start_timeout": {"type": "int", "default": 180},
            "seconds": {"type": "int", "default": 15},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    run_module(module, Activation(module).run)


if __name__ == "__main__":
    main()
