"""Virtual environments that are made of an artifact's wheels alone."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from ansible_collections.fleet.celery.plugins.module_utils._release import (
    Record,
    ReleaseError,
    file_sha256,
    unpack,
)

# Runs an argument list and returns its exit code, output and errors.
Run = Callable[[list[str]], tuple[int, str, str]]
VERSION = "import platform; print(platform.python_version())"
NO_OTHERS: Mapping[Path, Record] = MappingProxyType({})


def install(
    run: Run,
    python: str,
    source: Path,
    record: Record,
    directory: Path,
    *,
    others: Mapping[Path, Record] = NO_OTHERS,
) -> Record:
    """Make a directory with a virtual environment, complete or not at all, and return its record.

    A release seldom changes its dependencies. What it has in common with another is not installed again but linked,
    which takes a tenth of the time and no room.

    Args:
        python: what the environment is made with.
        source: directory of the wheels that no other has.
        record: its version, checksum and wheels; it is written last, so a directory without it is made anew.
        others: directories that this made with the same Python, unchanged since, with their records.

    Raises:
        ReleaseError: if a wheel is another one or can't be installed.
    """
    base = nearest(record.wheels, others)
    there = others[base].wheels if base else {}
    new = lacking(record.wheels, others)
    for name in new:
        if file_sha256(source / name) != record.wheels[name]:
            raise ReleaseError(f"{name} is not the file that was built: its checksum differs")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755, parents=True)
    venv = directory / "venv"
    pip = [str(venv / "bin" / "pip"), "--isolated", "--disable-pip-version-check", "--no-input"]
    without_pip = ["--without-pip"] if base else []
    _checked(run, [python, "-m", "venv", *without_pip, str(venv)], "The virtual environment can't be made")
    if base:
        link(base / "venv", venv)
    if gone := sorted({_distribution(name) for name in there} - {_distribution(name) for name in record.wheels}):
        _checked(run, [*pip, "uninstall", "--yes", *gone], "What the release no longer needs can't be removed")
    if new:
        options = ["--no-index", "--no-deps", "--no-cache-dir", *(["--force-reinstall"] if base else [])]
        paths = [str(source / name) for name in new]
        _checked(run, [*pip, "install", *options, *paths], "The wheels can't be installed")
    _checked(run, [*pip, "check"], "The wheels don't fit together")
    version = _checked(run, [str(venv / "bin" / "python"), "-c", VERSION], "The virtual environment does not run")
    finished = datetime.now(tz=UTC).isoformat(timespec="seconds")
    record = replace(record, python=version.strip(), finished=finished)
    record.write(directory)
    return record


@contextmanager
def unpacked(artifact: Path, sha256: str, beside: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Unpack an artifact for a while; yields the directory, and its wheels with their checksums.

    Args:
        sha256: of the artifact.
        beside: a directory with room for it.

    Raises:
        ReleaseError: if it is another one.
    """
    if file_sha256(artifact) != sha256:
        raise ReleaseError(f"{artifact} is not the artifact that was built: its checksum differs")
    beside.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".wheels-") as temporary:
        yield Path(temporary), unpack(artifact, Path(temporary))


def lacking(wheels: Mapping[str, str], others: Mapping[Path, Record]) -> list[str]:
    """Return those of the wheels that can't be linked to."""
    base = nearest(wheels, others)
    there = others[base].wheels if base else {}
    return [name for name, sha256 in sorted(wheels.items()) if there.get(name) != sha256]


def nearest(wheels: Mapping[str, str], others: Mapping[Path, Record]) -> Path | None:
    """Return the directory that was made of the most of these wheels, the latest of those; None if all have none."""

    def rank(path: Path) -> tuple[int, str]:
        return len(wheels.items() & others[path].wheels.items()), others[path].finished

    best = max(others, key=rank, default=None)
    return best if best and rank(best)[0] else None


def link(source: Path, venv: Path) -> None:
    """Fill a new virtual environment with what wheels brought to another of the same Python, and nothing else of it.

    pip replaces files and writes none anew in place, so the other stays as it is.
    """
    for path in sorted(recorded(source)):
        target = venv / path.relative_to(source)
        if target.exists() or not path.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.parent == source / "bin":
            # A script begins with the path of its environment's Python.
            target.write_bytes(path.read_bytes().replace(os.fsencode(source), os.fsencode(venv)))
            shutil.copymode(path, target)
        else:
            _link(str(path), str(target))


def recorded(venv: Path) -> set[Path]:
    """Return the files of a virtual environment that wheels brought, as their RECORDs list them (PEP 376)."""
    found = set()
    for record in venv.glob("lib/python3*/site-packages/*.dist-info/RECORD"):
        with record.open(encoding="utf-8", newline="") as file:
            # Relative to site-packages, also for what lies elsewhere: ../../../bin/celery.
            paths = {Path(os.path.normpath(record.parents[1] / row[0])) for row in csv.reader(file) if row}
        found |= {path for path in paths if path.is_relative_to(venv)}
    return found


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _distribution(wheel: str) -> str:
    """Return the name of a wheel's distribution, in the one way that wheels write it."""
    return wheel.partition("-")[0].lower()


def _checked(run: Run, argv: list[str], failure: str) -> str:
    code, output, error = run(argv)
    if code:
        raise ReleaseError(f"{failure}:\n{(output + error).strip()[-3000:]}")
    return output
