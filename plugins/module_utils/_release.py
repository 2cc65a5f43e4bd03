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
from typing import Any

MANIFEST = "manifest.json"
RECORD = "release.json"
# What celery_activate must know of the call before.
ACTIVATION = "activation.json"
# While it is there, no worker is started on the host.
DRAINED = "drained"
SETTINGS = "celery_fleet_settings.py"
# How long a program may take from its start until it has an environment.
EXEC_SECONDS = 5.0
# The check itself takes memory too.
MEMORY_TOLERANCE = 1.2
MIB = 1024 * 1024
# The variable by which a process tells what it was started from.
STARTED_FROM = "CELERY_FLEET_STARTED_FROM"

# Runs on the new release before it is activated: imports the application and says what it finds.
CHECK = """
import importlib.util, inspect, json, os, resource, sys
import celery
if celery.VERSION < (5, 3):
    sys.exit(f"Celery {celery.__version__} is too old. Require celery>=5.3 of the application")
from celery import Celery
from celery.app.defaults import DEFAULTS
from celery.app.utils import find_app
name = sys.argv[1]
module = importlib.import_module(name.partition(":")[0])
try:
    app = find_app(name)
except (AttributeError, ImportError):
    app = None
    # find_app looks there too, and keeps to itself what it meets.
    submodule = module.__name__ + ".celery"
    if hasattr(module, "__path__") and importlib.util.find_spec(submodule):
        importlib.import_module(submodule)
if not isinstance(app, Celery):
    sys.exit(f"{module.__name__} imports, but holds no Celery application where celery_app_module says: {name}. "
             "Give module:variable, such as shop.celery:app")
app.loader.import_default_modules()
app.finalize()
import celery_fleet_settings as fleet
from celery_fleet_loader import differences, exchanges, priorities, queue_of, time_limits, undeclared
def parameters(task):
    try:
        found = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return [["args", "VAR_POSITIONAL", False], ["kwargs", "VAR_KEYWORD", False]]
    return [[each.name, each.kind.name, each.default is each.empty and "VAR_" not in each.kind.name] for each in found]
print("\\n" + json.dumps({
    "tasks": sorted(name for name in app.tasks if not name.startswith("celery.")),
    "signatures": {name: parameters(task) for name, task in app.tasks.items() if not name.startswith("celery.")},
    "queues": {name: queue_of(app, task) for name, task in app.tasks.items() if not name.startswith("celery.")},
    "periodic": sorted(app.conf.beat_schedule or ()),
    "applies_settings": app.conf.task_queues is fleet.FIRM["task_queues"],
    "differences": differences(app),
    "undeclared": undeclared(app),
    "exchanges": exchanges(app),
    "time_limits": time_limits(app),
    "priorities": priorities(app),
    "celery": celery.__version__,
    "timezone": os.environ.get("TZ", ""),
    "quorum_queues": [queue.name for queue in fleet.FIRM["task_queues"]
                      if queue.queue_arguments.get("x-queue-type") == "quorum"],
    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "unknown": sorted(set(fleet.DECLARED) - set(DEFAULTS)),
    "left_out": sorted({*fleet.FIRM, *fleet.DEFAULTS} - {*fleet.DECLARED, *DEFAULTS}),
    "known": sorted(DEFAULTS),
}))
"""


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


def settings_report(differences: Iterable[Mapping[str, str]], left_out: Iterable[str]) -> list[str]:
    """Return a sentence for each setting that application and fleet set differently.

    Args:
        differences: of each, its name, both values as text, and whose value applies.
        left_out: settings of the fleet that the release's Celery does not know.
    """
    told = []
    for found in differences:
        name, own, fleets = found["name"], found["application"], found["fleet"]
        if found["applies"] == "application":
            told.append(f"{name}: the application's {own} applies, not the fleet's {fleets}")
        elif found["applies"] == "fleet":
            told.append(f"{name}: the fleet's {fleets} applies, not the application's {own}")
        else:
            told.append(f"{name}: the fleet's apply first, then the application's {own}")
    told += [f"{name}: left out, because the release's Celery does not know it" for name in left_out]
    return told


# Since then, a worker sets the prefetch count of each consumer in place of one for all, which quorum queues refuse:
# https://docs.celeryq.dev/en/stable/history/whatsnew-5.5.html
QUORUM_QUEUES_SINCE = (5, 5)
TRIED_UNTIL = (5, 7)


def celery_problems(version: str, quorum_queues: Iterable[str]) -> list[str]:
    """Return why the release's Celery can't consume the fleet's queues.

    Args:
        version: of Celery, such as 5.4.0.
        quorum_queues: names of those queues that are.
    """
    names = ", ".join(quorum_queues)
    if not names or _minor(version) >= QUORUM_QUEUES_SINCE:
        return []
    return [
        f"Celery {version} can't consume quorum queues ({names}). Require celery>=5.5 of the application, or set "
        "celery_queue_defaults: {type: classic}, or celery_broker: redis"
    ]


def celery_report(version: str) -> list[str]:
    """Return what to know of the release's Celery: that it is newer than what was tried, if it is."""
    if _minor(version) <= TRIED_UNTIL:
        return []
    return [f"Celery {version} is newer than {'.'.join(map(str, TRIED_UNTIL))}, the latest version that was tried"]


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def priority_problems(priorities: Mapping[str, int]) -> list[str]:
    """Return why tasks would not have the priorities that the application wants.

    Args:
        priorities: the highest ones, by where the application says so.
    """
    return [
        f"The application sets {where} to a highest priority of {highest}, but queues have none on this fleet. Set "
        f"{{type: classic, max_priority: {highest}}} of those queues in celery_queues that need it"
        for where, highest in sorted(priorities.items())
    ]


def limit_problems(limits: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return why tasks' own time limits don't fit the workers of their queue.

    Args:
        limits: of each such task its name, its queue, and the seconds that task and worker grant.
    """
    return [
        f"The task {found['name']} sets time_limit={found['task']}, but a stop of the workers of its queue "
        f"{found['queue']} waits for {found['worker']} s only. Set time_limit: {found['task']} of the queue "
        f"{found['queue']} in celery_queues, or lower that of the task"
        for found in limits
    ]


def cap_problems(memory: int, caps: Mapping[str, int]) -> list[str]:
    """Return why caps on children are too small: a child begins with all that the application takes.

    Args:
        memory: bytes that a process takes once it has imported the application.
        caps: by the names of programs, in bytes; 0 for none.
    """
    return [
        f"{name} replaces each child above {cap // MIB} MiB after its task, but the application alone takes "
        f"{memory // MIB} MiB. Raise max_memory_per_child of the worker, or set celery_app_memory to {memory // MIB}MB"
        for name, cap in sorted(caps.items())
        if 0 < cap <= memory
    ]


def memory_report(memory: int, planned: int) -> list[str]:
    """Return what to know of memory: that the application takes more than the plan counts, if it does.

    Args:
        memory: bytes that a process takes once it has imported the application.
        planned: bytes that the plan counts for that; 0 if there is no plan.
    """
    if not planned or memory <= planned * MEMORY_TOLERANCE:
        return []
    return [
        f"a process that has imported the application takes {memory // MIB} MiB; the plan counts {planned // MIB} MiB."
        f" Set celery_app_memory to {memory // MIB}MB"
    ]


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
