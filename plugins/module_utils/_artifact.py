"""Artifacts: an application's release as one file, with everything that it is installed from.

An artifact is a tar of wheels and a manifest with the SHA-256 of each. It is built once on the controller, for the
Python of the hosts, which then need no index and no compiler.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ansible_collections.fleet.celery.plugins.module_utils._locked import locked
from ansible_collections.fleet.celery.plugins.module_utils._release import MANIFEST, ReleaseError, file_sha256, unpack

_LEFTOVERS = shutil.ignore_patterns(".*", "__pycache__", "*.pyc", "*.egg-info", "node_modules")
# At the top alone: further down, these may be the names of packages.
_LEFTOVERS_AT_TOP = {"build", "dist", "venv", "htmlcov"}
# Oldest first: Debian 12 has glibc 2.36, so wheels for all of these run on it and on what follows.
_GLIBC = ("2014", "_2_17", "_2_24", "_2_26", "_2_27", "_2_28", "_2_31", "_2_34", "_2_35")
# So that one source gives one and the same wheel: the earliest time that a zip can hold.
_EPOCH = "315532800"
# What a wheel's platform says before the machine.
_LINUX = re.compile(r"(?:many|musl)?linux(?:\d+|_\d+_\d+)?_")
# Lines of a requirements file that name another file, or the project itself. pip reads them relative to their file.
_REFERENCE = re.compile(
    r"\s*(-r|--requirement|-c|--constraint|-f|--find-links)(?:\s*=\s*|\s+|(?<=-[rcf]))(\S+)(?:\s+#.*)?\s*"
)
_HASH = re.compile(r"^[^#]*\s--hash[=\s]", re.MULTILINE)
_ITSELF = re.compile(r"\s*(?:(?:-e|--editable)(?:\s*=\s*|\s+))?(?:file:)?(\.[./]*)(?:\s+#.*)?\s*")


def _leads_nowhere(path: Path) -> bool:
    """Return whether a path is a link to nothing, or to a directory that it lies in."""
    return path.is_symlink() and (not path.exists() or path.absolute().is_relative_to(path.resolve()))


def _ignore(source: Path) -> Callable[[str, list[str]], set[str]]:
    """Return what shutil.copytree asks for the names to leave out of a directory."""

    def ignored(directory: str, names: list[str]) -> set[str]:
        here = Path(directory)
        top = _LEFTOVERS_AT_TOP & set(names) if here == source else set()
        return _LEFTOVERS(directory, names) | top | {name for name in names if _leads_nowhere(here / name)}

    return ignored


def source_files(source: Path) -> Iterator[Path]:
    """Return the files that a build reads, in a fixed order: a file, or a directory's without what builds leave."""
    if source.is_file():
        yield source
        return
    leave_out = _ignore(source)
    # A build copies what links lead to, so that counts too.
    for directory, folders, files in os.walk(source, followlinks=True):
        ignored = leave_out(directory, [*folders, *files])
        folders[:] = sorted(set(folders) - ignored)
        yield from (Path(directory) / name for name in sorted(set(files) - ignored))


def digest_of(files: Iterable[Path], root: Path, *more: str) -> str:
    """Return a digest over the names and contents of files, and over some texts."""
    total = hashlib.sha256("\0".join(more).encode())
    for path in files:
        name = path.relative_to(root) if path.is_relative_to(root) else path.name
        total.update(f"\0{name}\0{file_sha256(path)}".encode())
    return total.hexdigest()


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


