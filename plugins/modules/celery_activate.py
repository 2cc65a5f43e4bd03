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
  - A program is done once it runs on the release, answers a ping by remote control and consumes its queues.
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
    description: Seconds after which the module returns. V(0) is 15 seconds at first, and up to 300 later.
    type: int
    default: 0
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
    Seen,
    Step,
    Wanted,
    next_step,
    slice_seconds,
)
from ansible_collections.fleet.celery.plugins.module_utils._counts import remove_counts
from ansible_collections.fleet.celery.plugins.module_utils._environment import environment_text
from ansible_collections.fleet.celery.plugins.module_utils._files import write_file
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
    Process,
    SocketServer,
    answer,
    environment_of,
    log_tail,
    program_file,
)
from ansible_collections.fleet.celery.plugins.module_utils._workers import ASK, Asker, celery_run, still_at

POLL_SECONDS = 0.5


class Notes:
    """What a later call must know of this activation, in a file of root's."""

    def __init__(self, path: Path, version: str, run: str, *, keep: bool) -> None:
        self._path, self._keep, self._version, self._run = path, keep, version, run
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            raw = {}
        # What another run tried says nothing of this one, but for where the host came from and what never was at work.
        mine = raw if (raw.get("version"), raw.get("run")) == (version, run) else {}
        self.previous: str = raw.get("previous", "") if raw.get("version") == version else ""
        # When each program was first started, by its name.
        self.tried: dict[str, float] = mine.get("tried", {})
        # The process of each that was told to end by remote control.
        self.told: dict[str, int] = mine.get("told", {})
        # Those that were started, now or by an activation that failed, and never were at work.
        self.idle: set[str] = set(raw.get("idle", []))
        self.phases: dict[str, list[list[Any]]] = mine.get("phases", {})
        self.began: float = mine.get("began", time.time())

    def phase(self, program: str, name: str) -> None:
        phases = self.phases.setdefault(program, [])
        if not phases or phases[-1][1] != name:
            phases.append([round(time.time(), 2), name])

    def write(self) -> None:
        if not self._keep:
            return
        kept = {
            "version": self._version,
            "run": self._run,
            "previous": self.previous,
            "tried": self.tried,
            "told": self.told,
            "idle": sorted(self.idle),
            "phases": self.phases,
            "began": self.began,
        }
        write_file(self._path, json.dumps(kept, indent=1) + "\n", 0o600, "root")


