"""Artifacts: a release of an application and its dependencies as one file.

An artifact is a tar archive of wheels and a manifest with the SHA-256 of each. The controller builds it once for the
Python of the hosts, so hosts need neither an index nor a compiler.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from ansible_collections.fleet.celery.plugins.module_utils._libraries import needed_libraries
from ansible_collections.fleet.celery.plugins.module_utils._locked import locked
from ansible_collections.fleet.celery.plugins.module_utils._platforms import OLDEST_GLIBC
from ansible_collections.fleet.celery.plugins.module_utils._release import MANIFEST, ReleaseError, file_sha256, unpack
from ansible_collections.fleet.celery.plugins.module_utils._resolve import (
    Package,
    end_of,
    export_lock,
    locked_hashes,
    normalized,
    redacted,
    resolve,
)
from ansible_collections.fleet.celery.plugins.module_utils._tree import (
    copy_for_build,
    described,
    digest_of,
    is_buildable,
    left_out,
    pack_tree,
    read_pyproject,
    source_files,
)

if TYPE_CHECKING:
    from packaging.tags import Tag

#: The oldest supported version of Celery, also checked by celery_fleet_runtime.check.
OLDEST_CELERY = (5, 3)
# The earliest time in a zip archive. A fixed time makes builds reproducible.
_EPOCH = "315532800"
# The part of a wheel's platform tag before the machine.
_LINUX = re.compile(r"(?:many|musl)?linux(?:\d+|_\d+_\d+)?_")
# A requirement that is no path, with the name of the package.
_PACKAGE_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[^]]*\])?\s*([<>=!~].*)?")
_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tar")
# Lock files in formats of other tools.
_OTHER_LOCKS = ("poetry.lock", "pdm.lock", "Pipfile.lock", "pylock.toml")
# Lines of a requirements file that include another file, and lines that install a directory or a file.
_REFERENCE = re.compile(r"\s*(?:-r|--requirement|-c|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(\S+)(?:\s+#.*)?\s*")
_INSTALLED = re.compile(
    r"\s*(?:(?:-e|--editable)(?:\s*=\s*|\s+))?(?:[\w.-]+(?:\[[^]]*\])?\s*@\s*)?(?:file:(?://)?)?([^-\s\[;#:][^\s\[;#:]*)(?!\S*:)"
)


def find_requirements(source: Path | None, kept: Path) -> Path | None:
    """Return the requirements file of a source directory, if there is one.

    The first of: ``requirements.lock``, ``requirements.txt``, ``uv.lock``, and the ``pyproject.toml`` of a project that
    is deployed without a build.

    Args:
        kept: directory of requirements files that are made from a ``uv.lock``, each named after its content.

    Raises:
        ReleaseError: a file can't be read.
    """
    if source is None or not source.is_dir():
        return None
    for name in ("requirements.lock", "requirements.txt"):
        if (source / name).is_file():
            return source / name
    if (source / "uv.lock").is_file():
        text = export_lock(source)
        file = kept / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
        kept.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file
    if not is_buildable(source) and "dependencies" in read_pyproject(source).get("project", {}):
        return source / "pyproject.toml"
    return None


def unread_locks(source: Path | None, requirements: Path | None) -> list[str]:
    """Return the names of lock files of a source directory if no requirements file stands for them."""
    if source is None or not source.is_dir() or (requirements and requirements.name != "pyproject.toml"):
        return []
    return [name for name in _OTHER_LOCKS if (source / name).is_file()]


def _release_of(version: str) -> tuple[int, ...]:
    """Return major and minor number of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def minor_version(python: str) -> str:
    """Return the minor version of a Python, such as 3.11 for 3.11.2."""
    return ".".join(python.split(".")[:2])


def python_tag(python: str) -> str:
    """Return the tag of a Python in file names of artifacts, such as py311 for 3.11.2."""
    return f"py{minor_version(python).replace('.', '')}"


