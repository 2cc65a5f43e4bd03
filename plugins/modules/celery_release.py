#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Stage a release of an application on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_release
short_description: Stage a release with its environment and settings on a host, and check it
description:
  - Installs an artifact to C(releases/<version>), in a virtual environment of its own and without an index.
  - Checks the release. The application is imported as its user, with the new environment and settings, and its tasks,
    queues and limits are compared with the plan and with the running release.
  - With O(activate), then replaces the environment, the settings and the wrapper, and points C(current) to the release.
  - Restarts nothing.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Reports what would be created and changed. The release is not checked.}
  diff_mode: {support: full, description: "Shows that the environment changes, but not its content."}
options:
  user:
    description: The application's user, and its group.
    type: str
    required: true
  app:
    description: The application as C(celery -A) takes it.
    type: str
    required: true
  version:
    description: The release's name.
    type: str
    required: true
  artifact:
    description:
      - Path of the artifact on the controller. Only wheels that no release of the host has are sent. Must be set.
    type: path
    default: ""
  sha256:
    description: SHA-256 checksum of the artifact.
    type: str
    required: true
  wheels:
    description: Checksums of the artifact's wheels, by file name. The action plugin sets it.
    type: dict
    required: true
  contents:
    description: The missing wheels, in base64. The action plugin sets it.
    type: dict
    default: {}
  root:
    description: The application's directory, which holds C(current) and C(releases).
    type: path
    required: true
  config_dir:
    description: Directory of the application's environment and settings.
    type: path
    required: true
  state_dir:
    description: The home of the application's user, which it may write to.
    type: path
    required: true
  log_dir:
    description: Directory of the application's logs.
    type: path
    required: true
  environment:
    description: Content of the environment file. Never logged.
    type: str
    required: true
  settings:
    description: Content of the settings module.
    type: str
    required: true
  runtime:
    description: Contents of the package that the application's processes import, by path.
    type: dict
    required: true
  wrapper:
    description: Content of the wrapper.
    type: str
    required: true
  activate:
    description:
      - Whether to replace C(current), the environment, the settings and the wrapper.
      - V(false) only stages and checks the release.
    type: bool
    default: true
  app_memory:
    description: Bytes of a process that has imported the application, as planned. V(0) does not compare them.
    type: int
    default: 0
  child_caps:
    description: For each program, bytes above which its children are replaced. V(0) for a program without a cap.
    type: dict
    default: {}
  incompatible_tasks:
    description: Tasks that may be incompatible with queued messages of the running release.
    type: list
    elements: str
    default: []
  keep_current:
    description: Keep the running release, if there is one that runs with the host's Python, and ignore O(version).
    type: bool
    default: false
  python:
    description: Python interpreter of the virtual environment.
    type: path
    default: /usr/bin/python3
"""

EXAMPLES = r"""
- name: Stage the release
  fleet.celery.celery_release:
    user: shop
    app: shop.celery:app
    version: 1.0.0
    artifact: "{{ artifact.path }}"
    sha256: "{{ artifact.sha256 }}"
    root: /srv/shop
    config_dir: /etc/shop
    state_dir: /var/lib/shop
    log_dir: /var/log/shop
    environment: "{{ environment_text }}"
    settings: "{{ settings_text }}"
    runtime: "{{ query('fleet.celery.runtime_files') | items2dict('path', 'content') }}"
    wrapper: "{{ wrapper_text }}"
    activate: false
"""

RETURN = r"""
missing:
  description: Wheels that must be sent. Only the action plugin gets it.
  type: list
  elements: str
  returned: never
release:
  description: Path of the release.
  type: str
  returned: success
version:
  description: The release.
  type: str
  returned: success
previous:
  description: The target of C(current) before this task.
  type: str
  returned: success
tasks:
  description: Names of the application's tasks.
  type: list
  elements: str
  returned: success
findings:
  description: Remarks of the release check that are no errors, such as settings that differ.
  type: list
  elements: str
  returned: success
pending:
  description: Without O(activate), files that an activation would change.
  type: list
  elements: str
  returned: success
began:
  description: Start of the module, in seconds since the epoch.
  type: float
  returned: success
seconds:
  description: Duration of the module in seconds.
  type: float
  returned: success
