"""Resolve the dependencies of an application for the Python and the machine of its hosts, by uv.

pip can't do this: it evaluates markers for the Python that runs it, even if it downloads for another one.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible_collections.fleet.celery.plugins.module_utils._platforms import OLDEST_GLIBC
from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
# A requirement of a lock file, joined with the lines of its hashes.
_LOCKED = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)[^#]*?\s--hash[=\s]")
_HASH = re.compile(r"--hash[=\s]\s*sha256:([0-9a-f]{64})")
# In errors of uv: a package does not support the hosts' Python.
_OTHER_PYTHON = re.compile(r"(?:requires|depends on) Python\s*[<>=!~]")
# pip's settings of package sources, and uv's environment variables for them.
_PIP_SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


@dataclass(frozen=True)
class Package:
    """A distribution that the hosts need.

    Attributes:
        name: normalized name (PEP 503).
        version: version; empty for a directory or a repository, whose build sets it.
        wheels: URLs of wheels for the hosts, with the SHA-256 of each, or an empty text.
        source: requirement to build a wheel from, such as ``shop @ file:///srv/shop``; empty if there is none.
        source_sha256: SHA-256 of the source's file; empty for a directory or a repository.
    """

    name: str
    version: str
    wheels: Mapping[str, str]
    source: str
    source_sha256: str = ""

    @property
    def title(self) -> str:
        """Return name and version for messages."""
        return f"{self.name} {self.version}".rstrip()


def normalized(name: str) -> str:
    """Return the normalized name (PEP 503) of a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()


def redacted(text: str) -> str:
    """Return a text without the user names and passwords of its URLs."""
    return _CREDENTIALS.sub("", text)


def end_of(text: str, size: int = 3000) -> str:
    """Return the last whole lines of a text, at most so many characters."""
    text = text.strip()
    end = text[-size:]
    if len(text) > size and text[-size - 1] != "\n":
        end = end.partition("\n")[2] or end
    return end


def locked_hashes(texts: Iterable[str]) -> dict[str, set[str]]:
    """Return the SHA-256 checksums of each distribution in requirements files; empty if these have no hashes."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for line in re.sub(r"\\\r?\n", " ", text).splitlines():
            if locked := _LOCKED.match(line):
                found.setdefault(normalized(locked[1]), set()).update(_HASH.findall(line))
    return found


def export_lock(source: Path) -> str:
    """Return the locked dependencies in a directory's uv.lock as the text of a requirements file.

    Groups and extras of development do not belong to them. Local packages have no hashes, so with these, no package
    has.

    Raises:
        ReleaseError: the uv.lock can't be read.
    """
    argv = [uv_program(), "export", "--quiet", "--frozen", "--offline", "--no-default-groups", "--no-emit-project"]
    argv += ["--no-header", "--no-annotate", "--format=requirements.txt", "--no-python-downloads"]
    argv += [f"--python={sys.executable}", f"--directory={source}"]
    texts = []
    for options in ([], ["--no-hashes"]):
        run = subprocess.run([*argv, *options], capture_output=True, text=True, check=False)
        if run.returncode:
            raise ReleaseError(
                f"{source / 'uv.lock'} can't be read:\n{end_of(redacted(run.stderr))}\n"
                "Lock again by uv lock, or set celery_app_requirements"
            )
        texts.append(run.stdout)
    locked, plain = texts
    return plain if re.search(r"^(?:-e |\.|/|[^#]*@ (?:file|git)\b)", locked, re.MULTILINE) else locked


def index_environment(configured: str, environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables and options with which uv uses the package sources of pip's configuration.

    Args:
        configured: output of ``pip config list``. Later lines override earlier ones.
        environment: environment of the caller. Its variables for uv are not overridden.
    """
    variables, options = {}, []
    for line in configured.splitlines():
        name, _, value = line.partition("=")
        section, _, setting = name.rpartition(".")
        if section not in ("global", "download", ":env:"):
            continue
        text = str(ast.literal_eval(value))
        if setting in _PIP_SETTINGS:
            separator = "," if setting == "find-links" else " "
            variables[_PIP_SETTINGS[setting]] = separator.join(text.split())
        elif setting == "no-index" and text.lower() in ("1", "true", "yes", "on"):
            options = ["--no-index"]
        elif setting == "pre" and text.lower() in ("1", "true", "yes", "on"):
            variables["UV_PRERELEASE"] = "allow"
    return {name: value for name, value in variables.items() if name not in environment}, options


