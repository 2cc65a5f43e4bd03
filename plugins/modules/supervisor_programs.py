#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Configure a set of Supervisor programs on a host, and run them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: supervisor_programs
short_description: Configure a set of Supervisor programs, and restart warm those that changed
description:
  - Writes a configuration file for each program, removes the files of programs that are not declared, and makes
    Supervisor apply them.
  - Supervisor's own parser validates the files before they replace the old ones.
  - Restarts programs whose configuration changed, or whose release, environment or settings differ from those on disk.
  - A restart is warm. All programs stop at the same time, and end their tasks first.
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.supervisor]
attributes:
  check_mode: {support: full, description: "Reports what would be written, restarted and removed."}
  diff_mode: {support: full, description: Shows the differences of the configuration files.}
options:
  app_name:
    description: The application's name. Programs whose names begin with it and a C(-) belong to it.
    type: str
    required: true
  kind:
    description: Kind of these programs, such as V(worker) or V(beat). It is part of the names of their files.
    type: str
    required: true
  programs:
    description: The programs that must run.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The program's name.
        type: str
        required: true
      config:
        description: Content of the program's configuration file.
        type: str
        required: true
      environment:
        description: Environment variables of this program alone. They must not hold secrets.
        type: dict
        default: {}
      slot_of:
        description:
          - Programs with the same value are slots of one worker, of which one runs. That is the slot that has a file,
            or else the first one.
          - The other slot, which may still end its tasks after a handover, is left alone.
        type: str
        default: ""
  unless_exists:
    description: While this file exists, none of the programs is run.
    type: path
  root:
    description: The application's directory, which holds C(current).
    type: path
    required: true
  config_dir:
    description: Directory of the application's environment and settings.
    type: path
    required: true
  stop_timeout:
    description: Seconds within which all programs must end their tasks.
    type: int
    default: 3600
  start_timeout:
    description: Seconds within which all programs must be RUNNING.
    type: int
    default: 180
"""

EXAMPLES = r"""
- name: Run the workers
  fleet.celery.supervisor_programs:
    app_name: shop
    kind: worker
    programs:
      - name: shop-customers
        config: "{{ lookup('ansible.builtin.template', 'program.conf.j2') }}"
    root: /srv/shop
    config_dir: /etc/shop
"""

RETURN = r"""
written:
  description: Files that were created or changed.
  type: list
  elements: str
  returned: always
removed:
  description: Files that were removed.
  type: list
  elements: str
  returned: always
stopped:
  description: Programs that were stopped.
  type: list
  elements: str
  returned: always
started:
  description: Programs that were started.
  type: list
  elements: str
  returned: always
"""

import re
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._environment import environment_text
from ansible_collections.fleet.celery.plugins.module_utils._files import belongs, write_file
from ansible_collections.fleet.celery.plugins.module_utils._release import STARTED_FROM, started_from
from ansible_collections.fleet.celery.plugins.module_utils._supervisor import (
    OPTIONS,
    Server,
    carry_out,
    decide,
    environment_of,
    run_module,
    wait,
)
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import (
    Process,
    Reread,
    SocketServer,
    SupervisorError,
    program_file,
    program_in,
)


def check_with_supervisor(configs: Mapping[str, str]) -> None:
    """Validate configuration files with Supervisor's own parser.

    Raises:
        SupervisorError: the parser rejects a file.
    """
    from supervisor.options import ServerOptions  # noqa: PLC0415 - only installed with Supervisor

    with tempfile.TemporaryDirectory() as directory:
        for name, text in configs.items():
            (Path(directory) / name).write_text(text, encoding="utf-8")
        main_file = Path(directory) / "supervisord"
        main_file.write_text(f"[supervisord]\n[include]\nfiles = {directory}/*.conf\n", encoding="utf-8")
        options = ServerOptions()
        options.configfile = str(main_file)
        try:
            options.process_config(do_usage=False)
        except ValueError as error:
            raise SupervisorError(
                "Supervisor rejects the new configuration, so the old one is kept. Correct the program's template: "
                f"{str(error).replace(directory, '')}"
            ) from error


def file_of(parameters: Mapping[str, Any], name: str) -> Path:
    return program_file(Path(parameters["directory"]), parameters["app_name"], parameters["kind"], name)


def live_programs(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the programs that must run: one slot of each worker, and none on a drained host."""
    if parameters["unless_exists"] and Path(parameters["unless_exists"]).exists():
        return []
    chosen: dict[str, dict[str, Any]] = {}
    for item in parameters["programs"]:
        worker = item["slot_of"] or item["name"]
        if worker not in chosen or file_of(parameters, item["name"]).exists():
            chosen[worker] = item
    return list(chosen.values())


