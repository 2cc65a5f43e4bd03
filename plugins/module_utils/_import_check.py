"""Import the application of an artifact on the controller, to find its errors before a host is changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._artifact import minor_version
from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError, unpack
from ansible_collections.fleet.celery.plugins.module_utils._release_check import CHECK
from ansible_collections.fleet.celery.plugins.module_utils._resolve import end_of, uv_program

#: Exit code of celery_fleet_runtime.check for an error that the machine may cause.
NOT_HERE = 3
#: Timeout of each command, longer than an import on a busy machine.
LIMIT_SECONDS = 300
# Variables that the environment file may set, as in the wrapper.
_OVERRIDABLE = ("HOME", "USER")


@dataclass(frozen=True)
class Import:
    """The result of an import.

    Attributes:
        report: report of the release check; empty if the application could not be imported here.
        reason: why it could not be imported here; empty if it was.
    """

    report: Mapping[str, Any]
    reason: str = ""


def import_application(
    artifact: Path,
    *,
    app: str,
    python: str,
    environment: str,
    modules: Mapping[str, str],
    directory: Path,
    state_directory: str = "",
) -> Import:
    """Import an application from its artifact. Return the cached report of an earlier import of the same files.

    Args:
        app: the application as ``celery -A`` takes it.
        python: Python version of the hosts, such as 3.11.2. The controller needs the same minor version.
        environment: content of the environment file. Secret.
        modules: contents of the settings module and of the runtime package, by path.
        directory: directory of artifacts, downloaded wheels and cached reports.
        state_directory: the application's directory on hosts. In the environment, a temporary directory replaces it,
            because an import may write there.

    Raises:
        ReleaseError: the application can't be imported on any machine. The message has the end of its output.
    """
    total = hashlib.sha256(artifact.read_bytes())
    for part in (
        app,
        minor_version(python),
        environment,
        *(f"{name}\0{text}" for name, text in sorted(modules.items())),
    ):
        total.update(f"{part}\0".encode())
    known = directory / "imports" / f"{total.hexdigest()[:32]}.json"
    if known.is_file():
        return Import(json.loads(known.read_text(encoding="utf-8")))
    uv = uv_program()
    found = _run([uv, "python", "find", "--no-project", "--no-python-downloads", "--system", minor_version(python)])
    if found.returncode:
        return Import({}, f"this machine has no Python {minor_version(python)}")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        if problem := _install(uv, found.stdout.strip(), artifact, place, directory / "wheels"):
            return Import({}, problem)
        if state_directory:
            local = (place / "state").as_posix()
            environment = re.sub(rf"{re.escape(state_directory)}(?![\w.-])", lambda _: local, environment)
        run = _check(place, app, environment, modules)
    if run is None:
        return Import({}, f"the import did not end within {LIMIT_SECONDS} s")
    output = end_of(run.stdout + run.stderr)
    if run.returncode == NOT_HERE:
        return Import({}, f"the import failed, perhaps for a file or a service that only a host has:\n{output}")
    if run.returncode:
        raise ReleaseError(
            f"{app} (celery_app_module) can't be imported, so no host was changed. Fix it and rerun. If it can be "
            f"imported only on a host, set celery_app_import_on_controller: false\n{output}"
        )
    report: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    known.parent.mkdir(parents=True, exist_ok=True)
    temporary_file = known.with_suffix(f".{os.getpid()}")
    temporary_file.write_text(json.dumps(report), encoding="utf-8")
    temporary_file.replace(known)
    return Import(report)


def _install(uv: str, python: str, artifact: Path, place: Path, kept: Path) -> str:
    """Create a virtual environment from an artifact's wheels. Return why it can't be created here, or an empty text.

    Args:
        kept: directory of downloaded wheels: each is in a directory named after its SHA-256. uv caches and links them.
    """
    venv, wheels = place / "venv", place / "wheels"
    wheels.mkdir()
    fetched: list[str] = []
    own: list[str] = []
    for name, sha256 in unpack(artifact, wheels).items():
        known = kept / sha256 / name
        (fetched if known.is_file() else own).append(str(known if known.is_file() else wheels / name))
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-index", "--no-deps", f"--python={venv}"]
    steps = [
        [uv, "venv", "--quiet", "--offline", "--no-project", f"--python={python}", str(venv)],
        [*install, *fetched] if fetched else [],
        # Wheels of one release only would fill the cache.
        [*install, "--no-cache", *own] if own else [],
    ]
    for step in filter(None, steps):
        run = _run(step)
        if run.returncode:
            return f"its wheels can't be installed on this machine:\n{end_of(run.stderr, 1000)}"
    return ""


def _check(
    place: Path, app: str, environment: str, modules: Mapping[str, str]
) -> subprocess.CompletedProcess[str] | None:
    """Run the release check as the wrapper on hosts (templates/celery_supervisor.sh.j2) does; None after a timeout."""
    venv, config, state = place / "venv", place / "config", place / "state"
    for path in (config, state):
        path.mkdir(mode=0o700)
    for name, text in {"environment": environment, **modules}.items():
        (config / name).parent.mkdir(exist_ok=True)
        (config / name).write_text(text, encoding="utf-8")
    fixed = {
        "HOME": str(state),
        "USER": "celery",
        "LANG": "C.UTF-8",
        "PATH": f"{venv / 'bin'}:{os.defpath}",
        "VIRTUAL_ENV": str(venv),
        "PYTHONPATH": f"{config}:{venv / 'src'}",
        "CELERY_LOADER": "celery_fleet_runtime.loader:Loader",
        "CELERY_APP_RELEASE": "0",
        "CELERY_APP_STATE_DIR": str(state),
        "CELERY_FLEET_COUNTS": str(state / "counts"),
    }
    again = " ".join(f"{name}={shlex.quote(value)}" for name, value in fixed.items() if name not in _OVERRIDABLE)
    script = (
        f"set -a; . {shlex.quote(str(config / 'environment'))}; {again}; exec python -B -m {CHECK} {shlex.quote(app)}"
    )
    try:
        return _run(["/bin/sh", "-c", script], fixed, state)
    except subprocess.TimeoutExpired:
        return None


def _run(
    argv: list[str], environment: Mapping[str, str] | None = None, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=directory,
        timeout=LIMIT_SECONDS,
        stdin=subprocess.DEVNULL,
    )
