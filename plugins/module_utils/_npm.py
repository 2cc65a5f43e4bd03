"""Node.js programs: fetched once on the controller as a lock says, and unpacked on hosts that have no npm."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ansible_collections.fleet.celery.plugins.module_utils._locked import locked
from ansible_collections.fleet.celery.plugins.module_utils._release import Record, ReleaseError, file_sha256

_FILES = ("package.json", "package-lock.json")
_LOCK_VERSION = 3
# Scripts of packages never run. What is optional is code that is compiled, or a faster way to do the same.
_OPTIONS = ["--ignore-scripts", "--omit=dev", "--omit=optional", "--no-audit", "--no-fund"]


def check_lock(path: Path) -> tuple[str, str]:
    """Return name and version of the program that a lock is for.

    Raises:
        ReleaseError: if npm could install something other than what was locked.
    """
    lock = json.loads(path.read_text(encoding="utf-8"))
    if lock.get("lockfileVersion") != _LOCK_VERSION:
        raise ReleaseError(f"{path} is no lock of version {_LOCK_VERSION}, as npm 7 and newer write it")
    packages = {name: package for name, package in lock["packages"].items() if name}
    # A link, a directory or a repository has no hash.
    open_ends = [name for name, entry in packages.items() if not entry.get("integrity", "").startswith("sha512-")]
    if open_ends:
        raise ReleaseError(f"{path} has no SHA-512 for {', '.join(open_ends)}")
    return lock["name"], lock["version"]


def npm_ci(directory: Path) -> None:
    """Install what a directory's lock names, each package checked against its hash.

    npm takes registry, certificates and credentials from the user's own configuration.

    Raises:
        ReleaseError: with the end of what npm said.
    """
    try:
        run = subprocess.run(
            ["npm", "ci", *_OPTIONS],  # noqa: S607 - the user's npm, wherever it is
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ReleaseError("npm fetches the packages and is missing on the controller (apt install npm)") from error
    if run.returncode:
        raise ReleaseError(f"npm ci failed:\n{(run.stdout + run.stderr)[-3000:]}")


def pack(node_modules: Path, artifact: Path) -> None:
    """Write a tar whose bytes depend on nothing but the packages' files.

    Raises:
        ReleaseError: if there is something else than files and directories.
    """
    # npm's own notes and its links to commands. Nothing needs them, and they differ from npm to npm.
    notes = {node_modules / ".package-lock.json"}
    paths = [
        path
        for path in (node_modules, *sorted(node_modules.rglob("*")))
        if ".bin" not in path.relative_to(node_modules).parts and path not in notes
    ]
    artifact.parent.mkdir(parents=True, exist_ok=True)
    temporary = artifact.with_suffix(".part")
    with tarfile.open(temporary, "w") as tar:
        for path in paths:
            member = tarfile.TarInfo(str(path.relative_to(node_modules.parent)))
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ReleaseError(f"{member.name} is neither a file nor a directory")
            if path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
                continue
            member.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)
    temporary.replace(artifact)


def build(source: Path, directory: Path) -> tuple[Path, str, bool]:
    """Return the artifact of a lock, built unless it is there already, its version, and whether it was built.

    Args:
        source: a directory with package.json and package-lock.json.
        directory: where artifacts are kept.

    Raises:
        ReleaseError: if it can't be built; the text says why.
    """
    files = [source / name for name in _FILES]
    for file in files:
        if not file.is_file():
            raise ReleaseError(f"{file} is not there")
    name, version = check_lock(files[1])
    key = hashlib.sha256("\n".join(file_sha256(file) for file in files).encode()).hexdigest()[:16]
    artifact = directory / f"{name}-{version}-npm-{key}.tar"
    if artifact.exists():
        return artifact, version, False
    with locked(directory), tempfile.TemporaryDirectory() as temporary:
        # Another run may have built it meanwhile.
        if artifact.exists():
            return artifact, version, False
        for file in files:
            shutil.copy(file, temporary)
        npm_ci(Path(temporary))
        pack(Path(temporary) / "node_modules", artifact)
    return artifact, version, True


def install(artifact: Path, record: Record, directory: Path) -> None:
    """Make a directory of an artifact's packages, complete or not at all.

    Args:
        record: the artifact's version and checksum; it is written last, so a directory without it is made anew.

    Raises:
        ReleaseError: if the artifact is another one.
    """
    if file_sha256(artifact) != record.sha256:
        raise ReleaseError(f"{artifact} is not the artifact that was built: its checksum differs")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755, parents=True)
    with tarfile.open(artifact) as tar:
        # Unlike Python's own preset for data, this keeps the modes of directories, whatever root's umask.
        tar.extraction_filter = getattr(tarfile, "tar_filter", lambda member, _: member)
        tar.extractall(directory)  # noqa: S202 - its checksum is that of what was built
    record.write(directory)