def requirements_for(text: str, python: str, machine: str) -> str:
    """Return the lines of a requirements file that hold for a Python and a machine, without their conditions.

    pip evaluates conditions for the Python that runs it, also where it downloads for another one.

    Args:
        python: such as 3.11.2: conditions may name the last digit.
        machine: such as x86_64.

    Raises:
        ReleaseError: for a condition that can't be read.
    """
    from packaging.markers import InvalidMarker, Marker  # noqa: PLC0415 - on the controller only

    environment = {
        "python_version": minor_version(python),
        "python_full_version": python,
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    kept = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        requirement, semicolon, rest = re.sub(r"(^|\s)#.*", "", line).partition(";")
        if not semicolon or line.lstrip().startswith("-"):
            kept.append(line)
            continue
        condition, hashes = re.match(r"(.*?)((?:\s--hash.*)?)$", rest).groups()  # type: ignore[union-attr]
        try:
            holds = Marker(condition.strip()).evaluate(environment)
        except InvalidMarker as error:
            raise ReleaseError(f"{line.strip()}: the condition can't be read: {error}") from error
        if holds:
            kept.append(requirement.rstrip() + hashes)
    return "\n".join(kept) + "\n"


def _reference(line: str, path: Path) -> tuple[str, Path] | None:
    """Return the option and the file or directory that a line of a requirements file leads to, if it is one."""
    found = _REFERENCE.fullmatch(line)
    if not found or "://" in found[2]:
        return None
    return f"-{found[1].lstrip('-')[0]}", path.parent / found[2]


def requirement_files(path: Path, known: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    """Return a requirements file and all those that it includes, each once.

    Raises:
        ReleaseError: if one is not there.
    """
    if path.resolve() in known:
        return known
    if not path.is_file():
        raise ReleaseError(f"{path} is not there")
    known = (*known, path.resolve())
    for line in path.read_text(encoding="utf-8").splitlines():
        option, other = _reference(line, path) or ("", path)
        if option in ("-r", "-c"):
            known = requirement_files(other, known)
    return known


def gather_requirements(
    requirements: Path, source: Path | None, directory: Path, *, python: str, machine: str
) -> dict[Path, str]:
    """Return the texts of a requirements file and those that it includes, for a Python and a machine.

    Each is to be written to the path that is its key, where the others name it. The project itself is left out, which
    many locks name: its wheel is built already.

    Args:
        requirements: a file that pip reads.
        source: the project's directory.
        directory: where the texts are to be written.

    Raises:
        ReleaseError: if a file is not there or a condition can't be read.
    """
    files = requirement_files(requirements)
    names = {path: directory / f"requirements-{number}.txt" for number, path in enumerate(files)}
    texts = {}
    for path, name in names.items():
        lines = []
        for line in requirements_for(path.read_text(encoding="utf-8"), python, machine).splitlines():
            itself = _ITSELF.fullmatch(line)
            if itself and source is not None and (path.parent / itself[1]).resolve() == source.resolve():
                continue
            option, other = _reference(line, path) or ("", path)
            lines.append(f"{option} {names.get(other.resolve(), other.absolute())}" if option else line)
        texts[name] = "\n".join(lines) + "\n"
    return texts


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
        raise ReleaseError(f"pip {next(iter(arguments))} failed:\n{(run.stdout + run.stderr)[-3000:]}")
    return run.stdout


def build_wheel(source: Path, directory: Path) -> Path:
    """Build the wheel of a source directory or an sdist, or take a wheel as it is.

    Raises:
        ReleaseError: if it can't be built.
    """
    if source.suffix == ".whl":
        return Path(shutil.copy(source, directory))
    with tempfile.TemporaryDirectory() as temporary:
        copy = source
        if source.is_dir():
            # A build writes beside what it reads; the user's directory stays as it is.
            try:
                copy = Path(shutil.copytree(source, Path(temporary) / "source", ignore=_ignore(source)))
            except OSError as error:
                raise ReleaseError(f"{source} can't be copied: {error}") from error
        wheels = Path(temporary) / "wheel"
        pip(["wheel", "--no-deps", "--wheel-dir", str(wheels), str(copy)], SOURCE_DATE_EPOCH=_EPOCH)
        (built,) = wheels.glob("*.whl")
        return Path(shutil.copy(built, directory))


def download(what: list[str], directory: Path, python: str, machine: str) -> list[Path]:
    """Fetch wheels for the hosts' Python into a new directory, and return them.

    A dependency that has none is built here, if this Python is the hosts' and the result runs on any machine.

    Raises:
        ReleaseError: where a dependency has no wheel for it.
    """
    platforms = [f"manylinux{glibc}_{machine}" for glibc in _GLIBC] + [f"linux_{machine}"]
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    options += [f"--abi={abi}" for abi in (python_tag(python).replace("py", "cp"), "abi3", "none")]
    options += [f"--platform={name}" for name in platforms]
    way_out = (
        f"Each dependency needs a wheel for Python {python} on {machine}. Where one has none, build a "
        "directory of wheels on such a host (pip wheel) and name it as the wheelhouse"
    )
    try:
        pip(["download", "--dest", str(directory), *options, *what])
    except ReleaseError as error:
        if (python_tag(python), machine) != (python_tag(platform.python_version()), platform.machine()):
            raise ReleaseError(f"{error}\n{way_out}") from error
    else:
        return sorted(directory.glob("*.whl"))
    try:
        pip(["wheel", "--wheel-dir", str(directory), *what], SOURCE_DATE_EPOCH=_EPOCH)
    except ReleaseError as error:
        raise ReleaseError(f"{error}\n{way_out}") from error
    # What was built for this machine runs on others by luck alone: its libraries may be newer than theirs.
    fit = set(usable(directory, python, platforms[:-1]))
    unfit = [path.name for path in sorted(directory.glob("*.whl")) if path not in fit]
    if unfit:
        raise ReleaseError(f"{', '.join(unfit)} may run on this machine only. {way_out}")
    return sorted(fit)


def wheel_version(wheel: str) -> tuple[str, str]:
    """Return the distribution's name and version from a wheel's file name (PEP 427)."""
    name, version = wheel.split("-")[:2]
    return name.replace("_", "-").lower(), version


def any_glibc(machine: str) -> list[str]:
    """Return the platforms of wheels that some Linux on a machine can install: the host's pip knows its own glibc."""
    old = [f"manylinux{policy}_{machine}" for policy in ("1", "2010", "2014")]
    return [f"linux_{machine}", *old, *(f"manylinux_2_{glibc}_{machine}" for glibc in range(5, 100))]


def usable(wheelhouse: Path, python: str, platforms: list[str]) -> list[Path]:
    """Return the wheels of a directory that a Python on these platforms can install; it may hold those of several."""
    from packaging.tags import compatible_tags, cpython_tags  # noqa: PLC0415 - on the controller only
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename  # noqa: PLC0415

    major, minor = (int(number) for number in python.split(".")[:2])
    tags = {
        *cpython_tags((major, minor), platforms=platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    }
    try:
        return [path for path in sorted(wheelhouse.glob("*.whl")) if parse_wheel_filename(path.name)[3] & tags]
    except InvalidWheelFilename as error:
        raise ReleaseError(f"{wheelhouse}: {error}") from error


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


def build(
    source: Path | None,
    wheelhouse: Path | None,
    requirements: Path | None,
    *,
    directory: Path,
    python: str,
    machine: str,
) -> tuple[Path, bool]:
    """Return the artifact of a source or a wheelhouse, built unless it is there already, and whether it was built.

    Args:
        source: a directory with a pyproject.toml, an sdist or a wheel; None where all is in the wheelhouse.
        wheelhouse: a directory of wheels; nothing is fetched then.
        requirements: what else to install, with hashes if it has them.
        directory: where artifacts are kept.
        python: of the hosts, such as 3.11.2.
        machine: of the hosts, such as x86_64.

    Raises:
        ReleaseError: if it can't be built; the text says why.
    """
    for path in (source, wheelhouse, requirements):
        if path is not None and not path.exists():
            raise ReleaseError(f"{path} is not there")
    if (
        source is not None
        and source.is_dir()
        and not any((source / name).is_file() for name in ("pyproject.toml", "setup.py"))
    ):
        raise ReleaseError(f"{source} has no pyproject.toml, so nothing can be built from it")
    with tempfile.TemporaryDirectory() as temporary:
        # Conditions may name the last digit of a Python's version. Otherwise it does not count, so that an update of a
        # host's Python makes no other content of the same release.
        texts = {}
        if requirements is not None and wheelhouse is None:
            texts = gather_requirements(requirements, source, Path(temporary), python=python, machine=machine)
        files = [(path, root) for root in (source, wheelhouse) if root is not None for path in source_files(root)]
        keys = [digest_of([path], root, minor_version(python), machine) for path, root in files]
        keys += [hashlib.sha256(text.replace(temporary, "").encode()).hexdigest() for text in texts.values()]
        key = hashlib.sha256("\n".join([*keys, machine]).encode()).hexdigest()[:16]
        names = f"*-{python_tag(python)}-{key}.tar"
        if present := sorted(directory.glob(names)):
            return present[0], False
        with locked(directory):
            # Another run may have built it meanwhile.
            if present := sorted(directory.glob(names)):
                return present[0], False
            wheels = Path(temporary) / "wheels"
            wheels.mkdir()
            name, version = _gather_wheels(
                source, wheelhouse, requirements, texts, wheels=wheels, python=python, machine=machine
            )
            artifact = directory / f"{name}-{version or key}-{python_tag(python)}-{key}.tar"
            pack(wheels, artifact, {"name": name, "version": version or key, "python": minor_version(python)})
    return artifact, True


def _gather_wheels(
    source: Path | None,
    wheelhouse: Path | None,
    requirements: Path | None,
    texts: Mapping[Path, str],
    *,
    wheels: Path,
    python: str,
    machine: str,
) -> tuple[str, str]:
    """Fill a directory with the wheels of an artifact; return its name, and its version if the source has one.

    Args:
        texts: what the files of requirements are to say, the one that includes the others first.
        wheels: the directory, empty.

    Raises:
        ReleaseError: if that is not possible; the text says why.
    """
    main = build_wheel(source, wheels) if source is not None else None
    if main is not None and not usable(wheels, python, any_glibc(machine)):
        raise ReleaseError(
            f"{main.name} does not fit the hosts' Python {python} on {machine}. It holds compiled code: build its "
            "wheel on such a host (pip wheel) and name that as the source"
        )
    if wheelhouse is not None:
        others = usable(wheelhouse, python, any_glibc(machine))
    else:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        what = ["-r", str(next(iter(texts)))] if texts else [str(main)]
        if any(_HASH.search(text) for text in texts.values()):
            # pip demands that such a lock is whole, and would look for what wheels need under its own Python.
            what.append("--no-deps")
        others = download(what, wheels.with_name("fetched"), python, machine)
    for path in others:
        # What the source says comes before a wheel of an older state of it.
        if main is None or wheel_version(path.name)[0] != wheel_version(main.name)[0]:
            shutil.copy(path, wheels)
    if not any(wheels.glob("*.whl")):
        raise ReleaseError(f"{wheelhouse or requirements} holds no wheels for Python {python} on {machine}")
    if main is not None:
        return wheel_version(main.name)
    kept = wheelhouse or requirements
    return (kept.name if kept else ""), ""


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


def ready_artifact(
    source: Path | None, wheelhouse: Path | None, requirements: Path | None, *, python: str, machine: str
) -> Path | None:
    """Return a source that is an artifact already, to be used as it is; None for one to build from.

    Args:
        python: of the hosts, such as 3.11.2.
        machine: of the hosts, such as x86_64.

    Raises:
        ReleaseError: if it is damaged or not for these hosts, or if something else was to be put into it.
    """
    if source is None or source.suffix != ".tar" or not source.is_file():
        return None
    for name, path in (("celery_app_wheelhouse", wheelhouse), ("celery_app_requirements", requirements)):
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
