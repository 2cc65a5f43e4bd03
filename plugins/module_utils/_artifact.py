"""Artifacts: an application's release as one file, with everything that it is installed from.

An artifact is a tar of wheels and a manifest with the SHA-256 of each. It is built once on the controller, for the
Python of the hosts, which then need no index and no compiler.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
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

from ansible_collections.fleet.celery.plugins.module_utils._locked import locked
from ansible_collections.fleet.celery.plugins.module_utils._platforms import OLDEST_GLIBC
from ansible_collections.fleet.celery.plugins.module_utils._release import MANIFEST, ReleaseError, file_sha256, unpack
from ansible_collections.fleet.celery.plugins.module_utils._resolve import (
    Package,
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
    pack_tree,
    source_files,
)

if TYPE_CHECKING:
    from packaging.tags import Tag

# So that one source gives one and the same wheel: the earliest time that a zip can hold.
_EPOCH = "315532800"
# What a wheel's platform says before the machine.
_LINUX = re.compile(r"(?:many|musl)?linux(?:\d+|_\d+_\d+)?_")
# Lines of a requirements file that name another file, and those that name a directory or a file to install.
_REFERENCE = re.compile(r"\s*(?:-r|--requirement|-c|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(\S+)(?:\s+#.*)?\s*")
_INSTALLED = re.compile(
    r"\s*(?:(?:-e|--editable)(?:\s*=\s*|\s+))?(?:[\w.-]+(?:\[[^]]*\])?\s*@\s*)?(?:file:(?://)?)?([^-\s\[;#:][^\s\[;#:]*)(?!\S*:)"
)


def find_requirements(source: Path | None) -> Path | None:
    """Return the file of pinned dependencies that lies beside a source, if there is one."""
    if source is None or not source.is_dir():
        return None
    return next(
        (source / name for name in ("requirements.lock", "requirements.txt") if (source / name).is_file()), None
    )


def minor_version(python: str) -> str:
    """Return 3.11 for 3.11.2."""
    return ".".join(python.split(".")[:2])


def python_tag(python: str) -> str:
    """Return py311 for 3.11.2."""
    return f"py{minor_version(python).replace('.', '')}"


def _text(path: Path) -> str:
    """Return the text of a requirements file, which may be in UTF-8 or, as Windows writes it, in UTF-16.

    Raises:
        ReleaseError: if it is in another encoding.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReleaseError(f"{path} is not UTF-8: {error}. Save it as UTF-8") from error


def requirement_texts(path: Path, known: dict[Path, str] | None = None) -> dict[Path, str]:
    """Return the texts of a requirements file and of all those that it includes.

    Raises:
        ReleaseError: if one is not there.
    """
    known = {} if known is None else known
    if path.resolve() not in known:
        if not path.is_file():
            raise ReleaseError(f"{path} is not there")
        known[path.resolve()] = _text(path)
        for line in known[path.resolve()].splitlines():
            if (included := _REFERENCE.fullmatch(line)) and "://" not in included[1]:
                requirement_texts(path.parent / included[1], known)
    return known


def local_requirements(texts: Iterable[str], directory: Path) -> set[Path]:
    """Return the directories and files on the controller that requirements are installed from.

    Args:
        directory: that relative paths start from.
    """
    found = (_INSTALLED.match(line) for text in texts for line in text.splitlines())
    paths = {path[1] for path in found if path and ("/" in path[1] or path[1].startswith("."))}
    return {(directory / path).resolve() for path in paths if (directory / path).exists()}


def pip(arguments: Iterable[str], **environment: str) -> str:
    """Run the controller's pip, with the index and certificates of its own configuration.

    Raises:
        ReleaseError: with the end of what it said.
    """
    run = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    if run.returncode:
        raise ReleaseError(f"pip {next(iter(arguments))} failed:\n{redacted(run.stdout + run.stderr)[-3000:]}")
    return run.stdout


def build_wheel(source: Path, directory: Path, environment: Mapping[str, str] | None = None) -> Path:
    """Build the wheel of a source directory or an sdist, or take a wheel as it is.

    Raises:
        ReleaseError: if it can't be built.
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
    """Return the platforms of wheels that some Linux on a machine can install: the host's pip knows its own glibc."""
    old = [f"manylinux{policy}_{machine}" for policy in ("1", "2010", "2014")]
    return [f"linux_{machine}", *old, *(f"manylinux_2_{glibc}_{machine}" for glibc in range(5, 100))]


