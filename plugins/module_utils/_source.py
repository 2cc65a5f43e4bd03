"""What a release is made from: fetched to the controller if a URL names it, and checked against its checksum."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from http.client import HTTPException
from netrc import NetrcParseError
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import parse_qs, unquote, urlsplit

from ansible.module_utils.urls import ConnectionError as UnsafeConnectionError
from ansible.module_utils.urls import open_url
from ansible_collections.fleet.celery.plugins.module_utils._locked import locked
from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError, file_sha256
from ansible_collections.fleet.celery.plugins.module_utils._resolve import redacted

_SCHEMES = ("http", "https", "file")
# A name of a file, so nothing that leads out of a directory.
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*(\.whl|\.tar\.gz|\.zip|\.tar)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A distribution of an index, with extras if need be, at a version.
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._, -]+\])?==[A-Za-z0-9.!+_-]+")
_GIT_SCHEMES = ("https", "http", "ssh", "file")
# Of each wait for the server, in seconds.
_TIMEOUT = 30
# What a server answers to those that it does not know; some hide with 404 that there is a file.
_WHO_ARE_YOU = (401, 403, 404)


def read_url(url: str) -> tuple[str, str]:
    """Return the name of the file that a URL gives, and what to call it in messages: not all of a URL may be shown.

    Raises:
        ReleaseError: if no release can be made from what it names. The text has nothing secret.
    """
    try:
        parts = urlsplit(url)
        # Reading the port fails where a password has a slash, and so ends before its @.
        readable = parts.port != 0 and parts.netloc.count("@") <= 1 and re.fullmatch(r"[!-~]+", url)
    except ValueError:
        readable = None
    if not readable:
        raise ReleaseError(
            "celery_app_source is a URL that can't be read. In its user and password, write : / ? # @ and % as %3A %2F "
            "%3F %23 %40 and %25, and anywhere in it a space as %20"
        )
    if parts.scheme not in _SCHEMES:
        raise ReleaseError(
            f"celery_app_source is a URL that begins with {parts.scheme}://. Give one of http, https or file, or a path"
        )
    place = parts.hostname or "this machine"
    name = unquote(parts.path.rpartition("/")[2])
    if not _FILE.fullmatch(name):
        raise ReleaseError(
            f"celery_app_source is a URL on {place} whose path does not end in the name of a wheel (.whl), an sdist "
            "(.tar.gz, .zip) or an artifact (.tar). Give that of such a file"
        )
    return name, f"{name} from {place}"


def check_sum(path: Path, sha256: str, what: str) -> None:
    """Raise ReleaseError unless a file has this SHA-256; what it is called is for the message."""
    found = file_sha256(path)
    if found != sha256:
        raise ReleaseError(
            f"{what} (celery_app_source) has the SHA-256 {found}, but celery_app_source_sha256 says {sha256}. If the "
            "file was to change, give its new sum; if not, find out who changed it"
        )


def download_to(path: Path, url: str, *, fresh: bool) -> None:
    """Write what a URL gives to a file, with the controller's own proxies, certificates and ~/.netrc.

    Args:
        fresh: whether no proxy on the way may answer from its memory.

    Raises:
        ReleaseError: if it can't be fetched whole.
    """
    _, what = read_url(url)
    try:
        with (
            open_url(
                url,
                force=fresh,
                timeout=_TIMEOUT,
                # Servers that hide what they have from strangers never ask who it is.
                force_basic_auth=True,
                # A server that this one refers to is not to know.
                unredirected_headers=["Authorization"],
                # A .tar.gz is to stay one.
                decompress=False,
            ) as response,
            path.open("wb") as file,
        ):
            shutil.copyfileobj(response, file)
        expected, size = response.headers.get("Content-Length"), path.stat().st_size
    except NetrcParseError as error:
        # Its text may hold a part of a password.
        raise ReleaseError(
            f"{what} (celery_app_source) can't be fetched: line {error.lineno} of {error.filename} can't be read. Mend "
            "it, and let nobody else read the file (mode 0600)"
        ) from None
    except (OSError, HTTPException, ValueError, UnsafeConnectionError) as error:
        advice = ""
        if isinstance(error, HTTPError) and error.code in _WHO_ARE_YOU:
            advice = ". If it asks for user and password, put them into the URL or, better, into ~/.netrc"
        raise ReleaseError(f"{what} (celery_app_source) can't be fetched: {error}{advice}") from None
    if expected is not None and expected != str(size):
        raise ReleaseError(
            f"{what} (celery_app_source) came in part: {size} bytes of {expected}. Run this again, and look at the "
            "server or a proxy on the way if that does not help"
        )


def fetch(url: str, sha256: str, directory: Path) -> tuple[Path, bool]:
    """Return the file that a URL gives, kept under its sum, and whether it is new there.

    What has the right sum already is not fetched again; without a sum it is each time.

    Args:
        sha256: what the file must have; empty takes what comes.
        directory: where such files are kept.

    Raises:
        ReleaseError: if it can't be fetched or is something else. Nothing of it is kept then.
    """
    name, what = read_url(url)
    if sha256 and (known := directory / sha256 / name).is_file() and file_sha256(known) == sha256:
        return known, False
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        path = Path(temporary) / name
        download_to(path, url, fresh=not sha256)
        if sha256:
            check_sum(path, sha256, what)
        is_whole = zipfile.is_zipfile if path.suffix in (".whl", ".zip") else tarfile.is_tarfile
        if not is_whole(path):
            raise ReleaseError(
                f"{what} (celery_app_source) is no such file but something else, such as a page to sign in. Look at "
                "what the URL gives"
            )
        kept = directory / file_sha256(path) / name
        new = not kept.is_file()
        kept.parent.mkdir(exist_ok=True)
        path.replace(kept)
    return kept, new


def is_package(source: str) -> bool:
    """Return whether a source is the name and version of a distribution, such as ``pretix==2026.7.2``."""
    return bool(_PACKAGE.fullmatch(source))


class _Repository:
    """A git repository of a URL as pip writes it: ``git+https://host/shop.git@v1.4#subdirectory=web``."""

    def __init__(self, url: str, directory: Path) -> None:
        parts = urlsplit(url.removeprefix("git+"))
        path, at, ref = parts.path.rpartition("@")
        self.path, self.ref = (path, ref) if at else (parts.path, "HEAD")
        self.scheme, self.host = parts.scheme, parts.hostname or "this machine"
        netloc = parts.netloc if parts.scheme == "ssh" else parts.netloc.rpartition("@")[2]
        self.url = f"{parts.scheme}://{netloc}{self.path}"
        self.subdirectory = parse_qs(parts.fragment).get("subdirectory", [""])[0]
        self.name = self.path.rstrip("/").rpartition("/")[2].removesuffix(".git")
        self.what = f"{self.name} from {self.host}"
        self.environment = {"GIT_TERMINAL_PROMPT": "0"}
        if parts.password is not None and parts.scheme in ("http", "https"):
            # In git's environment, because it passes URLs to its helpers as arguments, which all users can read.
            login = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
            self.environment |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{netloc}/.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {base64.b64encode(login.encode()).decode()}",
            }
        self.home = directory / "git" / hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run git and return its output.

        Raises:
            ReleaseError: with the end of its error messages.
        """
        try:
            run = subprocess.run(
                ["git", *arguments],  # noqa: S607 - the user's git, wherever it is
                capture_output=True,
                text=True,
                check=False,
                cwd=cwd or self.home,
                env=os.environ | self.environment,
            )
        except FileNotFoundError as error:
            raise ReleaseError("git is not installed on the controller. Install it: apt install git") from error
        if run.returncode:
            said = redacted(run.stderr)[-2000:].strip()
            raise ReleaseError(f"{self.what} (celery_app_source) can't be fetched by git:\n{said}")
        return run.stdout.strip()

    def commit(self) -> str:
        """Fetch the repository and return the commit that the URL names.

        Raises:
            ReleaseError: if there is no such branch, tag or commit.
        """
        if not (self.home / "HEAD").exists():
            self.git("init", "--quiet", "--bare")
        refs = ("+HEAD:refs/fleet/HEAD", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        self.git("fetch", "--quiet", "--prune", "--force", self.url, *refs)
        for name in (f"refs/tags/{self.ref}", f"refs/heads/{self.ref}", f"refs/fleet/{self.ref}", self.ref):
            try:
                return self.git("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
            except ReleaseError:
                continue
        raise ReleaseError(
            f"{self.what} (celery_app_source) has no branch, tag or commit {self.ref}. Name one after the @"
        )


def clone(url: str, directory: Path) -> tuple[Path, bool]:
    """Return the checkout of a git URL's commit, and whether it is new.

    Args:
        directory: where repositories and checkouts are kept.

    Raises:
        ReleaseError: if the repository, the commit or the subdirectory is not there.
    """
    repository = _Repository(url, directory)
    if repository.scheme not in _GIT_SCHEMES:
        raise ReleaseError(
            f"celery_app_source is a git URL that begins with git+{repository.scheme}://. Give one of "
            f"{', '.join(f'git+{scheme}' for scheme in _GIT_SCHEMES)}"
        )
    with locked(repository.home):
        checkout = repository.home / "checkouts" / repository.commit() / repository.name
        if new := not checkout.is_dir():
            checkout.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=repository.home) as temporary:
                copy = Path(temporary) / repository.name
                repository.git("clone", "--quiet", "--shared", "--no-checkout", str(repository.home), str(copy))
                repository.git("checkout", "--quiet", "--detach", checkout.parent.name, cwd=copy)
                if (copy / ".gitmodules").exists():
                    repository.git("submodule", "--quiet", "update", "--init", "--recursive", cwd=copy)
                copy.rename(checkout)
    path = checkout / repository.subdirectory
    if not path.is_dir() or not path.resolve().is_relative_to(checkout.resolve()):
        raise ReleaseError(f"{repository.what} (celery_app_source) has no directory {repository.subdirectory}")
    return path, new


def obtain(source: Path | None, url: str | None, sha256: str, directory: Path) -> tuple[Path | None, bool]:
    """Return the path of a source, fetched if a URL names it, and whether it was new.

    Args:
        source: a path on the controller; None where there is none, or a URL.
        url: of a wheel, an sdist, an artifact or a git repository.
        sha256: what the file must have, if not empty.
        directory: where fetched files are kept.

    Raises:
        ReleaseError: if it can't be fetched or is something else.
    """
    sha256 = sha256.lower()
    if sha256 and not _SHA256.fullmatch(sha256):
        raise ReleaseError(
            f"celery_app_source_sha256 {sha256!r} is no SHA-256. Give 64 hexadecimal digits, as sha256sum prints them"
        )
    if url and url.startswith("git+"):
        if sha256:
            raise ReleaseError(
                "celery_app_source is a git URL, which has no checksum. Leave out celery_app_source_sha256, and name a "
                "commit after the @"
            )
        return clone(url, directory)
    if url:
        return fetch(url, sha256, directory)
    if sha256 and source is None:
        raise ReleaseError("celery_app_source_sha256 is given without celery_app_source. Give both, or leave it out")
    if sha256 and source is not None and source.is_dir():
        raise ReleaseError(
            f"{source} (celery_app_source) is a directory, which has no sum. Leave out celery_app_source_sha256"
        )
    if sha256 and source is not None and source.exists():
        check_sum(source, sha256, str(source))
    return source, False