def resolve(
    requirements: Iterable[str],
    files: Iterable[Path],
    *,
    python: str,
    machine: str,
    directory: Path,
    wheelhouse: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Package]:
    """Return the distributions that hosts need for requirements and requirements files.

    Args:
        requirements: lines in the format of a requirements file.
        files: requirements files.
        python: Python version of the hosts, such as 3.11.2.
        machine: machine of the hosts, such as x86_64.
        directory: base directory of relative paths in the files.
        wheelhouse: directory of wheels that replaces the index.
        environment: additional variables, such as the URL of a private index. Secret.

    Raises:
        ReleaseError: there is no solution. The message has the reason.
    """
    own = {**os.environ, **(environment or {})}
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False, env=own
    ).stdout
    variables, options = index_environment(configured, own)
    if wheelhouse:
        options = ["--no-index", f"--find-links={wheelhouse.absolute()}"]
    argv = [uv_program(), "pip", "compile", "--quiet", "--format=pylock.toml", "--no-header", "--no-python-downloads"]
    argv += [f"--python={sys.executable}", f"--python-version={python}"]
    argv += [f"--python-platform={machine}-manylinux_{OLDEST_GLIBC}", "--index-strategy=unsafe-best-match", *options]
    run = subprocess.run(
        [*argv, "-", *(str(path.absolute()) for path in files)],
        input="".join(f"{line}\n" for line in requirements),
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=own | variables,
    )
    if run.returncode:
        said = end_of(redacted(run.stderr))
        advice = ""
        if _OTHER_PYTHON.search(said):
            advice = (
                f"\nRequire versions that support Python {python}, or deploy to hosts with another Python: Debian 12 "
                "has 3.11, Debian 13 has 3.13"
            )
        raise ReleaseError(f"The dependencies can't be resolved for Python {python} on {machine}:\n{said}{advice}")
    return [_package(entry, directory) for entry in tomllib.loads(run.stdout).get("packages", [])]


def uv_program() -> str:
    """Return the path of uv.

    Raises:
        ReleaseError: uv is not installed.
    """
    try:
        from uv import find_uv_bin  # noqa: PLC0415 - on the controller only

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        raise ReleaseError(
            f"uv, which resolves dependencies, is not installed for {sys.executable}. Install it: pip install uv"
        ) from error


def _package(entry: Mapping[str, Any], directory: Path) -> Package:
    """Return a package from its entry in a pylock.toml (PEP 751)."""
    name = entry["name"]
    wheels = {_url(each, directory): _sha256(each) for each in entry.get("wheels", [])}
    source, sha256 = "", ""
    if sdist := entry.get("sdist"):
        source, sha256 = f"{name} @ {_url(sdist, directory)}", _sha256(sdist)
    elif archive := entry.get("archive"):
        url = _url(archive, directory)
        if unquote(urlsplit(url).path).endswith(".whl"):
            wheels[url] = _sha256(archive)
        else:
            source, sha256 = f"{name} @ {url}{_subdirectory(archive)}", _sha256(archive)
    elif vcs := entry.get("vcs"):
        source = f"{name} @ {vcs['type']}+{vcs['url']}@{vcs['commit-id']}{_subdirectory(vcs)}"
    elif tree := entry.get("directory"):
        source = f"{name} @ {(directory / tree['path']).resolve().as_uri()}{_subdirectory(tree)}"
    return Package(name, entry.get("version", ""), wheels, source, sha256)


def _url(file: Mapping[str, Any], directory: Path) -> str:
    return str(file.get("url") or (directory / file["path"]).resolve().as_uri())


def _sha256(file: Mapping[str, Any]) -> str:
    return str(file.get("hashes", {}).get("sha256", ""))


def _subdirectory(entry: Mapping[str, Any]) -> str:
    return f"#subdirectory={entry['subdirectory']}" if entry.get("subdirectory") else ""