"""

import base64
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._compare import lost, moves, read_signatures
from ansible_collections.fleet.celery.plugins.module_utils._environment import secrets_in
from ansible_collections.fleet.celery.plugins.module_utils._files import (
    belongs,
    make_directory,
    replace_link,
    write_file,
)
from ansible_collections.fleet.celery.plugins.module_utils._release import (
    RUNTIME,
    SETTINGS,
    Record,
    ReleaseError,
    check_version,
    digest,
    fingerprint,
    made_for_another_python,
    read_record,
)
from ansible_collections.fleet.celery.plugins.module_utils._release_check import (
    CHECK,
    release_findings,
    release_problems,
)
from ansible_collections.fleet.celery.plugins.module_utils._venv import install, lacking, unpacked


class Host:
    """The directories, files and releases of an application on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.parameters: dict[str, Any] = module.params
        self.root = Path(module.params["root"])
        self.config_dir = Path(module.params["config_dir"])
        self.release = self.root / "releases" / module.params["version"]
        self.current = self.root / "current"
        self.runtime: dict[str, str] = dict(sorted(module.params["runtime"].items()))
        self.changed = False
        self.diff: list[dict[str, str]] = []

    def directories(self) -> list[tuple[Path, int, str, str]]:
        user = self.parameters["user"]
        return [
            (self.root, 0o755, "root", "root"),
            (self.root / "bin", 0o755, "root", "root"),
            (self.root / "releases", 0o755, "root", "root"),
            *((path, 0o755, "root", "root") for path in self.packages(self.root / RUNTIME)),
            (self.config_dir, 0o755, "root", "root"),
            (self.config_dir / "programs", 0o750, "root", user),
            (Path(self.parameters["state_dir"]), 0o750, user, user),
            # Supervisor writes logs as root, so the application must not be able to place a link here.
            (Path(self.parameters["log_dir"]), 0o750, "root", user),
        ]

    def packages(self, directory: Path) -> list[Path]:
        """Return a directory and those below it that the files of the runtime need."""
        return sorted({parent for name in self.runtime for parent in (directory, (directory / name).parent)})

    def files(self) -> list[tuple[Path, str, int, str, bool]]:
        """Return the path, the content, the mode and the group of each file, and whether it is secret."""
        bin_dir, user = self.root / "bin", self.parameters["user"]
        return [
            (self.config_dir / "environment", self.parameters["environment"], 0o640, user, True),
            (self.config_dir / SETTINGS, self.parameters["settings"], 0o644, "root", False),
            *((self.root / RUNTIME / name, text, 0o644, "root", False) for name, text in self.runtime.items()),
            (bin_dir / "celery_supervisor", self.parameters["wrapper"], 0o755, "root", False),
        ]

    def make_directories(self) -> None:
        for path, mode, owner, group in self.directories():
            if path.is_dir() and belongs(path, mode, owner, group):
                continue
            self.changed = True
            if not self.module.check_mode:
                make_directory(path, mode, owner, group)

    def contents(self) -> list[bytes]:
        """Return the contents that a program of this release depends on, in the wrapper's order."""
        texts = [self.parameters[name] for name in ("wrapper", "environment", "settings")]
        return [text.encode() for text in (*texts, *self.runtime.values())]

    def make_release(self, others: dict[Path, Record]) -> Record:
        """Install the wheels into a virtual environment. Wheels of other releases are linked."""
        run, python = partial(self.module.run_command, cwd="/"), self.parameters["python"]
        record = Record(self.parameters["version"], self.parameters["sha256"], wheels=self.parameters["wheels"])
        with self._wheels() as source:
            return install(run, python, source, record, self.release, others=others)

    @contextmanager
    def _wheels(self) -> Iterator[Path]:
        """Yield a directory with the wheels that were sent."""
        if self.parameters["artifact"]:
            with unpacked(Path(self.parameters["artifact"]), self.parameters["sha256"], self.root) as (source, _):
                yield source
            return
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".wheels-") as temporary:
            for name, content in self.parameters["contents"].items():
                Path(temporary, Path(name).name).write_bytes(base64.b64decode(content))
            yield Path(temporary)

    def missing(self, others: dict[Path, Record]) -> list[str]:
        """Return the wheels that must be sent: those that no other release has."""
        if self.parameters["artifact"]:
            return []
        return sorted(set(lacking(self.parameters["wheels"], others)) - self.parameters["contents"].keys())

    def unchanged(self) -> dict[Path, Record]:
        """Return the complete and unchanged releases with the same Python."""
        releases = self.release.parent
        found = {path: read_record(path) for path in (releases.iterdir() if releases.is_dir() else ())}
        return {
            path: record
            for path, record in found.items()
            if record
            and record.checked
            and record.files == fingerprint(path / "venv")
            and not made_for_another_python(path / "venv", Path(self.parameters["python"]))
        }

    def check(self, record: Record, checked: str, files: str) -> Record:
        """Check the release with the new files, as the application's user, and return its record.

        Raises:
            ReleaseError: the application can't be imported, or does not fit the plan or the running release.
        """
        advice = "Fix it and rerun"
        if record.files not in ("", files):
            advice = f"Its virtual environment was changed after its installation. Remove {self.release} and rerun"
        user = self.parameters["user"]
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".check-") as temporary:
            directory = Path(temporary)
            directory.chmod(0o750)
            shutil.chown(directory, "root", user)
            texts = {
                "environment": self.parameters["environment"],
                "celery_run": self.parameters["wrapper"],
                SETTINGS: self.parameters["settings"],
                **self.runtime,
            }
            for path in self.packages(directory)[1:]:
                path.mkdir(0o750)
                shutil.chown(path, "root", user)
            for name, text in texts.items():
                path = directory / name
                path.touch(0o750 if name == "celery_run" else 0o640)
                shutil.chown(path, "root", user)
                path.write_text(text, encoding="utf-8")
            run = ["runuser", "-u", user, "--", str(directory / "celery_run"), "python", "-m", CHECK]
            variables = {"CELERY_FLEET_RELEASE": str(self.release), "CELERY_FLEET_CONFIG_DIR": temporary}
            output = self._command(
                [*run, self.parameters["app"]],
                f"Release {self.parameters['version']} does not import, so nothing was changed or restarted. {advice}",
                variables,
            )
        found = json.loads(output.splitlines()[-1])
        problems = release_problems(found, self.parameters["app"], self.parameters["child_caps"])
        if problems := [*problems, *self.lost(found["signatures"])]:
            raise ReleaseError("\n".join(problems))
        record = replace(
            record,
            checked=checked,
            tasks=tuple(found["tasks"]),
            files=files,
            signatures=found["signatures"],
            queues=found["queues"],
            periodic=tuple(found["periodic"]),
            timezone=found["timezone"],
            findings=tuple(release_findings(found, self.parameters["app_memory"])),
        )
        record.write(self.release)
        return record

    def running(self) -> Record | None:
        """Return the record of the running release, if it is another one."""
        record = read_record(self.current.resolve()) if self.current.is_symlink() else None
        return record if record and record.version != self.release.name else None

    def lost(self, signatures: Mapping[str, Any]) -> list[str]:
        """Return why messages of the running release could be lost on this one."""
        running = self.running()
        if not running:
            return []
        found = lost(running.version, read_signatures(running.signatures), read_signatures(signatures))
        return [text for task, text in found.items() if task not in self.parameters["incompatible_tasks"]]

    def _command(self, argv: list[str], failure: str, variables: dict[str, str] | None = None) -> str:
        code, output, error = self.module.run_command(argv, environ_update=variables or {}, cwd="/")
        if code:
            raise ReleaseError(f"{failure}:\n{(output + error).strip()[-3000:]}")
        return str(output)

    def pending(self) -> list[str]:
        """Return the files that an activation would change.

        Raises:
            ReleaseError: no release is active on this host.
        """
        if not self.current.is_symlink() and not self.module.check_mode:
            raise ReleaseError("No release is active on this host. Run site.yml first")
        return [str(path) for path, text, *_ in self.files() if not path.exists() or path.read_bytes() != text.encode()]

    def write_files(self) -> None:
        for path, text, mode, group, secret in self.files():
            # Bytes, since reading as text would turn a value's carriage return into a newline.
            before = path.read_bytes() if path.exists() else b""
            if path.exists() and before == text.encode() and belongs(path, mode, "root", group):
                continue
            self.changed = True
            texts = {"before": before.decode(errors="replace"), "after": text}
            header = {"before_header": str(path), "after_header": str(path)}
            self.diff.append({"prepared": f"{path} changes\n"} if secret else header | texts)
            if self.module.check_mode:
                continue
            write_file(path, text, mode, group)
        for name in ("celery_run", "celery_operator"):
            self._link(self.root / "bin" / name, Path("celery_supervisor"))

    def _link(self, link: Path, target: Path) -> None:
        if link.is_symlink() and link.readlink() == target:
            return
        self.changed = True
        self.diff.append(
            {
                "before_header": str(link),
                "after_header": str(link),
                "before": f"{link.readlink()}\n" if link.is_symlink() else "",
                "after": f"{target}\n",
            }
        )
        if not self.module.check_mode:
            replace_link(link, target)

    def activate(self) -> None:
        self._link(self.current, Path("releases") / self.parameters["version"])


