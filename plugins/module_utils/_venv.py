"""Virtual environments that are made of an artifact's wheels alone, one directory a content."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ansible_collections.fleet.celery.plugins.module_utils._release import (
    Record,
    ReleaseError,
    file_sha256,
    read_record,
    unpack,
)

# Runs an argument list and returns its exit code, output and errors.
Run = Callable[[list[str]], tuple[int, str, str]]


def directory_of(root: Path, version: str, sha256: str) -> Path:
    """Return the directory of an artifact: another content of the same version has another."""
    return root / f"{version}-{sha256[:12]}"


def install(run: Run, python: str, artifact: Path, record: Record, directory: Path) -> None:
    """Make a directory with a virtual environment, complete or not at all.

    Args:
        python: what the environment is made with.
        record: the artifact's version and checksum; it is written last, so a directory without it is made anew.

    Raises:
        ReleaseError: if the artifact is another one or can't be installed.
    """
    if file_sha256(artifact) != record.sha256:
        raise ReleaseError(f"{artifact} is not the artifact that was built: its checksum differs")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755, parents=True)
    pip = [str(directory / "venv" / "bin" / "pip"), "--isolated", "--disable-pip-version-check", "--no-input"]
    _checked(run, [python, "-m", "venv", str(directory / "venv")], "The virtual environment can't be made")
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        wheels = [str(path) for path in unpack(artifact, Path(temporary))]
        arguments = ["install", "--no-index", "--no-deps", "--no-cache-dir", *wheels]
        _checked(run, [*pip, *arguments], "The wheels can't be installed")
    _checked(run, [*pip, "check"], "The wheels don't fit together")
    record.write(directory)


def prune(root: Path, current: Path) -> None:
    """Remove what is older than the current directory and the one before, which may still be running."""
    others = [path for path in root.iterdir() if path != current and read_record(path)]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[1:]:
        shutil.rmtree(path)


def _checked(run: Run, argv: list[str], failure: str) -> None:
    code, output, error = run(argv)
    if code:
        raise ReleaseError(f"{failure}:\n{(output + error).strip()[-3000:]}")
