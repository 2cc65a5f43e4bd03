"""Virtual environments that are made of an artifact's wheels alone."""

from __future__ import annotations

import csv
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

from ansible_collections.fleet.celery.plugins.module_utils._release import (
    Record,
    ReleaseError,
    file_sha256,
    unpack,
)

# Runs an argument list and returns its exit code, output and errors.
Run = Callable[[list[str]], tuple[int, str, str]]
VERSION = "import platform; print(platform.python_version())"
# Debian's installer of wheels. It copies files, and runs nothing of theirs; nor is the environment's Python run here,
# which would: root installs, and what is installed need not be trusted by it.
_INSTALL = """
import os, sys
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile


class Destination(SchemeDictionaryDestination):
    def write_to_fs(self, scheme, path, stream, is_executable):
        root = self.scheme_dict[scheme]
        target = os.path.normpath(os.path.join(root, path))
        if not target.startswith(root + os.sep):
            raise SystemExit(f"{wheel.name} holds {path}, which lies outside of the environment")
        # Another wheel may have brought the same file, as pip lets it.
        Path(target).unlink(missing_ok=True)
        return super().write_to_fs(scheme, path, stream, is_executable)


os.umask(0o022)
venv, site = sys.argv[1:3]
for wheel in map(Path, sys.argv[3:]):
    with WheelFile.open(wheel) as source:
        scripts, headers = os.path.join(venv, "bin"), os.path.join(venv, "include", "site", source.distribution)
        scheme = {"purelib": site, "platlib": site, "scripts": scripts, "data": venv, "headers": headers}
        destination = Destination(scheme, os.path.join(scripts, "python"), "posix")
        install(source, destination, {"INSTALLER": b"celery-fleet"})
"""
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
    """Make a directory with a virtual environment, complete or not at all, and return its record.

    Nothing of the wheels is run.

    A release seldom changes its dependencies. What it has in common with another is not installed again but linked,
    which takes a tenth of the time and no room.

    Args:
        python: what the environment is made with.
        source: directory of the wheels that no other has.
        record: its version, checksum and wheels; it is written last, so a directory without it is made anew.
        others: directories that this made with the same Python, unchanged since, with their records.
        installer: a Python that has Debian's python3-installer.

    Raises:
        ReleaseError: if a wheel is another one or can't be installed.
    """
    base = nearest(record.wheels, others)
    new = lacking(record.wheels, others)
    for name in new:
        if file_sha256(source / name) != record.wheels[name]:
            raise ReleaseError(f"{name} is not the file that was built: its checksum differs")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755, parents=True)
    venv = directory / "venv"
    make = [python, "-I", "-m", "venv", "--without-pip", str(venv)]
    _checked(run, make, "The virtual environment can't be made")
    version = _checked(run, [python, "-I", "-c", VERSION], f"{python} does not run")
    if base:
        link(base / "venv", venv, record.wheels.keys() - new)
    if new:
        site = venv / "lib" / f"python{version.rpartition('.')[0]}" / "site-packages"
        put = [installer, "-I", "-c", _INSTALL, str(venv), str(site), *(str(source / name) for name in new)]
        _checked(run, put, "The wheels can't be installed")
        # Its exit code tells of files that are no Python of this version, such as templates.
        run([python, "-I", "-m", "compileall", "-qq", str(site)])
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


def link(source: Path, venv: Path, wheels: Iterable[str]) -> None:
    """Fill a new virtual environment with what these wheels brought to another of the same Python, and nothing else.

    A file is replaced and never written in place, so the other stays as it is.
    """
    for path in sorted(recorded(source, wheels)):
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


def recorded(venv: Path, wheels: Iterable[str]) -> set[Path]:
    """Return the files of a virtual environment that wheels brought, as their RECORDs list them, and their bytecode.

    Source: the binary distribution format; a wheel's name begins as that of its .dist-info directory does.
    """
    names = {_normalized("-".join(name.split("-")[:2])) for name in wheels}
    found = set()
    for record in venv.glob("lib/python3*/site-packages/*.dist-info/RECORD"):
        if _normalized(record.parent.stem) not in names:
            continue
        with record.open(encoding="utf-8", newline="") as file:
            # Relative to site-packages, also for what lies elsewhere: ../../../bin/celery.
            paths = {Path(os.path.normpath(record.parents[1] / row[0])) for row in csv.reader(file) if row}
        paths = {path for path in paths if path.is_relative_to(venv)}
        python = record.parents[2].name.removeprefix("python").replace(".", "")
        code = {
            path.parent / "__pycache__" / f"{path.stem}.cpython-{python}.pyc" for path in paths if path.suffix == ".py"
        }
        found |= paths | code
    return found


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _checked(run: Run, argv: list[str], failure: str) -> str:
    code, output, error = run(argv)
    if code:
        raise ReleaseError(f"{failure}:\n{(output + error).strip()[-3000:]}")
    return output
