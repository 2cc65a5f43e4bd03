"""Source directories: their files, copies for a build, and wheels of directories that have no build."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError, file_sha256

_LEFTOVERS = shutil.ignore_patterns(".*", "__pycache__", "*.pyc", "*.egg-info", "node_modules")
# Only at the top: in subdirectories, these may be packages.
_LEFTOVERS_AT_TOP = {"build", "dist", "venv", "htmlcov"}
# The earliest time in a zip archive.
_EPOCH = (1980, 1, 1, 0, 0, 0)
# Files that a running application does not read.
_SOURCES = {".py", ".pyi", ".pyx", ".pxd", ".c", ".cc", ".cpp", ".h", ".rs", ".po", ".pot", ".md", ".rst"}
_TESTS = {"test", "tests"}
#: Directory in a virtual environment for an application without a build. It is on PYTHONPATH.
TREE = "src"


def read_pyproject(source: Path) -> dict[str, Any]:
    """Return the content of a directory's pyproject.toml; empty if there is none.

    Raises:
        ReleaseError: the pyproject.toml can't be read.
    """
    try:
        return tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise ReleaseError(f"{source / 'pyproject.toml'} can't be read: {error}") from error


def is_buildable(source: Path) -> bool:
    """Return whether a directory is a package that pip builds a wheel from.

    It has a setup.py, or a pyproject.toml with a build system or entry points. As in uv, a project without a build
    system is no package: setuptools would build it without its templates and other data files. ``package`` of
    ``[tool.uv]`` overrides this.

    Raises:
        ReleaseError: the pyproject.toml can't be read.
    """
    pyproject = read_pyproject(source)
    tool, project = pyproject.get("tool", {}), pyproject.get("project", {})
    if (declared := tool.get("uv", {}).get("package")) is not None:
        return bool(declared)
    if "build-system" in pyproject or (source / "setup.py").is_file():
        return True
    return "setuptools" in tool or bool({"scripts", "gui-scripts", "entry-points"} & project.keys())


def _leads_nowhere(path: Path) -> bool:
    """Return whether a path is a dangling link, or a link to a directory above it."""
    return path.is_symlink() and (not path.exists() or path.absolute().is_relative_to(path.resolve()))


def _ignore(source: Path) -> Callable[[str, list[str]], set[str]]:
    """Return a function for the option ignore of shutil.copytree."""

    def ignored(directory: str, names: list[str]) -> set[str]:
        here = Path(directory)
        top = _LEFTOVERS_AT_TOP & set(names) if here == source else set()
        left_out = _LEFTOVERS(directory, names) | top | {name for name in names if _leads_nowhere(here / name)}
        # Build tools read .gitignore.
        return left_out - {".gitignore"}

    return ignored


def source_files(source: Path) -> Iterator[Path]:
    """Yield the files that a build reads, in a fixed order, without leftovers of earlier builds."""
    if source.is_file():
        yield source
        return
    leave_out = _ignore(source)
    # A build follows links.
    for directory, folders, files in os.walk(source, followlinks=True):
        ignored = leave_out(directory, [*folders, *files])
        folders[:] = sorted(set(folders) - ignored)
        yield from (Path(directory) / name for name in sorted(set(files) - ignored))


def digest_of(files: Iterable[Path], root: Path, *more: str) -> str:
    """Return a digest of the names and contents of files, and of some texts."""
    total = hashlib.sha256("\0".join(more).encode())
    for path in files:
        name = path.relative_to(root) if path.is_relative_to(root) else path.name
        total.update(f"\0{name}\0{file_sha256(path)}".encode())
    return total.hexdigest()


def _git(directory: Path, *arguments: str) -> str | None:
    """Return the output of a git command in a directory; None if it fails or there is no repository."""
    try:
        run = subprocess.run(
            ["git", "-C", str(directory), *arguments],  # noqa: S607 - the user's git, wherever it is
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except FileNotFoundError:
        return None
    return run.stdout if run.returncode == 0 else None


def described(source: Path) -> str:
    """Return git's description of a directory whose build takes its version from git; empty for others."""
    if not source.is_dir() or not is_buildable(source) or _has_version(source):
        return ""
    return (_git(source, "describe", "--tags", "--always", "--dirty") or "").strip()