def keep_current(parameters: dict[str, Any]) -> None:
    """Replace the version in the parameters by the running release, if there is one."""
    release = Path(parameters["root"], "current").resolve()
    record = read_record(release)
    if record and not made_for_another_python(release / "venv", Path(parameters["python"])):
        parameters |= {"version": record.version, "sha256": record.sha256}


def run(module: AnsibleModule) -> dict[str, Any]:
    check_version(module.params["version"])
    # The application's user must be able to read the release, whatever root's umask.
    os.umask(0o022)
    began = time.time()
    if module.params["keep_current"]:
        keep_current(module.params)
    host = Host(module)
    pending = [] if module.params["activate"] else host.pending()
    previous = str(host.current.readlink()) if host.current.is_symlink() else ""
    record = read_record(host.release)
    if record and made_for_another_python(host.release / "venv", Path(module.params["python"])):
        record = None  # unusable since the host was upgraded
    if record and record.sha256 != module.params["sha256"] and not record.checked:
        record = None  # it never passed its check, so nothing runs on it, and its fix may have the same version
    if record and record.sha256 != module.params["sha256"]:
        raise ReleaseError(
            f"Release {record.version} exists on this host with another content, and releases are immutable. "
            f"Raise celery_app_version (or the version of the project), or remove {host.release}"
        )
    others: dict[Path, Record] = {}
    if not record and not module.check_mode:
        others = host.unchanged()
        if missing := host.missing(others):
            return {"changed": False, "missing": missing}
    host.make_directories()
    checked = digest(host.release, host.contents())
    if not record or (record.checked, record.files) != (checked, fingerprint(host.release / "venv")):
        host.changed = True
        if not module.check_mode:
            record = record or host.make_release(others)
            record = host.check(record, checked, fingerprint(host.release / "venv"))
    elif problems := host.lost(record.signatures):
        raise ReleaseError("\n".join(problems))
    running = host.running()
    moved = moves(running.queues, record.queues, running.periodic, record.periodic) if running and record else []
    if module.params["activate"]:
        host.write_files()
        host.activate()
    result = {
        "changed": host.changed,
        "release": str(host.release),
        "version": host.release.name,
        "previous": previous,
        "tasks": list(record.tasks) if record else [],
        "findings": [*record.findings, *moved] if record else [],
        "pending": pending,
        "began": round(began, 2),
        "seconds": round(time.time() - began, 2),
    }
    return {**result, "diff": host.diff} if module._diff else result


def main() -> None:
    texts = ("user", "app", "version", "sha256", "settings", "wrapper")
    paths = ("root", "config_dir", "state_dir", "log_dir")
    module = AnsibleModule(
        argument_spec={
            **{name: {"type": "str", "required": True} for name in texts},
            **{name: {"type": "path", "required": True} for name in paths},
            "artifact": {"type": "path", "default": ""},
            "wheels": {"type": "dict", "required": True},
            "contents": {"type": "dict", "default": {}, "no_log": True},
            "runtime": {"type": "dict", "required": True},
            "environment": {"type": "str", "required": True, "no_log": True},
            "activate": {"type": "bool", "default": True},
            "app_memory": {"type": "int", "default": 0},
            "child_caps": {"type": "dict", "default": {}},
            "incompatible_tasks": {"type": "list", "elements": "str", "default": []},
            "keep_current": {"type": "bool", "default": False},
            "python": {"type": "path", "default": "/usr/bin/python3"},
        },
        supports_check_mode=True,
    )
    # A traceback of the application may contain values of its environment.
    module.no_log_values |= secrets_in(module.params["environment"])
    try:
        result = run(module)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