def _text(path: Path) -> str:
    """Return the text of a requirements file in UTF-8, or in UTF-16 with a byte order mark (Windows).

    Raises:
        ReleaseError: the file has another encoding.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReleaseError(f"{path} is not UTF-8: {error}. Save it as UTF-8") from error


def requirement_texts(path: Path, known: dict[Path, str] | None = None) -> dict[Path, str]:
    """Return the texts of a requirements file and of all files that it includes.

    Raises:
        ReleaseError: a file does not exist.
    """
    known = {} if known is None else known
    if path.resolve() not in known:
        if not path.is_file():
            raise ReleaseError(f"{path} does not exist")
        known[path.resolve()] = _text(path)
        for line in known[path.resolve()].splitlines():
            if (included := _REFERENCE.fullmatch(line)) and "://" not in included[1]:
                requirement_texts(path.parent / included[1], known)
    return known


def local_requirements(texts: Iterable[str], directory: Path) -> set[Path]:
    """Return the directories and files of the controller that requirements install.

    Args:
        directory: base directory of relative paths.
    """
    found = (_INSTALLED.match(line) for text in texts for line in text.splitlines())
    paths = {path[1] for path in found if path and ("/" in path[1] or path[1].startswith("."))}
    return {(directory / path).resolve() for path in paths if (directory / path).exists()}


def pip(arguments: Iterable[str], **environment: str) -> str:
    """Run the controller's pip with its own configuration, and return its output.

    Raises:
        ReleaseError: pip failed. The message has the end of its output.
    """
    run = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    if run.returncode:
        raise ReleaseError(f"pip {next(iter(arguments))} failed:\n{end_of(redacted(run.stdout + run.stderr))}")
    return run.stdout


def build_wheel(source: Path, directory: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Build the wheel of a source directory or an sdist, or copy a wheel. Return its path.

    Raises:
        ReleaseError: the build failed.
    """
    if source.suffix == ".whl":
        return Path(shutil.copy(source, directory))
    with tempfile.TemporaryDirectory() as temporary:
        copy = copy_for_build(source, Path(temporary)) if source.is_dir() else source
        wheels = Path(temporary) / "wheel"
        argv = ["wheel", "--no-deps", "--wheel-dir", str(wheels), str(copy)]
        pip(argv, **(environment or {}), SOURCE_DATE_EPOCH=_EPOCH)
        (built,) = wheels.glob("*.whl")
        return Path(shutil.copy(built, directory))


def wheel_version(wheel: str) -> tuple[str, str]:
    """Return the distribution's name and version from a wheel's file name (PEP 427)."""
    name, version = wheel.split("-")[:2]
    return name.replace("_", "-").lower(), version


def any_glibc(machine: str) -> list[str]:
    """Return the platform tags of wheels that a Linux with any glibc can install on a machine."""
    old = [f"manylinux{policy}_{machine}" for policy in ("1", "2010", "2014")]
    return [f"linux_{machine}", *old, *(f"manylinux_2_{glibc}_{machine}" for glibc in range(5, 100))]


def usable(wheelhouse: Path, python: str, platforms: list[str]) -> list[Path]:
    """Return the wheels of a directory that a Python on these platforms can install.

    Raises:
        ReleaseError: a file name is not a valid wheel filename.
    """
    tags = set(host_tags(python, "", platforms))
    wheels = sorted(wheelhouse.glob("*.whl"))
    if wrong := [path.name for path in wheels if not wheel_tags(path.name)]:
        raise ReleaseError(f"Invalid wheel filename in {wheelhouse}: {', '.join(wrong)}")
    return [path for path in wheels if wheel_tags(path.name) & tags]


def pack(wheels: Path, artifact: Path, manifest: Mapping[str, object]) -> None:
    """Write an artifact. Its bytes depend only on the wheels and the manifest."""
    files = {path.name: path.read_bytes() for path in sorted(wheels.glob("*.whl"))}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[MANIFEST] = json.dumps({**manifest, "wheels": sums}, indent=1, sort_keys=True).encode()
    artifact.parent.mkdir(parents=True, exist_ok=True)
    temporary = artifact.with_suffix(".part")
    with tarfile.open(temporary, "w") as tar:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    temporary.replace(artifact)