def _has_version(source: Path) -> bool:
    """Return whether a pyproject.toml has a static version."""
    return "version" in read_pyproject(source).get("project", {})


def copy_for_build(source: Path, temporary: Path) -> Path:
    """Copy a source directory, because a build writes into it, and return the copy.

    The copy of a git repository is a clone with the uncommitted changes, as build tools take the version from git.

    Raises:
        ReleaseError: it can't be copied.
    """
    top = _git(source, "rev-parse", "--show-toplevel")
    clone = temporary / "repository"
    try:
        if top and _git(source, "clone", "--quiet", "--shared", top.rstrip("\n"), str(clone)) is not None:
            copy = clone / source.resolve().relative_to(Path(top.rstrip("\n")).resolve())
            _remove_deleted(source, copy)
        else:
            copy = temporary / "source"
        shutil.copytree(source, copy, ignore=_ignore(source), dirs_exist_ok=True)
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{source} can't be copied: {error}") from error
    return copy


def _remove_deleted(source: Path, copy: Path) -> None:
    """Remove from a clone the files that were deleted in its origin's working tree."""
    for name in (_git(source, "ls-files", "-z", "--deleted") or "").split("\0"):
        if name:
            (copy / name).unlink(missing_ok=True)


def tree_files(source: Path) -> list[Path]:
    """Return the files of a directory without a build that git does not ignore, in a fixed order."""
    listed = _git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    files = source_files(source)
    if listed is not None:
        names = set(listed.split("\0"))
        files = (path for path in files if str(path.relative_to(source)) in names)
    return sorted(path for path in files if path.name != ".gitignore")


def left_out(source: Path, wheel: Path) -> list[str]:
    """Return the data files in the packages of a directory that its wheel does not contain, in a fixed order."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    packages = {name.partition("/")[0] for name in packed if name.endswith("/__init__.py")}
    missing = []
    for path in tree_files(source):
        inside = path.relative_to(source)
        if is_src_layout(source) and inside.parts[0] == "src":
            inside = inside.relative_to("src")
        is_data = path.suffix not in _SOURCES and not _TESTS & set(inside.parts)
        if is_data and inside.parts[0] in packages and inside.as_posix() not in packed:
            missing.append(str(path.relative_to(source)))
    return missing


def is_src_layout(source: Path) -> bool:
    """Return whether the packages of a directory are in its directory src."""
    return (source / "src").is_dir() and not (source / "src" / "__init__.py").exists()


def pack_tree(source: Path, name: str, directory: Path) -> Path:
    """Write a wheel that installs a directory unchanged as src in the virtual environment, and return its path.

    With the src layout, a .pth file adds the directory src of the source to Python's path.

    The version is a hash of the content, so the same content gives the same release.

    Args:
        name: name of the distribution.

    Raises:
        ReleaseError: if git ignores all files of the directory, or it has none.
    """
    files = tree_files(source)
    if not files:
        top = (_git(source, "rev-parse", "--show-toplevel") or "").strip()
        ignored = f" that git does not ignore in the repository {top}" if top else ""
        raise ReleaseError(
            f"{source} (celery_app_source) has no file{ignored}. Name a directory that has, or remove what matches it "
            "from .gitignore"
        )
    contents = {str(path.relative_to(source)): path for path in files}
    version = f"0+{digest_of(files, source)[:12]}"
    project = name.replace("-", "_")
    info = f"{project}-{version}.dist-info"
    wheel = directory / f"{project}-{version}-py3-none-any.whl"
    layout = {f"{project}.pth": f"../../../{TREE}/src\n"} if is_src_layout(source) else {}
    texts = layout | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: celery-fleet\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(member: str, content: bytes, mode: int) -> None:
            entry = zipfile.ZipInfo(member, _EPOCH)
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f'"{member}",sha256={digest},{len(content)}\n')

        for member, path in sorted(contents.items()):
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            add(f"{project}-{version}.data/data/{TREE}/{member}", path.read_bytes(), mode)
        for member, text in texts.items():
            add(member, text.encode(), 0o644)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", _EPOCH), "".join([*record, f"{info}/RECORD,,\n"]))
    return wheel
