"""Releases on a host: what one is made from, and what a process runs on."""

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
# What celery_activate must know of the call before.
ACTIVATION = "activation.json"
# While it is there, no worker is started on the host.
DRAINED = "drained"
SETTINGS = "celery_fleet_settings.py"
# How long a program may take from its start until it has an environment.
EXEC_SECONDS = 5.0
# The variable by which a process tells what it was started from.
STARTED_FROM = "CELERY_FLEET_STARTED_FROM"

_PYTHON = re.compile(r"python3\.\d+")
# A name of a directory, so nothing that leads out of it: versions of distributions (PEP 440) and the like.
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")


class ReleaseError(Exception):
    """A release can't be made or used; the text is for the user."""


def check_version(version: str) -> None:
    """Raise ReleaseError for a version that can't name a release's directory."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(
            f"celery_app_version {version!r} can't name a release. Use letters, digits and ._+!-, none of these first"
        )


@dataclass(frozen=True)
class Record:
    """What is kept of a release once it is complete.

    Attributes:
        sha256: of the artifact that it was made from.
        checked: digest of the release, environment, settings and wrapper that it was last imported with.
        tasks: names of its tasks then.
        python: that it was made with, such as 3.11.2.
        finished: when it was complete, in UTC.
        files: fingerprint of its virtual environment when it was last imported.
        wheels: names of the wheels that it was made of, and the SHA-256 of each.
        signatures: of each task, its parameters: name, kind and whether it is required.
        queues: of each task, the one that it goes to.
        periodic: names of its periodic tasks.
        timezone: that its processes log in, such as Australia/Tasmania; empty if it is that of the host.
        findings: what its check found that is no reason to refuse it, a sentence each.
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
    """Return the record of a release; None if it was never completed."""
    try:
        raw = json.loads((release / RECORD).read_text(encoding="utf-8"))
        return Record(**{**raw, **{name: tuple(raw.get(name, ())) for name in ("tasks", "periodic", "findings")}})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def fingerprint(directory: Path) -> str:
    """Return a digest over the names and sizes of a directory's files, in tens of milliseconds.

    It tells whether someone has changed a virtual environment. Compiled files don't count: Python writes them anew.
    """
    total = hashlib.sha256()
    for folder, folders, files in os.walk(directory):
        folders[:] = sorted(set(folders) - {"__pycache__"})
        for name in sorted(files):
            path = Path(folder, name)
            total.update(f"{path.relative_to(directory)}\0{path.lstat().st_size}\0".encode())
    return total.hexdigest()


def made_for_another_python(venv: Path, python: Path) -> bool:
    """Return whether a virtual environment belongs to another Python than the host has by now.

    After an upgrade of the host, its python3 is another one, which does not look where the packages are.
    """
    name = python.resolve().name
    return bool(_PYTHON.fullmatch(name)) and not (venv / "lib" / name).is_dir()


def digest(release: Path, contents: Iterable[bytes]) -> str:
    """Return what the wrapper exports as STARTED_FROM for a release and these files, in its order."""
    total = hashlib.sha256(f"{release}\n".encode())
    for content in contents:
        total.update(content)
    return total.hexdigest()


def started_from(root: Path, config_dir: Path, program: str) -> str:
    """Return the digest of what a program would run on if it started now.

    The wrapper (templates/celery_supervisor.sh.j2) computes the same when it starts.
    """
    files = [root / "bin" / "celery_supervisor", config_dir / "environment"]
    files += sorted(config_dir.glob("celery_fleet_*.py"))
    own = config_dir / "programs" / f"{program}.env"
    contents = [path.read_bytes() if path.exists() else b"" for path in files]
    return digest((root / "current").resolve(), [*contents, *([own.read_bytes()] if own.exists() else [])])


def in_use(releases: Path) -> set[str]:
    """Return the releases that a process of this host runs on: each has its virtual environment in its environment."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        for variable in _environment(path).split(b"\0"):
            name, _, value = variable.partition(b"=")
            venv = Path(os.fsdecode(value))
            if name == b"VIRTUAL_ENV" and venv.parent.parent == releases:
                found.add(venv.parent.name)
    return found


def _environment(process: Path) -> bytes:
    """Return the environment that a process was started with; nothing if it has ended, or is none of a program.

    A program that is being started has no environment for a moment (fs/exec.c: its memory is there before its
    environment is), so that moment is waited out.

    Args:
        process: its directory in /proc.
    """
    until = time.monotonic() + EXEC_SECONDS
    try:
        while not (environment := (process / "environ").read_bytes()):
            # proc(5): the 50th field is where the environment begins; the second, a name, may have spaces in it.
            begins = int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[47])
            # A thread of the kernel has no program, and reading the link fails.
            if begins or not (process / "exe").readlink() or time.monotonic() > until:
                break
            time.sleep(0.001)
    except OSError:
        return b""
    return environment


def prunable(records: Iterable[Record], keep: int, needed: Iterable[str]) -> list[str]:
    """Return the versions of releases that may go, the oldest first.

    Args:
        keep: so many stay, the latest of those that are not needed among them.
        needed: stay in any case.
    """
    needed = set(needed)
    records = sorted(records, key=lambda record: record.finished)
    others = [record.version for record in records if record.version not in needed]
    kept = max(0, keep - len(needed & {record.version for record in records}))
    return others[: max(0, len(others) - kept)]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(artifact: Path, directory: Path) -> dict[str, str]:
    """Unpack an artifact and return its wheels' names with the SHA-256 of each, checked against the manifest.

    Raises:
        ReleaseError: if a wheel is missing, surplus or other than the manifest says.
    """
    with tarfile.open(artifact) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and "/" not in member.name else None
            if content is None:
                raise ReleaseError(f"{artifact} holds {member.name}, which is no plain file")
            with (directory / member.name).open("wb") as file:
                shutil.copyfileobj(content, file)
    if not (directory / MANIFEST).exists():
        raise ReleaseError(f"{artifact} has no manifest")
    manifest: Mapping[str, Mapping[str, str]] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    wheels = {path.name: file_sha256(path) for path in sorted(directory.glob("*.whl"))}
    if set(wheels) != set(manifest["wheels"]):
        raise ReleaseError(f"{artifact} does not hold the wheels that its manifest names")
    for name, sha256 in wheels.items():
        if sha256 != manifest["wheels"][name]:
            raise ReleaseError(f"{name} in {artifact} is not the file that was built")
    return wheels