@dataclass(frozen=True)
class Inputs:
    """The inputs of an artifact.

    Attributes:
        source: a directory, an sdist or a wheel; None if everything comes from an index or a wheelhouse.
        package: a distribution of an index instead of a source, such as ``pretix==2026.7.2``.
        wheelhouse: a directory of wheels that replaces the index.
        requirements: a requirements file. If it has hashes, it must be complete.
        environment: variables for pip and uv, such as the URL of a private index. Secret.
    """

    source: Path | None = None
    package: str = ""
    wheelhouse: Path | None = None
    requirements: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """Raise ReleaseError for a missing path, and for a directory without a build and without requirements."""
        for path in (self.source, self.wheelhouse, self.requirements):
            if path is not None and not path.exists():
                hint = ""
                if path == self.source and (name := _PACKAGE_NAME.fullmatch(str(path))):
                    hint = (
                        " (celery_app_source). Name a package of the index with its exact version, such as "
                        f"{name[1]}==1.0, and a file or a directory by its absolute path"
                    )
                raise ReleaseError(f"{path} does not exist{hint}")
        if self.source and self.source.is_file() and not str(self.source).endswith(_ARCHIVES):
            raise ReleaseError(
                f"{self.source} (celery_app_source) is neither a directory nor a wheel (.whl), an sdist (.tar.gz, "
                ".zip) or an artifact (.tar). Set it to one of these"
            )
        if self.source and self.is_tree and not self.requirements:
            groups = read_pyproject(self.source).get("dependency-groups", {})
            lock = f", such as by uv pip compile --group {next(iter(groups))} -o requirements.lock" if groups else ""
            raise ReleaseError(
                f"{self.source} can't be built, because it has neither a pyproject.toml of a package nor a setup.py. "
                "It can't be deployed without a build, because it has no requirements.txt, no uv.lock, and no "
                f"dependencies in the [project] of a pyproject.toml. Add one of these{lock}, or set "
                "celery_app_requirements to such a file"
            )

    @property
    def is_tree(self) -> bool:
        """Return whether the source is a directory that is deployed without a build."""
        return self.source is not None and self.source.is_dir() and not is_buildable(self.source)

    @cached_property
    def texts(self) -> dict[Path, str]:
        """Return the texts of the requirements file and of all files that it includes.

        Raises:
            ReleaseError: a file can't be read.
        """
        return requirement_texts(self.requirements) if self.requirements else {}

    @property
    def directory(self) -> Path:
        """Return the base directory of relative paths in requirements."""
        if self.source and self.source.is_dir():
            return self.source
        return self.requirements.parent if self.requirements else Path("/")

    def key(self, python: str, machine: str) -> str:
        """Return a digest of everything that the artifact depends on, in 16 hexadecimal digits.

        Raises:
            ReleaseError: a requirements file can't be read.
        """
        texts = self.texts
        # The patch version of Python counts only if a marker uses it. Otherwise, a security update of the hosts' Python
        # would change the content of an existing release.
        exact = any("python_full_version" in text for text in texts.values())
        parts = [python if exact else minor_version(python), machine, self.package, *texts.values()]
        roots = [root for root in (self.source, self.wheelhouse) if root is not None]
        roots += sorted(local_requirements(texts.values(), self.directory) - {root.resolve() for root in roots})
        for root in roots:
            parts += [digest_of(source_files(root), root), described(root)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build(inputs: Inputs, *, directory: Path, python: str, machine: str) -> tuple[Path, bool]:
    """Return the artifact of these inputs, and whether this call built it. An existing artifact is not built again.

    Args:
        directory: directory of artifacts.
        python: Python version of the hosts, such as 3.11.2.
        machine: machine of the hosts, such as x86_64.

    Raises:
        ReleaseError: the build failed. The message has the reason.
    """
    inputs.check()
    key = inputs.key(python, machine)
    names = f"*-{python_tag(python)}-{key}.tar"
    if present := sorted(directory.glob(names)):
        return present[0], False
    with locked(directory):
        # Another run may have built it before this one got the lock.
        if present := sorted(directory.glob(names)):
            return present[0], False
        with tempfile.TemporaryDirectory() as temporary:
            wheels = Path(temporary)
            name, version = gather_wheels(inputs, wheels, kept=directory / "wheels", python=python, machine=machine)
            artifact = directory / f"{name}-{version or key}-{python_tag(python)}-{key}.tar"
            manifest = {"name": name, "version": version or key, "python": minor_version(python)}
            if inputs.source and inputs.source.is_dir() and not inputs.is_tree:
                (main,) = (path for path in wheels.glob("*.whl") if wheel_version(path.name) == (name, version))
                if missing := left_out(inputs.source, main):
                    manifest["left_out"] = "\n".join(missing)
            if libraries := needed_libraries(wheels.glob("*.whl")):
                manifest["libraries"] = "\n".join(libraries)
            pack(wheels, artifact, manifest)
    return artifact, True


def gather_wheels(inputs: Inputs, wheels: Path, *, kept: Path, python: str, machine: str) -> tuple[str, str]:
    """Collect the wheels of an artifact in an empty directory. Return its name, and its version or an empty text.

    Args:
        kept: directory of wheels that were downloaded for earlier artifacts.

    Raises:
        ReleaseError: a wheel can't be built or downloaded. The message has the reason.
    """
    main: Path | None = None
    lines = [inputs.package] if inputs.package else []
    texts = inputs.texts
    if inputs.source and inputs.is_tree:
        main = pack_tree(inputs.source, normalized(inputs.source.resolve().name), wheels)
    elif inputs.source:
        main = build_wheel(inputs.source, wheels, inputs.environment)
        if not usable(wheels, python, any_glibc(machine)):
            raise ReleaseError(
                f"{main.name} does not fit the hosts' Python {python} on {machine}, because it contains compiled code. "
                "Build its wheel on such a host (pip wheel), and set celery_app_source to the wheel"
            )
        if inputs.source.resolve() not in local_requirements(texts.values(), inputs.directory):
            lines.append(f"{wheel_version(main.name)[0]} @ {main.absolute().as_uri()}")
    own = wheel_version(main.name)[0] if main else ""
    if inputs.wheelhouse and not texts and not inputs.package:
        there = {wheel_version(path.name)[0] for path in usable(inputs.wheelhouse, python, any_glibc(machine))}
        lines += sorted(there - {own})
        if not lines:
            raise ReleaseError(
                f"{inputs.wheelhouse} (celery_app_wheelhouse) contains no wheels for Python {python} on {machine}"
            )
    found = resolve(
        lines,
        [inputs.requirements] if inputs.requirements else [],
        python=python,
        machine=machine,
        directory=inputs.directory,
        wheelhouse=inputs.wheelhouse,
        environment=inputs.environment,
    )
    others = [package for package in found if normalized(package.name) != own]
    for package in others:
        if package.name == "celery" and package.version and _release_of(package.version) < OLDEST_CELERY:
            raise ReleaseError(
                f"{package.title} is too old. Require celery>={'.'.join(map(str, OLDEST_CELERY))} of the application"
            )
    hashes = {} if inputs.wheelhouse else locked_hashes(texts.values())
    fetch(others, hashes, wheels, kept=kept, python=python, machine=machine, environment=inputs.environment)
    if main:
        return wheel_version(main.name)
    if inputs.package:
        name = normalized(inputs.package.partition("==")[0].partition("[")[0])
        return name, next(package.version for package in found if normalized(package.name) == name)
    origin = inputs.wheelhouse or inputs.requirements
    return (origin.name if origin else ""), ""


def fetch(
    packages: Sequence[Package],
    hashes: Mapping[str, set[str]],
    directory: Path,
    *,
    kept: Path,
    python: str,
    machine: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Download a wheel of each package into a directory. Build the wheels that the index does not have.

    Args:
        kept: directory of earlier downloads: each wheel is in a directory named after its SHA-256.
        hashes: allowed SHA-256 checksums of each package; if empty, the index's checksums apply.

    Raises:
        ReleaseError: a package has no wheel for the hosts. The message has the fix.
    """
    if unlocked := [package.title for package in packages if hashes and normalized(package.name) not in hashes]:
        raise ReleaseError(
            f"The requirements file has hashes, but none for {', '.join(unlocked)}. Lock all packages, such as by "
            "uv pip compile --generate-hashes, or remove all hashes"
        )
    tags = host_tags(python, machine)
    links, builds = [], []
    for package in packages:
        url = _best_wheel(package, hashes.get(normalized(package.name)), tags)
        if url is None:
            builds.append(package)
            continue
        sha256 = package.wheels[url]
        known = _path(url) or kept / sha256 / unquote(urlsplit(url).path).rpartition("/")[2]
        if known.is_file() and sha256 in ("", file_sha256(known)):
            shutil.copy(known, directory)
        else:
            links.append(_pinned(f"{package.name} @ {url}", sha256))
    environment = environment or {}
    with tempfile.TemporaryDirectory() as temporary:
        fetched = Path(temporary)
        for wheel in _download(links, fetched, python=python, machine=machine, environment=environment):
            known = kept / file_sha256(wheel) / wheel.name
            known.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(wheel, known)
            shutil.move(wheel, directory)
    for package in builds:
        allowed = hashes.get(normalized(package.name))
        of_index = package.wheels or package.source_sha256
        if allowed is not None and of_index and package.source_sha256 not in allowed:
            raise ReleaseError(
                f"The requirements file has no hash of a file of {package.title} that fits Python {python} on "
                f"{machine}. Lock it again. If it was locked for these hosts, find out who changed the files"
            )
        _build_missing(package, directory, python=python, machine=machine, environment=environment)


def _best_wheel(package: Package, allowed: set[str] | None, tags: Sequence[Tag]) -> str | None:
    """Return the URL of the package's best wheel for the hosts; None if no wheel fits.

    Args:
        allowed: allowed SHA-256 checksums; None allows any.
        tags: tags of the hosts, the best first.
    """
    wheels = [url for url, sha256 in package.wheels.items() if allowed is None or sha256 in allowed]
    ranks = {url: min((tags.index(tag) for tag in wheel_tags(url) if tag in tags), default=None) for url in wheels}
    fit = {url: rank for url, rank in ranks.items() if rank is not None}
    return min(fit, key=lambda url: fit[url], default=None)


def _download(
    requirements: Sequence[str], directory: Path, *, python: str, machine: str, environment: Mapping[str, str]
) -> list[Path]:
    """Download the wheels of requirements with a URL into an empty directory, and return their paths.

    Raises:
        ReleaseError: a download failed, or a wheel has another checksum.
    """
    if not requirements:
        return []
    # Not as arguments, which all users can read: a URL may contain a password.
    file = directory / "requirements.txt"
    file.write_text("\n".join(requirements), encoding="utf-8")
    major, minor = python.split(".")[:2]
    options = ["--no-deps", "--implementation=cp", f"--python-version={python}"]
    options += [f"--abi={abi}" for abi in (f"cp{major}{minor}", "abi3", "none")]
    options += [f"--platform={name}" for name in _platforms(machine)]
    pip(["download", *options, f"--dest={directory}", f"--requirement={file}"], **environment)
    return sorted(directory.glob("*.whl"))


def _build_missing(
    package: Package, directory: Path, *, python: str, machine: str, environment: Mapping[str, str]
) -> None:
    """Build the wheel of a package from its source.

    Raises:
        ReleaseError: the build failed, or the wheel may not run on the hosts.
    """
    failure = f"{package.title} has no wheel for Python {python} on {machine}"
    exact = f"{package.name}=={package.version}" if package.version else package.name
    way_out = (
        f"Build its wheel on such a host: pip wheel --no-deps {exact}. Copy it to a directory of the controller, and "
        "add the line --find-links DIRECTORY to the requirements file (celery_app_requirements). Or set "
        "celery_app_wheelhouse to a directory of all wheels"
    )
    if not package.source:
        raise ReleaseError(f"{failure}, and no source to build one from. {way_out}")
    with tempfile.TemporaryDirectory() as temporary:
        source = package.source
        if (tree := _path(source.partition(" @ ")[2])) and tree.is_dir():
            source = str(copy_for_build(tree, Path(temporary)))
        wheels = Path(temporary) / "wheels"
        try:
            requirement = _pinned(source, package.source_sha256)
            pip(["wheel", "--no-deps", f"--wheel-dir={wheels}", requirement], **environment, SOURCE_DATE_EPOCH=_EPOCH)
        except ReleaseError as error:
            raise ReleaseError(f"{failure}, and none can be built here: {error}\n{way_out}") from error
        (built,) = wheels.glob("*.whl")
        portable = [name for name in _platforms(machine) if not name.startswith("linux_")]
        # Compiled code may need a newer glibc than the hosts have.
        platforms = _platforms(machine) if _is_as_old_as_hosts(machine) else portable
        if not usable(wheels, python, platforms):
            raise ReleaseError(f"{failure}, and {built.name}, built here, may not run there. {way_out}")
        shutil.copy(built, directory)


def _is_as_old_as_hosts(machine: str) -> bool:
    """Return whether code that is compiled on this machine runs with the glibc of the oldest supported system."""
    name, version = platform.libc_ver()
    oldest = tuple(int(part) for part in OLDEST_GLIBC.split("_"))
    return platform.machine() == machine and name == "glibc" and _release_of(version) <= oldest


def _path(url: str) -> Path | None:
    """Return the path of a file URL; None for another URL."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _pinned(requirement: str, sha256: str) -> str:
    """Return a requirement with a URL and the SHA-256 checksum of its file."""
    if not sha256:
        return requirement
    return f"{requirement}{'&' if '#' in requirement else '#'}sha256={sha256}"


def _platforms(machine: str) -> list[str]:
    """Return the platform tags of wheels that run on the oldest supported system, the best first."""
    newest = int(OLDEST_GLIBC.rpartition("_")[2])
    old = [f"manylinux{policy}_{machine}" for policy in ("2014", "2010", "1")]
    return [*(f"manylinux_2_{glibc}_{machine}" for glibc in range(newest, 4, -1)), *old, f"linux_{machine}"]


def host_tags(python: str, machine: str, platforms: Sequence[str] = ()) -> list[Tag]:
    """Return the tags (PEP 425) of wheels that a Python on a machine can install, the best first."""
    from packaging.tags import compatible_tags, cpython_tags  # noqa: PLC0415 - on the controller only

    major, minor = (int(number) for number in python.split(".")[:2])
    platforms = platforms or _platforms(machine)
    return [
        *cpython_tags((major, minor), platforms=platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]


def wheel_tags(url: str) -> frozenset[Tag]:
    """Return the tags of a wheel from its path or URL; empty if the file name is not a valid wheel filename."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename  # noqa: PLC0415 - on the controller only

    try:
        return parse_wheel_filename(unquote(urlsplit(url).path).rpartition("/")[2])[3]
    except InvalidWheelFilename:
        return frozenset()


def manifest_of(artifact: Path) -> dict[str, str]:
    """Return the manifest of an artifact: name, version, python and wheels."""
    with tarfile.open(artifact) as tar:
        member = tar.extractfile(MANIFEST) if MANIFEST in tar.getnames() else None
        if member is None:
            raise ReleaseError(f"{artifact} has no manifest")
        manifest: dict[str, str] = json.loads(member.read())
        return manifest


def machines_of(wheels: Iterable[Path]) -> str:
    """Return the machines in the platform tags of wheels; empty if all wheels run on any machine."""
    platforms = {platform for path in wheels for platform in path.stem.rpartition("-")[2].split(".")}
    return ", ".join(sorted({_LINUX.sub("", platform) for platform in platforms - {"any"}}))


def ready_artifact(inputs: Inputs, *, python: str, machine: str) -> Path | None:
    """Return the source if it is an artifact; None if an artifact must be built from it.

    Args:
        python: Python version of the hosts, such as 3.11.2.
        machine: machine of the hosts, such as x86_64.

    Raises:
        ReleaseError: the artifact is damaged or for other hosts, or a wheelhouse or requirements are set as well.
    """
    source = inputs.source
    if source is None or source.suffix != ".tar" or not source.is_file():
        return None
    others = {"celery_app_wheelhouse": inputs.wheelhouse, "celery_app_requirements": inputs.requirements}
    for name, path in others.items():
        if path is not None:
            raise ReleaseError(
                f"{source} (celery_app_source) is an artifact, which contains all of its dependencies. Remove {name}"
            )
    with tempfile.TemporaryDirectory() as temporary:
        try:
            wheels = [Path(temporary, name) for name in unpack(source, Path(temporary))]
            manifest = manifest_of(source)
            if not wheels or not all(isinstance(manifest[key], str) for key in ("name", "version", "python")):
                raise ReleaseError("it contains no wheels, or its manifest is invalid")
            unfit = sorted(set(wheels) - set(usable(Path(temporary), python, any_glibc(machine))))
        except (ReleaseError, tarfile.TarError, OSError, LookupError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ReleaseError(
                f"{source} (celery_app_source) is not a valid artifact of fleet.celery.celery_artifact: {reason}. "
                "Build it again, or set celery_app_source to a directory, an sdist (.tar.gz) or a wheel"
            ) from error
    # Wheels that run on any Python are not enough: dependencies may differ between versions of Python.
    if unfit or manifest["python"] != minor_version(python):
        machines = machines_of(wheels)
        made_for = f"Python {manifest['python']}{machines and f' on {machines}'}"
        hosts = f"Python {python} on {machine}"
        where = f", where {', '.join(path.name for path in unfit)} can't be installed" if unfit else ""
        raise ReleaseError(
            f"{source} (celery_app_source) was built for {made_for}, but hosts have {hosts}{where}. "
            "Set it to an artifact for these hosts, or to a directory, an sdist or a wheel"
        )
    return source
