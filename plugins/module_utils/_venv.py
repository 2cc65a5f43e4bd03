"""Virtual environments from the wheels of an artifact."""

from __future__ import annotations

import csv
import inspect
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from ansible_collections.fleet.celery.plugins.module_utils import _install_wheels
from ansible_collections.fleet.celery.plugins.module_utils._release import (
    Record,
    ReleaseError,
    file_sha256,
    unpack,
)

# Runs an argument list, and returns its exit code, stdout and stderr.
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
    installer: str = "/usr/bin/python3",
) -> Record:
    """Create a directory with a virtual environment, and return its record. No code of the wheels is run.

    Wheels that another environment has are hard-linked from there, which takes a tenth of the time and no space. A
    release seldom changes its dependencies.

    Args:
        python: Python interpreter of the environment.
        source: directory of the wheels that no other environment has.
        record: its version, checksum and wheels. It is written last, so an incomplete directory is replaced.
        others: unchanged directories of the same Python that this function created, with their records.
        installer: Python interpreter with Debian's python3-installer.

    Raises:
        ReleaseError: the checksum of a wheel differs, or it can't be installed.
    """
    base = nearest(record.wheels, others)
    new = lacking(record.wheels, others)
    for name in new:
        if file_sha256(source / name) != record.wheels[name]:
            raise ReleaseError(f"{name} has another checksum than the wheel that was built. Rerun to send it again")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755, parents=True)
    venv = directory / "venv"
    make = [python, "-I", "-m", "venv", "--without-pip", str(venv)]
    _checked(run, make, f"The virtual environment {venv} can't be created")
    version = _checked(run, [python, "-I", "-c", VERSION], f"{python} can't be run")
    if base:
        link(base / "venv", venv, record.wheels.keys() - new)
    if new:
        site = venv / "lib" / f"python{version.rpartition('.')[0]}" / "site-packages"
        program = [installer, "-I", "-c", inspect.getsource(_install_wheels)]
        put = [*program, str(venv), str(site), *(str(source / name) for name in new)]
        _checked(run, put, f"The wheels can't be installed into {venv}")
        # It fails on files that are no Python of this version, such as templates, so its exit code is ignored.
        run([python, "-I", "-m", "compileall", "-qq", str(site)])
    finished = datetime.now(tz=UTC).isoformat(timespec="seconds")
    record = replace(record, python=version.strip(), finished=finished)
    record.write(directory)
    return record


@contextmanager
def unpacked(artifact: Path, sha256: str, beside: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Unpack an artifact for the block. Yield the directory, and the wheels with their checksums.

    Args:
        sha256: checksum of the artifact.
        beside: directory in which a temporary one is created.

    Raises:
        ReleaseError: the checksum differs.
    """
    if file_sha256(artifact) != sha256:
        raise ReleaseError(f"{artifact} has another checksum than the artifact that was built. Copy it again")
    beside.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".wheels-") as temporary:
        yield Path(temporary), unpack(artifact, Path(temporary))


def lacking(wheels: Mapping[str, str], others: Mapping[Path, Record]) -> list[str]:
    """Return the wheels that can't be linked from another environment."""
    base = nearest(wheels, others)
    there = others[base].wheels if base else {}
    return [name for name, sha256 in sorted(wheels.items()) if there.get(name) != sha256]


def nearest(wheels: Mapping[str, str], others: Mapping[Path, Record]) -> Path | None:
    """Return the environment with the most of these wheels, the latest one of several; None if none has any."""

    def rank(path: Path) -> tuple[int, str]:
        return len(wheels.items() & others[path].wheels.items()), others[path].finished

    best = max(others, key=rank, default=None)
    return best if best and rank(best)[0] else None


def link(source: Path, venv: Path, wheels: Iterable[str]) -> None:
    """Link the files of these wheels from another environment of the same Python.

    Files are replaced and never written in place, so the other environment does not change.
    """
    for path in sorted(recorded(source, wheels)):
        target = venv / path.relative_to(source)
        if target.exists() or not path.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.parent == source / "bin":
            # The first line of a script has the path of its environment's Python.
            target.write_bytes(path.read_bytes().replace(os.fsencode(source), os.fsencode(venv)))
            shutil.copymode(path, target)
        else:
            _link(str(path), str(target))


def recorded(venv: Path, wheels: Iterable[str]) -> set[Path]:
    """Return the files of wheels in a virtual environment, from their RECORDs, and the bytecode of these files.

    Source: the binary distribution format. The names of a wheel and of its .dist-info directory begin the same.
    """
    names = {_normalized("-".join(name.split("-")[:2])) for name in wheels}
    files = set()
    for record in venv.glob("lib/python3*/site-packages/*.dist-info/RECORD"):
        if _normalized(record.parent.stem) not in names:
            continue
        with record.open(encoding="utf-8", newline="") as file:
            # Paths are relative to site-packages, e.g. ../../../bin/celery.
            paths = {Path(os.path.normpath(record.parents[1] / row[0])) for row in csv.reader(file) if row}
        paths = {path for path in paths if path.is_relative_to(venv)}
        python = record.parents[2].name.removeprefix("python").replace(".", "")
        code = {
            path.parent / "__pycache__" / f"{path.stem}.cpython-{python}.pyc" for path in paths if path.suffix == ".py"
        }
        files |= paths | code
    return files


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copy2(source, target)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _checked(run: Run, argv: list[str], failure: str) -> str:
    code, output, error = run(argv)
    if code:
        raise ReleaseError(f"{failure}:\n{(output + error).strip()[-3000:]}")
    return output
