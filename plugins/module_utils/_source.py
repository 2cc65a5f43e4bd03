"""Sources of releases: downloaded to the controller from a URL, and verified by a checksum."""

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
# A file name without a slash, so it can't lead out of a directory.
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*(\.whl|\.tar\.gz|\.zip|\.tar)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Name and version of a distribution, with optional extras.
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._, -]+\])?==[A-Za-z0-9.!+_-]+")
_GIT_SCHEMES = ("https", "http", "ssh", "file")
# Seconds, of a connection or a read.
_TIMEOUT = 30
# Status codes of servers that need a login; some answer 404 to hide that a file exists.
_LOGIN_CODES = (401, 403, 404)


def read_url(url: str) -> tuple[str, str]:
    """Return the file name of a URL, and a description for messages, which contains no password.

    Raises:
        ReleaseError: the URL is invalid, or is not that of a wheel, an sdist or an artifact. The message contains no
            secret.
    """
    try:
        parts = urlsplit(url)
        # Parsing the port fails if a password contains a slash.
        readable = parts.port != 0 and parts.netloc.count("@") <= 1 and re.fullmatch(r"[!-~]+", url)
    except ValueError:
        readable = None
    if not readable:
        raise ReleaseError(
            "celery_app_source is not a valid URL. In its user and password, write : / ? # @ and % as %3A %2F %3F %23 "
            "%40 and %25. Write a space as %20"
        )
    if parts.scheme not in _SCHEMES:
        raise ReleaseError(
            f"celery_app_source is a URL that begins with {parts.scheme}://. Use http, https or file, or a path"
        )
    place = parts.hostname or "this machine"
    name = unquote(parts.path.rpartition("/")[2])
    if not _FILE.fullmatch(name):
        raise ReleaseError(
            f"celery_app_source is a URL on {place} whose path does not end in the file name of a wheel (.whl), an "
            "sdist (.tar.gz, .zip) or an artifact (.tar). Set it to the URL of such a file, or begin the URL of a git "
            "repository with git+"
        )
    return name, f"{name} from {place}"


def check_sum(path: Path, sha256: str, what: str) -> None:
    """Raise ReleaseError unless a file has this SHA-256 checksum.

    Args:
        what: description of the file for the message.
    """
    found = file_sha256(path)
    if found != sha256:
        raise ReleaseError(
            f"{what} (celery_app_source) has the SHA-256 {found}, but celery_app_source_sha256 is {sha256}. If this is "
            "the intended file, set its new checksum. Otherwise, find out who changed it"
        )


def download_to(path: Path, url: str, *, fresh: bool) -> None:
    """Download a URL to a file, with the proxies, the certificates and the ~/.netrc of the controller.

    Args:
        fresh: whether to bypass the caches of proxies.

    Raises:
        ReleaseError: the download failed or is incomplete.
    """
    _, what = read_url(url)
    try:
        with (
            open_url(
                url,
                force=fresh,
                timeout=_TIMEOUT,
                # Servers that answer 404 without a login never request one.
                force_basic_auth=True,
                # The target of a redirect must not get the password.
                unredirected_headers=["Authorization"],
                # Keep a .tar.gz compressed.
                decompress=False,
            ) as response,
            path.open("wb") as file,
        ):
            shutil.copyfileobj(response, file)
        expected, size = response.headers.get("Content-Length"), path.stat().st_size
    except NetrcParseError as error:
        # The error's text may contain a part of a password.
        raise ReleaseError(
            f"{what} (celery_app_source) can't be downloaded: line {error.lineno} of {error.filename} is invalid. Fix "
            "it, and make sure that only you can read the file (mode 0600)"
        ) from None
    except (OSError, HTTPException, ValueError, UnsafeConnectionError) as error:
        advice = ""
        if isinstance(error, HTTPError) and error.code in _LOGIN_CODES:
            advice = ". If the server needs a user and a password, put them into the URL or, better, into ~/.netrc"
        raise ReleaseError(f"{what} (celery_app_source) can't be downloaded: {error}{advice}") from None
    if expected is not None and expected != str(size):
        raise ReleaseError(
            f"{what} (celery_app_source) is incomplete: {size} bytes of {expected}. Rerun. If it fails again, check "
            "the server and the proxies"
        )