class Files:
    """The configuration and environment files of a set of programs, desired and present."""

    def __init__(self, module: AnsibleModule, programs: list[dict[str, Any]]) -> None:
        parameters = module.params
        self._directory = Path(parameters["directory"])
        self.configs = {file_of(parameters, item["name"]).name: item["config"] for item in programs}
        self._environment_dir = Path(parameters["config_dir"]) / "programs"
        group = parameters["app_name"]
        self._wanted: dict[Path, tuple[str, int, str]] = {
            self._directory / name: (text, 0o640, "root") for name, text in self.configs.items()
        }
        for item in programs:
            if item["environment"]:
                path = self._environment_dir / f"{item['name']}.env"
                self._wanted[path] = (environment_text(item["environment"]), 0o640, group)
        present = sorted(self._directory.glob(file_of(parameters, "*").name)) if self._directory.is_dir() else []
        gone = [program_in(path) for path in present if path not in self._wanted]
        names = {item["name"] for item in programs}
        environments = [self._environment_dir / f"{name}.env" for name in sorted(names | set(gone))]
        self.removed = [path for path in (*present, *environments) if path not in self._wanted and path.exists()]
        self.written = [
            path
            for path, (text, mode, group) in self._wanted.items()
            if _read(path) != text or not belongs(path, mode, "root", group)
        ]

    def diff(self) -> list[dict[str, str]]:
        """Return the diff of the configuration files; of environment files, only their names."""
        parts = []
        for path in (*self.written, *self.removed):
            header = {"before_header": str(path), "after_header": str(path)}
            if path.parent == self._environment_dir:
                parts.append({"prepared": f"{path} {'changed' if path in self.written else 'removed'}\n"})
            else:
                after = self._wanted[path][0] if path in self._wanted else ""
                parts.append({**header, "before": _read(path) or "", "after": after})
        return parts

    def write(self) -> None:
        """Write and remove the files, each atomically."""
        for path in self.written:
            write_file(path, *self._wanted[path])
        for path in self.removed:
            path.unlink()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def stale_programs(
    names: list[str], server: Server, processes: Mapping[str, Process], root: Path, config_dir: Path
) -> list[str]:
    """Return the programs whose release, environment or settings differ from those on disk.

    A process that Supervisor has just spawned is still the wrapper's shell. It is waited for.

    Raises:
        SupervisorError: a process can't be read, or is still the wrapper's shell after 30 s.
    """
    digests: dict[str, str] = {}

    def no_digest() -> str:
        current = server.processes()
        for name in names:
            item = current.get(name)
            if item and item.pid and item.state in {"STARTING", "RUNNING"} and name not in digests:
                digest = environment_of(item.pid).get(STARTED_FROM)
                if digest:
                    digests[name] = digest
                elif item.state == "STARTING":
                    return f"{name} is still starting"
        return ""

    wait(no_digest, timeout=30)
    return [
        name
        for name in names
        if name in processes and processes[name].pid and digests.get(name) != started_from(root, config_dir, name)
    ]


def run(module: AnsibleModule) -> dict[str, Any]:
    parameters = module.params
    programs = live_programs(parameters)
    names = [item["name"] for item in programs]
    slots = {item["name"] for item in parameters["programs"]}
    root, config_dir = Path(parameters["root"]), Path(parameters["config_dir"])
    files = Files(module, programs)
    result: dict[str, Any] = {
        "written": [str(path) for path in files.written],
        "removed": [str(path) for path in files.removed],
    }
    if module._diff:
        result["diff"] = files.diff()
    fresh = not Path(parameters["socket"]).exists()
    if fresh and (module.check_mode or not names):
        # Nothing can run here, so nothing needs to be stopped.
        if not module.check_mode:
            files.write()
        return {**result, "changed": bool(names or files.removed), "stopped": [], "started": names}
    if not module.check_mode:
        check_with_supervisor(files.configs)
        files.write()
    server = SocketServer(parameters["socket"])
    processes = server.processes()
    reread = _predicted(files, processes) if module.check_mode else server.reread()
    for name in slots & reread.removed & processes.keys():
        if processes[name].stopped and not module.check_mode:
            # A slot that has stopped after a handover. Removing it is no change.
            server.remove(name)
            del processes[name]
    owned = re.compile(rf"{re.escape(parameters['app_name'])}-.+").fullmatch
    beat = f"{parameters['app_name']}-beat"

    def ours(name: str) -> bool:
        of_kind = (name == beat) == (parameters["kind"] == "beat")
        draining = name in slots and name in processes and processes[name].state == "STOPPING"
        return bool(owned(name)) and of_kind and not draining

    stale = stale_programs(names, server, processes, root, config_dir)
    actions = decide(names, ours, reread, processes, stale)
    if not module.check_mode:
        carry_out(
            server,
            actions,
            stop_timeout=parameters["stop_timeout"],
            start_timeout=parameters["start_timeout"],
        )
    return {
        **result,
        "changed": bool(files.written or files.removed or actions.any),
        "stopped": list(actions.stop),
        "started": sorted({*actions.add, *actions.start}),
    }


def _predicted(files: Files, processes: Mapping[str, Process]) -> Reread:
    """Return the result of reread in check mode, as if the files had been written."""

    def programs(paths: list[Path]) -> frozenset[str]:
        return frozenset(program_in(path) for path in paths if path.suffix == ".conf")

    written = programs(files.written)
    return Reread(written - processes.keys(), written & processes.keys(), programs(files.removed))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app_name": {"type": "str", "required": True},
            "kind": {"type": "str", "required": True},
            "programs": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "config": {"type": "str", "required": True},
                    "environment": {"type": "dict", "default": {}},
                    "slot_of": {"type": "str", "default": ""},
                },
            },
            "unless_exists": {"type": "path"},
            "root": {"type": "path", "required": True},
            "config_dir": {"type": "path", "required": True},
            **OPTIONS,
            "stop_timeout": {"type": "int", "default": 3600},
            "start_timeout": {"type": "int", "default": 180},
        },
        supports_check_mode=True,
    )
    run_module(module, partial(run, module))


if __name__ == "__main__":
    main()
