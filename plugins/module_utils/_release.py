"""Releases on a host: their records, their artifacts, and the files that a process was started from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

MANIFEST = "manifest.json"
RECORD = "release.json"
# What celery_activate must know of its previous call.
ACTIVATION = "activation.json"
# While this file exists, no worker is started on the host.
DRAINED = "drained"
SETTINGS = "celery_fleet_settings.py"
#: Directory, below an application's root, of the package that its processes import.
RUNTIME = "runtime"
# Seconds after its start in which a program may have no environment yet.
EXEC_SECONDS = 5.0
# Environment variable of a process: a digest of the files that it was started from.
STARTED_FROM = "CELERY_FLEET_STARTED_FROM"

_PYTHON = re.compile(r"python3\.\d+")
# The version names a directory, so it has no slash. Covers versions of distributions (PEP 440).
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")


class ReleaseError(Exception):
    """A release can't be built or used. The message is for the user."""


def check_version(version: str) -> None:
    """Raise ReleaseError for a version that can't name a release's directory."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(
            f"celery_app_version {version!r} can't name a release. Use letters, digits and ._+!-, and begin with a "
            "letter or a digit"
        )


@dataclass(frozen=True)
class Record:
    """The record of a complete release, in its directory.

    Attributes:
        sha256: SHA-256 of its artifact.
        checked: digest of the release, environment, settings and wrapper of its last release check.
        tasks: names of its tasks.
        python: version of its Python, such as 3.11.2.
        finished: when its installation ended, in UTC.
        files: fingerprint of its virtual environment at its last release check.
        wheels: file names of its wheels, with the SHA-256 of each.
        signatures: for each task, its parameters: name, kind and whether it is required.
        queues: for each task, the queue that it is sent to.
        periodic: names of its periodic tasks.
        timezone: time zone of its logs, such as Australia/Tasmania; empty for the host's.
        findings: remarks of the release check that are no errors, a sentence each.
    """

    version: str
    sha256: str
    checked: str = ""
    tasks: tuple[str, ...] = ()
    python: str = ""
    finished: str = ""
    files: str = ""
    wheels: Mapping[str, str] = field(default_factory=dict)
    queues: Mapping[str, str] = field(default_factory=dict)
    periodic: tuple[str, ...] = ()
    timezone: str = ""
    findings: tuple[str, ...] = ()
    signatures: Mapping[str, list[list[object]]] = field(default_factory=dict)

    def write(self, release: Path) -> None:
        temporary = release / f".{RECORD}"
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(release / RECORD)


def read_record(release: Path) -> Record | None:
    """Return the record of a release; None if its installation is incomplete."""
    try:
        raw = json.loads((release / RECORD).read_text(encoding="utf-8"))
        return Record(**{**raw, **{name: tuple(raw.get(name, ())) for name in ("tasks", "periodic", "findings")}})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def fingerprint(directory: Path) -> str:
    """Return a digest of the names and sizes of a directory's files, which takes tens of milliseconds.

    It detects changes of a virtual environment. Bytecode does not count, because Python rewrites it.
    """
    total = hashlib.sha256()
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(set(folders) - {"__pycache__"})
        for name in sorted(files):
            path = Path(folder, name)
            total.update(f"{path.relative_to(directory)}\0{path.lstat().st_size}\0".encode())
    return total.hexdigest()


def made_for_another_python(venv: Path, python: Path) -> bool:
    """Return whether a virtual environment was created with another version of Python than the host's.

    After an upgrade of the host, its python3 searches another directory for packages.
    """
    name = python.resolve().name
    return bool(_PYTHON.fullmatch(name)) and not (venv / "lib" / name).is_dir()


def digest(release: Path, contents: Iterable[bytes]) -> str:
    """Return the digest that the wrapper exports as STARTED_FROM.

    Args:
        contents: contents of the files, in the wrapper's order.
    """
    total = hashlib.sha256(f"{release}\n".encode())
    for content in contents:
        total.update(content)
    return total.hexdigest()


def runtime_digest(directory: Path) -> str:
    """Return the digest of the runtime package in a directory."""
    total = hashlib.sha256()
    for path in sorted(directory.glob("celery_fleet_runtime/*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def started_from(root: Path, config_dir: Path, program: str) -> str:
    """Return the digest of the files that a program would be started from now.

    The wrapper (templates/celery_supervisor.sh.j2) computes the same digest at a start.
    """
    files = [root / "bin" / "celery_supervisor", config_dir / "environment", config_dir / SETTINGS]
    files += sorted((root / RUNTIME).glob("celery_fleet_runtime/*.py"))
    own = config_dir / "programs" / f"{program}.env"
    contents = [path.read_bytes() if path.exists() else b"" for path in files]
    return digest((root / "current").resolve(), [*contents, *([own.read_bytes()] if own.exists() else [])])


def in_use(releases: Path) -> set[str]:
    """Return the releases that processes of this host run, from VIRTUAL_ENV in the environment of each process."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        for variable in _environment(path).split(b"\0"):
            name, _, value = variable.partition(b"=")
            venv = Path(os.fsdecode(value))
            if name == b"VIRTUAL_ENV" and venv.parent.parent == releases:
                found.add(venv.parent.name)
    return found


def _environment(process: Path) -> bytes:
    """Return the environment that a process was started with; empty for a kernel thread or an ended process.

    During execve, a process has no environment for a moment (fs/exec.c). Wait until it has one.

    Args:
        process: directory of the process in /proc.
    """
    until = time.monotonic() + EXEC_SECONDS
    try:
        while not (environment := (process / "environ").read_bytes()):
            # proc(5): the 50th field is the start of the environment. The second, a name, may contain spaces.
            begins = int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[47])
            # A kernel thread has no executable, so reading the link fails.
            if begins or not (process / "exe").readlink() or time.monotonic() > until:
                break
            time.sleep(0.001)
    except OSError:
        return b""
    return environment


def prunable(records: Iterable[Record], keep: int, needed: Iterable[str]) -> list[str]:
    """Return the versions of releases that may be removed, the oldest first.

    Args:
        keep: number of releases to keep, needed ones included. The latest are kept.
        needed: versions that are never removed.
    """
    needed = set(needed)
    records = sorted(records, key=lambda record: record.finished)
    others = [record.version for record in records if record.version not in needed]
    kept = max(0, keep - len(needed & {record.version for record in records}))
    return others[: max(0, len(others) - kept)]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 checksum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(artifact: Path, directory: Path) -> dict[str, str]:
    """Unpack an artifact into a directory. Return the file names of its wheels with the SHA-256 of each.

    Raises:
        ReleaseError: the wheels differ from the manifest, or a member is not a regular file.
    """
    with tarfile.open(artifact) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and "/" not in member.name else None
            if content is None:
                raise ReleaseError(f"{artifact} contains {member.name}, which is not a regular file at its top level")
            with (directory / member.name).open("wb") as file:
                shutil.copyfileobj(content, file)
    if not (directory / MANIFEST).exists():
        raise ReleaseError(f"{artifact} has no manifest")
    manifest: Mapping[str, Mapping[str, str]] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    wheels = {path.name: file_sha256(path) for path in sorted(directory.glob("*.whl"))}
    if set(wheels) != set(manifest["wheels"]):
        raise ReleaseError(f"{artifact} does not contain exactly the wheels of its manifest. Build it again")
    for name, sha256 in wheels.items():
        if sha256 != manifest["wheels"][name]:
            raise ReleaseError(f"{name} in {artifact} has another checksum than in its manifest. Build it again")
    return wheels