def fetch(url: str, sha256: str, directory: Path) -> tuple[Path, bool]:
    """Return the downloaded file of a URL, and whether the cache did not contain it before.

    A file in the cache with the right checksum is not downloaded again. Without a checksum, each call downloads.

    Args:
        sha256: SHA-256 checksum of the file; empty accepts any.
        directory: directory of downloads: each file is in a directory named after its SHA-256.

    Raises:
        ReleaseError: the download failed, or the file has another checksum or format. It is not kept.
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
                f"{what} (celery_app_source) is not a valid wheel, sdist or artifact. The URL may lead to another "
                "page, such as a login page. Open it in a browser"
            )
        kept = directory / file_sha256(path) / name
        new = not kept.is_file()
        kept.parent.mkdir(exist_ok=True)
        path.replace(kept)
    return kept, new


def is_package(source: str) -> bool:
    """Return whether a source is name and version of a distribution, such as ``pretix==2026.7.2``."""
    return bool(_PACKAGE.fullmatch(source))


class _Repository:
    """A git repository, from a URL in pip's format: ``git+https://host/shop.git@v1.4#subdirectory=web``."""

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
            # Not in the URL: git passes it to its helpers as an argument, which all users can read.
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
            ReleaseError: git failed. The message has the end of its errors.
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
            raise ReleaseError(f"{self.what} (celery_app_source): git {arguments[0]} failed:\n{said}")
        return run.stdout.strip()

    def commit(self) -> str:
        """Fetch the repository and return the commit of the URL's branch, tag or commit.

        Raises:
            ReleaseError: it has no such branch, tag or commit.
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
            f"{self.what} (celery_app_source) has no branch, tag or commit {self.ref}. Correct it after the @"
        )


def clone(url: str, directory: Path) -> tuple[Path, bool]:
    """Return the checkout of a git URL's commit, and whether it is new.

    Args:
        directory: directory of repositories and checkouts.

    Raises:
        ReleaseError: the repository, the commit or the subdirectory does not exist.
    """
    repository = _Repository(url, directory)
    if repository.scheme not in _GIT_SCHEMES:
        raise ReleaseError(
            f"celery_app_source is a git URL that begins with git+{repository.scheme}://. Use one of "
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
    """Return the path of a source, downloaded if it is a URL, and whether the download is new.

    Args:
        source: path on the controller; None for a URL or without a source.
        url: URL of a wheel, an sdist, an artifact or a git repository.
        sha256: SHA-256 checksum of the file; empty accepts any.
        directory: directory of downloads.

    Raises:
        ReleaseError: the download failed, or the file has another checksum.
    """
    sha256 = sha256.lower()
    if sha256 and not _SHA256.fullmatch(sha256):
        raise ReleaseError(
            f"celery_app_source_sha256 {sha256!r} is not a SHA-256 checksum. Set it to 64 hexadecimal digits, as "
            "sha256sum prints them"
        )
    if url and url.startswith("git+"):
        if sha256:
            raise ReleaseError(
                "celery_app_source is a git URL, which has no checksum. Remove celery_app_source_sha256, and add a "
                "commit after the @"
            )
        return clone(url, directory)
    if url:
        return fetch(url, sha256, directory)
    if sha256 and source is None:
        raise ReleaseError("celery_app_source_sha256 is set without celery_app_source. Set both, or remove it")
    if sha256 and source is not None and source.is_dir():
        raise ReleaseError(
            f"{source} (celery_app_source) is a directory, which has no checksum. Remove celery_app_source_sha256"
        )
    if sha256 and source is not None and source.exists():
        check_sum(source, sha256, str(source))
    return source, False