def usable(wheelhouse: Path, python: str, platforms: list[str]) -> list[Path]:
    """Return the wheels of a directory that a Python on these platforms can install; it may hold those of several.

    Raises:
        ReleaseError: if a wheel's name is none.
    """
    tags = set(host_tags(python, "", platforms))
    wheels = sorted(wheelhouse.glob("*.whl"))
    if wrong := [path.name for path in wheels if not wheel_tags(path.name)]:
        raise ReleaseError(f"Invalid wheel filename in {wheelhouse}: {', '.join(wrong)}")
    return [path for path in wheels if wheel_tags(path.name) & tags]


def pack(wheels: Path, artifact: Path, manifest: Mapping[str, object]) -> None:
    """Write an artifact whose bytes depend on nothing but the wheels and the manifest."""
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
    """What an artifact is made from.

    Attributes:
        source: a directory, an sdist or a wheel; None where all comes from an index or a wheelhouse.
        package: of an index, in place of a source, such as ``pretix==2026.7.2``.
        wheelhouse: a directory of wheels that is used in place of an index.
        requirements: a requirements file. If it has hashes, it must be complete.
        environment: variables for pip and uv, such as those that name a private index. Secret.
    """

    source: Path | None = None
    package: str = ""
    wheelhouse: Path | None = None
    requirements: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """Raise ReleaseError for what is not there, and for a directory that can be neither built nor copied."""
        for path in (self.source, self.wheelhouse, self.requirements):
            if path is not None and not path.exists():
                raise ReleaseError(f"{path} is not there")
        if self.is_tree and not self.requirements:
            raise ReleaseError(
                f"{self.source} has neither a pyproject.toml of a package nor a setup.py to be built from, and no "
                "requirements.txt that says what it needs to be deployed as it is. Add one of these"
            )

    @property
    def is_tree(self) -> bool:
        """Whether the source is a directory without a build, which is deployed as it is."""
        return self.source is not None and self.source.is_dir() and not is_buildable(self.source)

    @cached_property
    def texts(self) -> dict[Path, str]:
        """The texts of the requirements file and of all those that it includes.

        Raises:
            ReleaseError: if one can't be read.
        """
        return requirement_texts(self.requirements) if self.requirements else {}

    @property
    def directory(self) -> Path:
        """The directory that relative paths in requirements start from."""
        if self.source and self.source.is_dir():
            return self.source
        return self.requirements.parent if self.requirements else Path("/")

    def key(self, python: str, machine: str) -> str:
        """Return a digest of all that the artifact depends on, in 16 hexadecimal digits.

        Raises:
            ReleaseError: if a requirements file can't be read.
        """
        texts = self.texts
        # The last digit of a Python's version counts only if a condition names it, so that an update of a host's
        # Python makes no other content of the same release.
        exact = any("python_full_version" in text for text in texts.values())
        parts = [python if exact else minor_version(python), machine, self.package, *texts.values()]
        roots = [root for root in (self.source, self.wheelhouse) if root is not None]
        roots += sorted(local_requirements(texts.values(), self.directory) - {root.resolve() for root in roots})
        for root in roots:
            parts += [digest_of(source_files(root), root), described(root)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build(inputs: Inputs, *, directory: Path, python: str, machine: str) -> tuple[Path, bool]:
    """Return the artifact of these inputs, built unless it is there already, and whether it was built.

    Args:
        directory: where artifacts are kept.
        python: of the hosts, such as 3.11.2.
        machine: of the hosts, such as x86_64.

    Raises:
        ReleaseError: if it can't be built; the text says why.
    """
    inputs.check()
    key = inputs.key(python, machine)
    names = f"*-{python_tag(python)}-{key}.tar"
    if present := sorted(directory.glob(names)):
        return present[0], False
    with locked(directory):
        # Another run may have built it meanwhile.
        if present := sorted(directory.glob(names)):
            return present[0], False
        with tempfile.TemporaryDirectory() as temporary:
            wheels = Path(temporary)
            name, version = gather_wheels(inputs, wheels, kept=directory / "wheels", python=python, machine=machine)
            artifact = directory / f"{name}-{version or key}-{python_tag(python)}-{key}.tar"
            pack(wheels, artifact, {"name": name, "version": version or key, "python": minor_version(python)})
    return artifact, True


def gather_wheels(inputs: Inputs, wheels: Path, *, kept: Path, python: str, machine: str) -> tuple[str, str]:
    """Fill an empty directory with the wheels of an artifact; return its name, and its version if it has one.

    Args:
        kept: where wheels are kept that were fetched for an artifact before.

    Raises:
        ReleaseError: if that is not possible; the text says why.
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
                f"{main.name} does not fit the hosts' Python {python} on {machine}. It holds compiled code: build its "
                "wheel on such a host (pip wheel) and name that as the source"
            )
        if inputs.source.resolve() not in local_requirements(texts.values(), inputs.directory):
            lines.append(f"{wheel_version(main.name)[0]} @ {main.absolute().as_uri()}")
    own = wheel_version(main.name)[0] if main else ""
    if inputs.wheelhouse and not texts and not inputs.package:
        there = {wheel_version(path.name)[0] for path in usable(inputs.wheelhouse, python, any_glibc(machine))}
        lines += sorted(there - {own})
        if not lines:
            raise ReleaseError(f"{inputs.wheelhouse} holds no wheels for Python {python} on {machine}")
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
    """Put a wheel of each package into a directory, built here if there is none.

    Args:
        kept: directory of the wheels that were fetched before, each in one named after its SHA-256.
        hashes: SHA-256 sums that are allowed for each package; if empty, those that the index gives.

    Raises:
        ReleaseError: if a package has no wheel for the hosts; the text says what to do about it.
    """
    if unlocked := [package.title for package in packages if hashes and normalized(package.name) not in hashes]:
        raise ReleaseError(
            f"The requirements file has hashes, but none for {', '.join(unlocked)}. Lock all that is needed, such as "
            "by uv pip compile --generate-hashes, or leave out all hashes"
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
                f"The requirements file has a hash of none of the files of {package.title} that fit Python {python} on "
                f"{machine}. Lock it anew, or find out who changed the files"
            )
        _build_missing(package, directory, python=python, machine=machine, environment=environment)


def _best_wheel(package: Package, allowed: set[str] | None, tags: Sequence[Tag]) -> str | None:
    """Return the URL of the package's wheel that fits best, if one fits.

    Args:
        allowed: SHA-256 sums of its files; None allows any.
        tags: of the hosts, the best first.
    """
    wheels = [url for url, sha256 in package.wheels.items() if allowed is None or sha256 in allowed]
    ranks = {url: min((tags.index(tag) for tag in wheel_tags(url) if tag in tags), default=None) for url in wheels}
    fit = {url: rank for url, rank in ranks.items() if rank is not None}
    return min(fit, key=lambda url: fit[url], default=None)


def _download(
    requirements: Sequence[str], directory: Path, *, python: str, machine: str, environment: Mapping[str, str]
) -> list[Path]:
    """Fetch the wheels of requirements that name a URL into an empty directory, and return them.

    Raises:
        ReleaseError: if one can't be fetched, or has another checksum.
    """
    if not requirements:
        return []
    # In a file, because a URL may hold a password, and all users can read arguments.
    file = directory / "requirements.txt"
    file.write_text("\n".join(requirements), encoding="utf-8")
    major, minor = python.split(".")[:2]
    options = ["--no-deps", "--implementation=cp", f"--python-version={python}"]
    options += [f"--abi={abi}" for abi in (f"cp{major}{minor}", "abi3", "none")]
    options += [f"--platform={platform}" for platform in _platforms(machine)]
    pip(["download", *options, f"--dest={directory}", f"--requirement={file}"], **environment)
    return sorted(directory.glob("*.whl"))


def _build_missing(
    package: Package, directory: Path, *, python: str, machine: str, environment: Mapping[str, str]
) -> None:
    """Build the wheel of a package that has none, if what comes of it runs on the hosts.

    Raises:
        ReleaseError: if it can't be built, or may run on this machine only.
    """
    failure = f"{package.title} has no wheel for Python {python} on {machine}"
    way_out = (
        "Build its wheel on such a host (pip wheel), and name the directory of it by --find-links in the requirements "
        "file, or a directory of all wheels as the wheelhouse"
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
        # What was built for this machine runs on others only by chance: its libraries may be newer than theirs.
        if not usable(wheels, python, [name for name in _platforms(machine) if not name.startswith("linux_")]):
            raise ReleaseError(f"{failure}, and {built.name}, built here, may not run there. {way_out}")
        shutil.copy(built, directory)


def _path(url: str) -> Path | None:
    """Return the path that a file URL names; None for another URL."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _pinned(requirement: str, sha256: str) -> str:
    """Add the sum that its file must have to a requirement with a URL."""
    if not sha256:
        return requirement
    return f"{requirement}{'&' if '#' in requirement else '#'}sha256={sha256}"


def _platforms(machine: str) -> list[str]:
    """Return the platforms of wheels that run on the oldest hosts and so on all, the best first."""
    newest = int(OLDEST_GLIBC.rpartition("_")[2])
    old = [f"manylinux{policy}_{machine}" for policy in ("2014", "2010", "1")]
    return [*(f"manylinux_2_{glibc}_{machine}" for glibc in range(newest, 4, -1)), *old, f"linux_{machine}"]


def host_tags(python: str, machine: str, platforms: Sequence[str] = ()) -> list[Tag]:
    """Return the tags of wheels that a Python on a machine can install, the best first (PEP 425)."""
    from packaging.tags import compatible_tags, cpython_tags  # noqa: PLC0415 - on the controller only

    major, minor = (int(number) for number in python.split(".")[:2])
    platforms = platforms or _platforms(machine)
    return [
        *cpython_tags((major, minor), platforms=platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]


def wheel_tags(url: str) -> frozenset[Tag]:
    """Return the tags of a wheel from its path or URL; none if its name is not that of a wheel."""
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
    """Return the machines that wheels are for, as their names say; empty for those that run on any."""
    platforms = {platform for path in wheels for platform in path.stem.rpartition("-")[2].split(".")}
    return ", ".join(sorted({_LINUX.sub("", platform) for platform in platforms - {"any"}}))


def ready_artifact(inputs: Inputs, *, python: str, machine: str) -> Path | None:
    """Return a source that is an artifact already, to be used as it is; None for one to build from.

    Args:
        python: of the hosts, such as 3.11.2.
        machine: of the hosts, such as x86_64.

    Raises:
        ReleaseError: if it is damaged or not for these hosts, or if something else was to be put into it.
    """
    source = inputs.source
    if source is None or source.suffix != ".tar" or not source.is_file():
        return None
    others = {"celery_app_wheelhouse": inputs.wheelhouse, "celery_app_requirements": inputs.requirements}
    for name, path in others.items():
        if path is not None:
            raise ReleaseError(
                f"{source} (celery_app_source) is an artifact, which holds all that it needs. Leave out {name}"
            )
    with tempfile.TemporaryDirectory() as temporary:
        try:
            wheels = [Path(temporary, name) for name in unpack(source, Path(temporary))]
            manifest = manifest_of(source)
            if not wheels or not all(isinstance(manifest[key], str) for key in ("name", "version", "python")):
                raise ReleaseError("it holds no wheels, or its manifest says not which")
            unfit = sorted(set(wheels) - set(usable(Path(temporary), python, any_glibc(machine))))
        except (ReleaseError, tarfile.TarError, OSError, LookupError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ReleaseError(
                f"{source} (celery_app_source) is no artifact as fleet.celery.celery_artifact builds it: {reason}. "
                "Build it anew, or name a directory, an sdist (.tar.gz) or a wheel"
            ) from error
    # Wheels that run anywhere don't make it fit: what another Python needs besides them was left out.
    if unfit or manifest["python"] != minor_version(python):
        machines = machines_of(wheels)
        made_for = f"Python {manifest['python']}{machines and f' on {machines}'}"
        hosts = f"Python {python} on {machine}"
        where = f", where {', '.join(path.name for path in unfit)} can't be installed" if unfit else ""
        raise ReleaseError(
            f"{source} (celery_app_source) was built for {made_for}, but hosts have {hosts}{where}. "
            "Name one that was built for these, or what it is built from: a directory, an sdist or a wheel"
        )
    return source