class Activation:
    """One call: looks, decides and acts until all is well, something failed, or the time is over."""

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
        self.notes = Notes(
            self.root / ACTIVATION, module.params["version"], module.params["run"], keep=not module.check_mode
        )
        self.current = self.root / "current"
        self.target = Path("releases") / module.params["version"]
        self.asker: Asker | None = None
        self.working: set[str] = set()
        self.changed = False

    # ---- What there is ----

    def live(self, worker: str) -> str:
        """Return the slot of a worker that starts with the host: the one that has a file."""
        slots = self.slots[worker]
        return next((slot for slot in slots if self._config(slot).exists()), slots[0])

    def _config(self, name: str) -> Path:
        return program_file(self.directory, self.parameters["app_name"], self.items[name]["kind"], name)

    def look(self) -> dict[str, Seen]:
        """Return each program that Supervisor knows, and ask those that should be at work whether they are."""
        processes = {name: item for name, item in self.server.processes().items() if name in self.items}
        current = {name for name, item in processes.items() if self._is_current(name, item)}
        for name in current:
            self.notes.tried.setdefault(name, time.time())
        answers = self._answers({name: processes[name] for name in current})
        now = time.time()
        seen = {}
        for name, item in processes.items():
            tried = self.notes.tried.get(name)
            answered, queues = answers.get(name, (False, frozenset()))
            if answered:
                self.notes.idle.discard(name)
            seen[name] = Seen(
                self._state(name, item),
                name in current,
                answered,
                queues,
                None if tried is None else max(0.0, now - tried),
                name in self.notes.idle,
                log_tail(item.logfile) if item.state in DOWN or (tried and now - tried > self._patience) else "",
            )
        return seen

    def _state(self, name: str, process: Process) -> str:
        """Return the state of a program; Supervisor does not know that one was told to end by remote control."""
        told = process.pid and process.pid == self.notes.told.get(name)
        return "STOPPING" if told and process.state == "RUNNING" else process.state

    @property
    def _patience(self) -> float:
        return float(self.parameters["start_timeout"])

    def _is_current(self, name: str, process: Process) -> bool:
        if not process.pid or process.state not in {"STARTING", "RUNNING"}:
            return False
        if process.started < self.parameters["restart_before"]:
            return False
        digest = environment_of(process.pid).get(STARTED_FROM)
        if digest is None:
            # Supervisor has only just spawned it, and it is the wrapper's shell still: it reads what is on disk now.
            return True
        return digest == started_from(self.root, self.config_dir, name)

    def _answers(self, current: dict[str, Process]) -> dict[str, tuple[bool, frozenset[str]]]:
        """Return which of these programs are at work, with the queues that they consume."""
        found = {}
        asked = {}
        for name, process in current.items():
            item = self.items[name]
            if name in self.working or not item["node"]:
                # Beat answers nobody: Supervisor's word, that it stayed up, is all there is.
                up = name in self.working or process.state == "RUNNING"
                found[name] = (up, frozenset(item["queues"]))
            else:
                asked[item["node"]] = name
        if asked:
            for node, queues in self._ask(asked).items():
                found[asked[node]] = (True, queues)
        self.working |= {
            name for name, (up, queues) in found.items() if up and set(self.items[name]["queues"]) <= queues
        }
        return found

    def _ask(self, nodes: Iterable[str], *, end: bool = False) -> dict[str, frozenset[str]]:
        if self.asker is None:
            run = celery_run(self.parameters["root"], self.parameters["user"])
            self.asker = Asker([*run, "python", "-c", ASK, self.parameters["app"]])
        return self.asker.ask(nodes, end=end)

    # ---- What is done ----

    def act(self, worker: str, step: Step) -> None:
        if step.live:
            self._go_live(worker, step.live)
        if step.stop:
            self.changed = True
            self._stop(step.stop)
            self.notes.phase(step.stop, "draining")
        if step.kill:
            self.changed = True
            self.server.stop(step.kill)
            self.server.kill(step.kill)
            self.notes.phase(step.kill, "killed")
        if step.start:
            self.changed = True
            self.notes.tried.setdefault(step.start, time.time())
            self.notes.idle.add(step.start)
            self._start(step.start, self.live(worker))
            self.notes.phase(step.start, "starting")
        if step.done:
            self.notes.phase(self.live(worker), "up")
        self.notes.write()

    def _start(self, name: str, live: str) -> None:
        if name in self.server.processes():
            self.server.start(name)
            return
        self._write(name)
        self.server.reread()
        self.server.add(name)
        if self.items[name]["slot_of"] and name != live:
            # The slot that has a file starts with the host, and that is not yet this one.
            self._config(name).unlink()

    def _write(self, name: str) -> None:
        item = self.items[name]
        environment = self.config_dir / "programs" / f"{name}.env"
        if item["environment"]:
            write_file(environment, environment_text(item["environment"]), 0o640, self.parameters["user"])
        write_file(self._config(name), item["config"], 0o640, "root")

    def _go_live(self, worker: str, slot: str) -> None:
        """Let only this slot start with the host from now on."""
        self._write(slot)
        for other in self.slots[worker]:
            if other != slot:
                self._config(other).unlink(missing_ok=True)
        self.server.reread()

    def _stop(self, name: str) -> None:
        """Tell a program to end, warm."""
        node = self.items[name]["node"]
        # Supervisor starts again what ends by itself. After a handover it is not to.
        slots = self.slots[self.items[name]["slot_of"] or name]
        remote = bool(node) and self.parameters["stop_by"] == "remote_control" and len(slots) == 1
        if not remote:
            self.server.stop(name)
            return
        self._ask([node], end=True)
        self.notes.told[name] = self.server.processes()[name].pid

    def sweep(self, processes: dict[str, Process]) -> None:
        """Have Supervisor forget slots that have ended and have no file."""
        for name, item in processes.items():
            if name in self.items and item.stopped and not self._config(name).exists():
                self.server.remove(name)
                self.notes.phase(name, "down")

    def point(self) -> list[dict[str, str]]:
        """Point current to the release."""
        before = str(self.current.readlink()) if self.current.is_symlink() else ""
        if before == str(self.target):
            return []
        self.changed = True
        if not self.notes.previous:
            given = self.parameters["previous"]
            self.notes.previous = Path(before).name if given is None else given
        if not self.module.check_mode:
            self.notes.write()
            temporary = self.current.with_name(".current")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(self.target)
            temporary.replace(self.current)
        header = {"before_header": str(self.current), "after_header": str(self.current)}
        return [{**header, "before": f"{before}\n" if before else "", "after": f"{self.target}\n"}]

    # ---- All of it ----

    def run(self) -> dict[str, Any]:
        release = self.root / self.target
        record = read_record(release)
        if not self.module.check_mode and (not record or not record.checked):
            return self._result([f"release {self.target.name} is not on this host, or was never checked"], {}, [])
        known = self.server.processes().keys()
        if missing := [worker for worker, slots in self.slots.items() if not known & set(slots)]:
            return self._result([f"{worker} is not on this host yet. Run site.yml first" for worker in missing], {}, [])
        diff = self.point()
        if self.module.check_mode:
            return self._foreseen(diff)
        deadline = time.monotonic() + (self.parameters["seconds"] or slice_seconds(time.time() - self.notes.began))
        waits: dict[str, str] = {}
        failures: list[str] = []
        try:
            while True:
                seen = self.look()
                steps = {worker: next_step(self._wanted(worker), seen, self.live(worker)) for worker in self.slots}
                for worker, step in steps.items():
                    self.act(worker, step)
                self.sweep(self.server.processes())
                waits = {worker: step.waits for worker, step in steps.items() if step.waits}
                failures = [step.failure for step in steps.values() if step.failure]
                if not waits or failures or time.monotonic() > deadline:
                    break
                time.sleep(POLL_SECONDS)
            if not waits and not failures:
                self._prune()
        finally:
            if self.asker:
                self.asker.close()
            self.notes.write()
        return self._result(failures, waits, diff)

    def _foreseen(self, diff: list[dict[str, str]]) -> dict[str, Any]:
        before = self.parameters["restart_before"]
        processes = self.server.processes()
        names = [slot for slots in self.slots.values() for slot in slots if slot in processes]
        stale = [name for name in names if processes[name].pid and (diff or processes[name].started < before)]
        self.changed = bool(diff or stale)
        told = {name: f"{name} would be restarted on {self.target.name}" for name in stale}
        return self._result([], told, diff) | {"done": True}

    def _prune(self) -> None:
        keep = self.parameters["keep_releases"]
        if not keep:
            return
        releases = self.root / "releases"
        needed = {self.target.name, self.notes.previous} | in_use(releases)
        self.pruned = prunable([record for path in releases.glob("*") if (record := read_record(path))], keep, needed)
        for version in self.pruned:
            shutil.rmtree(releases / version)
            remove_counts(Path(self.parameters["state_dir"]) / "counts", version)

    def _wanted(self, worker: str) -> Wanted:
        slots = tuple(self.slots[worker])
        return Wanted(worker, slots, frozenset(self.items[slots[0]]["queues"]), self._patience)

    def _result(self, failures: list[str], waits: dict[str, str], diff: list[dict[str, str]]) -> dict[str, Any]:
        result = {
            "changed": self.changed,
            "version": self.target.name,
            "pruned": self.pruned,
            "drained": self.drained,
            "done": not waits and not failures,
            "failures": failures,
            "waits": [self._told(text) for text in waits.values()],
            "previous": self.notes.previous,
            "programs": self.notes.phases,
        }
        return {**result, "diff": diff} if self.module._diff else result

    def _told(self, text: str) -> str:
        """Add to what is waited for the tasks that its worker is still at."""
        name = text.split(maxsplit=1)[0]
        process = self.server.processes().get(name)
        if not process or process.state != "STOPPING":
            return text
        tasks = still_at(Path(self.parameters["state_dir"]) / "counts", name, process.pid, time.time())
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
            "seconds": {"type": "int", "default": 0},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    answer(module, Activation(module).run)


if __name__ == "__main__":
    main()
