#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Bring a release of an application onto a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_release
short_description: Bring a release with its environment and settings onto a host, checked before it takes effect
description:
  - Makes C(releases/<version>) with a virtual environment of its own from an artifact, without an index.
  - Imports the application with the new environment and settings, as the application's user, and lists its tasks.
  - Only then do environment, settings and wrapper replace the old ones, and C(current) points to the release.
  - Restarts nothing.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: It says what it would make and change.}
  diff_mode: {support: full, description: Of the environment it shows only that it changes.}
options:
  user:
    description: The application's user, and its group.
    type: str
    required: true
  app:
    description: What C(celery -A) takes.
    type: str
    required: true
  version:
    description: The release's name.
    type: str
    required: true
  artifact:
    description:
      - The artifact's file on the controller. Of its wheels a host is sent those that none of its releases has.
    type: path
    required: true
  sha256:
    description: The artifact's checksum.
    type: str
    required: true
  wheels:
    description: The artifact's wheels, by their names, with their checksums. It is filled in from the artifact.
    type: dict
    required: false
  contents:
    description: What the host lacks of them, in base64. It is filled in from the artifact.
    type: dict
    default: {}
  root:
    description: The application's directory.
    type: path
    required: true
  config_dir:
    description: Directory of its environment and settings.
    type: path
    required: true
  state_dir:
    description: Directory that its user may write to; the user's home.
    type: path
    required: true
  log_dir:
    description: Directory of its logs.
    type: path
    required: true
  environment:
    description: Text of the environment file; secret.
    type: str
    required: true
  settings:
    description: Text of the settings module.
    type: str
    required: true
  modules:
    description: Texts of modules that the settings import, by the names of their files.
    type: dict
    required: true
  wrapper:
    description: Text of the wrapper.
    type: str
    required: true
  activate:
    description:
      - Whether the release takes effect. If not, it is made and checked, and C(current), environment, settings and
        wrapper stay as they are.
    type: bool
    default: true
  app_memory:
    description: Bytes that the plan counts for a process that has imported the application. 0 counts none.
    type: int
    default: 0
  child_caps:
    description: By the names of programs, bytes above which their children are replaced. 0 for a program without.
    type: dict
    default: {}
  incompatible_tasks:
    description: Tasks whose messages of the release that runs the new one need not be able to run.
    type: list
    elements: str
    default: []
  keep_current:
    description: Where a release runs already, and can, it stays, and O(version) and O(artifact) are left aside.
    type: bool
    default: false
  python:
    description: The Python that the virtual environment is made of.
    type: path
    default: /usr/bin/python3
"""

EXAMPLES = r"""
- name: Bring the release
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
    modules: {celery_fleet_report.py: "{{ report_text }}"}
    wrapper: "{{ wrapper_text }}"
