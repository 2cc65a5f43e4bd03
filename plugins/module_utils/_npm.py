"""Artifacts of Node.js programs: built on the controller from a lock file, unpacked on hosts without npm."""

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
# Install scripts are never run. Optional packages need a compiler, or are only faster.
_OPTIONS = ["--ignore-scripts", "--omit=dev", "--omit=optional", "--no-audit", "--no-fund"]


def check_lock(path: Path) -> tuple[str, str]:
    """Validate a lock file, and return the name and the version of its program.

    Raises:
        ReleaseError: the lock file does not fix the content of all packages.
    """
    lock = json.loads(path.read_text(encoding="utf-8"))
    if lock.get("lockfileVersion") != _LOCK_VERSION:
        raise ReleaseError(
            f"{path} does not have lockfileVersion {_LOCK_VERSION}. Write it anew with npm 7 or later: npm install"
        )
    packages = {name: package for name, package in lock["packages"].items() if name}
    # Links, directories and repositories have no hash.
    open_ends = [name for name, entry in packages.items() if not entry.get("integrity", "").startswith("sha512-")]
    if open_ends:
        raise ReleaseError(f"{path} has no SHA-512 for {', '.join(open_ends)}. Depend on packages of a registry only")
    return lock["name"], lock["version"]


def npm_ci(directory: Path) -> None:
    """Install the packages of a directory's lock file. npm verifies each against its hash.

    npm reads the registry, certificates and credentials from the user's own configuration.

    Raises:
        ReleaseError: npm is missing, or fails.
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
        raise ReleaseError(
            "npm, which fetches the packages, is missing on the controller. Install it: apt install npm"
        ) from error
    if run.returncode:
        raise ReleaseError(f"npm ci failed:\n{(run.stdout + run.stderr)[-3000:]}")


def pack(node_modules: Path, artifact: Path) -> None:
    """Write a reproducible tar file of the packages.

    Raises:
        ReleaseError: there is an entry that is neither a file nor a directory.
    """
    # npm's own metadata and its links to commands are not needed, and differ between versions of npm.
    metadata = {node_modules / ".package-lock.json"}
    paths = [
        path
        for path in (node_modules, *sorted(node_modules.rglob("*")))
        if ".bin" not in path.relative_to(node_modules).parts and path not in metadata
    ]
    artifact.parent.mkdir(parents=True, exist_ok=True)
    temporary = artifact.with_suffix(".part")
    with tarfile.open(temporary, "w") as tar:
        for path in paths:
            member = tarfile.TarInfo(str(path.relative_to(node_modules.parent)))
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ReleaseError(
                    f"{member.name} is neither a file nor a directory. Remove the package that contains it"
                )
            if path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
                continue
            member.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(member, file)
    temporary.replace(artifact)


def build(source: Path, directory: Path) -> tuple[Path, str, bool]:
    """Build the artifact of a lock file unless it exists, and return its path, its version, and whether it was built.

    Args:
        source: directory with package.json and package-lock.json.
        directory: the artifact cache.

    Raises:
        ReleaseError: the artifact can't be built.
    """
    files = [source / name for name in _FILES]
    for file in files:
        if not file.is_file():
            raise ReleaseError(f"{file} does not exist. Set source to a directory with {' and '.join(_FILES)}")
    name, version = check_lock(files[1])
    key = hashlib.sha256("\n".join(file_sha256(file) for file in files).encode()).hexdigest()[:16]
    artifact = directory / f"{name}-{version}-npm-{key}.tar"
    if artifact.exists():
        return artifact, version, False
    with locked(directory), tempfile.TemporaryDirectory() as temporary:
        # Another run may have built it.
        if artifact.exists():
            return artifact, version, False
        for file in files:
            shutil.copy(file, temporary)
        npm_ci(Path(temporary))
        pack(Path(temporary) / "node_modules", artifact)
    return artifact, version, True


def install(artifact: Path, record: Record, directory: Path) -> None:
    """Unpack an artifact to a directory.

    Args:
        record: the artifact's version and checksum. It is written last, so an incomplete directory is replaced.

    Raises:
        ReleaseError: the checksum differs.
    """
    if file_sha256(artifact) != record.sha256:
        raise ReleaseError(f"{artifact} has another checksum than the artifact that was built. Copy it again")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o755, parents=True)
    with tarfile.open(artifact) as tar:
        # Unlike Python's data filter, the tar filter keeps the modes of directories, whatever root's umask.
        tar.extraction_filter = getattr(tarfile, "tar_filter", lambda member, _: member)
        tar.extractall(directory)  # noqa: S202 - its checksum was verified
    record.write(directory)