"""

RETURN = r"""
missing: {description: Wheels that must be sent first., type: list, elements: str, returned: never}
release: {description: The release's directory., type: str, returned: success}
version: {description: The release., type: str, returned: success}
previous: {description: Where C(current) pointed before., type: str, returned: success}
tasks: {description: Names of the application's tasks., type: list, elements: str, returned: success}
findings:
  description: What the check found that is no reason to refuse the release, such as settings that differ.
  type: list
  elements: str
  returned: success
pending:
  description: Without O(activate), files that hold something else than it would write, such as settings.
  type: list
  elements: str
  returned: success
began: {description: When that was, in seconds since the epoch., type: float, returned: success}
seconds: {description: How long it took., type: float, returned: success}
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
from ansible_collections.fleet.celery.plugins.module_utils._files import belongs, make_directory, write_file
from ansible_collections.fleet.celery.plugins.module_utils._release import (
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
    """The application's directories and files on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.parameters: dict[str, Any] = module.params
        self.root = Path(module.params["root"])
        self.config_dir = Path(module.params["config_dir"])
        self.release = self.root / "releases" / module.params["version"]
        self.current = self.root / "current"
        self.modules: dict[str, str] = {SETTINGS: module.params["settings"], **module.params["modules"]}
        self.changed = False
        self.diff: list[dict[str, str]] = []

    def directories(self) -> list[tuple[Path, int, str, str]]:
        user = self.parameters["user"]
        return [
            (self.root, 0o755, "root", "root"),
            (self.root / "bin", 0o755, "root", "root"),
            (self.root / "releases", 0o755, "root", "root"),
            (self.config_dir, 0o755, "root", "root"),
            (self.config_dir / "programs", 0o750, "root", user),
            (Path(self.parameters["state_dir"]), 0o750, user, user),
            # Supervisor's, which root is: the application could have it write elsewhere by a link.
            (Path(self.parameters["log_dir"]), 0o750, "root", user),
        ]

    def files(self) -> list[tuple[Path, str, int, str, bool]]:
        """Return path, text, mode, group and whether it is secret of each file."""
        bin_dir, user = self.root / "bin", self.parameters["user"]
        return [
            (self.config_dir / "environment", self.parameters["environment"], 0o640, user, True),
            *((self.config_dir / name, text, 0o644, "root", False) for name, text in sorted(self.modules.items())),
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
        """Return what a program of this release starts from, in the wrapper's order."""
        texts = [self.parameters["wrapper"], self.parameters["environment"]]
        return [text.encode() for text in (*texts, *(text for _, text in sorted(self.modules.items())))]

    def make_release(self, others: dict[Path, Record]) -> Record:
        """Install the wheels into a virtual environment; what others have is linked."""
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
        """Return the wheels that must be sent before the release can be made: those that no other has either."""
        if self.parameters["artifact"]:
            return []
        return sorted(set(lacking(self.parameters["wheels"], others)) - self.parameters["contents"].keys())

    def unchanged(self) -> dict[Path, Record]:
        """Return the releases that are whole, and as they were made, with the Python that is wanted."""
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
        """Import the application on the release with the new files, as its user, and return the release's record.

        Raises:
            ReleaseError: if that fails, with the end of what it said.
        """
        advice = "Mend it and run this again"
        if record.files not in ("", files):
            advice = f"Its virtual environment is not as it was made: remove {self.release} and run this again"
        user = self.parameters["user"]
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".check-") as temporary:
            directory = Path(temporary)
            directory.chmod(0o750)
            shutil.chown(directory, "root", user)
            texts = {"environment": self.parameters["environment"], "celery_run": self.parameters["wrapper"]}
            for name, text in {**texts, **self.modules}.items():
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
        """Return the record of the release whose place this one takes, if there is one."""
        record = read_record(self.current.resolve()) if self.current.is_symlink() else None
        return record if record and record.version != self.release.name else None

    def lost(self, signatures: Mapping[str, Any]) -> list[str]:
        """Return why messages of the release that runs would be lost on this one."""
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
        """Return the files that hold something else than they would if the release was activated here.

        Raises:
            ReleaseError: if none was ever.
        """
        if not self.current.is_symlink() and not self.module.check_mode:
            raise ReleaseError("No release runs on this host yet, so there is nothing to roll over. Run site.yml first")
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
        self._link(self.root / "bin" / "celery_run", Path("celery_supervisor"))

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
            temporary = link.with_name(f".{link.name}")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(link)

    def activate(self) -> None:
        self._link(self.current, Path("releases") / self.parameters["version"])


def keep_current(parameters: dict[str, Any]) -> None:
    """Let the release that runs be the one that is wanted, if there is one."""
    release = Path(parameters["root"], "current").resolve()
    record = read_record(release)
    if record and not made_for_another_python(release / "venv", Path(parameters["python"])):
        parameters |= {"version": record.version, "sha256": record.sha256}


def run(module: AnsibleModule) -> dict[str, Any]:
    check_version(module.params["version"])
    # The application's user must read the release, whatever mask root has.
    os.umask(0o022)
    began = time.time()
    if module.params["keep_current"]:
        keep_current(module.params)
    host = Host(module)
    pending = [] if module.params["activate"] else host.pending()
    previous = str(host.current.readlink()) if host.current.is_symlink() else ""
    record = read_record(host.release)
    if record and made_for_another_python(host.release / "venv", Path(module.params["python"])):
        record = None  # nothing can run on it since the host was upgraded
    if record and record.sha256 != module.params["sha256"] and not record.checked:
        record = None  # it never passed its check, so nothing runs on it: what mends it may have the same version
    if record and record.sha256 != module.params["sha256"]:
        raise ReleaseError(
            f"Release {record.version} is on this host already, made from something else. A version names one content: "
            "raise celery_app_version (or the version of the project), or remove the release"
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
            "modules": {"type": "dict", "required": True},
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
    # A traceback of the application may show what is in its environment.
    module.no_log_values |= secrets_in(module.params["environment"])
    try:
        result = run(module)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
