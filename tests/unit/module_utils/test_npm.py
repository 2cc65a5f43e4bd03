"""Artifacts of Node.js programs."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils import _npm
from ansible_collections.fleet.celery.plugins.module_utils._npm import build, check_lock, install, pack
from ansible_collections.fleet.celery.plugins.module_utils._release import (
    Record,
    ReleaseError,
    file_sha256,
    read_record,
)

REDIS_UI = Path(__file__).parents[3] / "roles" / "redis_ui" / "files"


def lock(directory: Path, **package: Any) -> Path:
    """Write a package.json and a lock file of one package, and return their directory."""
    directory.mkdir(exist_ok=True)
    packages = {"": {"name": "page"}, "node_modules/left": {"version": "1.0.0", "integrity": "sha512-aa", **package}}
    content = {"name": "page", "version": "2.0", "lockfileVersion": 3, "packages": packages}
    (directory / "package-lock.json").write_text(json.dumps(content))
    (directory / "package.json").write_text("{}")
    return directory


def modules(directory: Path) -> Path:
    """Write the files that npm ci creates."""
    for name in ("left/index.js", "left/node_modules/right/x.js", ".package-lock.json", ".bin/left", "left/.bin/right"):
        path = directory / "node_modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return directory / "node_modules"


def test_an_artifact_is_reproducible(tmp_path: Path) -> None:
    first = modules(tmp_path / "a")
    pack(first, tmp_path / "a.tar")
    second = modules(tmp_path / "b")
    os.utime(second / "left" / "index.js", (1, 1))
    (second / "left" / "index.js").chmod(0o600)
    (second / ".package-lock.json").write_text("of another npm")
    pack(second, tmp_path / "b.tar")
    assert file_sha256(tmp_path / "a.tar") == file_sha256(tmp_path / "b.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [member.name for member in tar if member.isfile()] == [
            "node_modules/left/index.js",
            "node_modules/left/node_modules/right/x.js",
        ]
    (second / "left" / "index.js").write_text("changed")
    pack(second, tmp_path / "b.tar")
    assert file_sha256(tmp_path / "a.tar") != file_sha256(tmp_path / "b.tar")


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = modules(tmp_path)
    (path / "left" / "key").symlink_to("/etc/ssl")
    with pytest.raises(ReleaseError, match="node_modules/left/key is neither"):
        pack(path, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize("package", [{"integrity": "sha1-aa"}, {"integrity": "", "link": True}])
def test_a_package_without_a_hash_is_refused(tmp_path: Path, package: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError, match="no SHA-512 for node_modules/left"):
        check_lock(lock(tmp_path, **package) / "package-lock.json")


def test_a_lock_file_of_an_old_version_is_refused(tmp_path: Path) -> None:
    path = lock(tmp_path) / "package-lock.json"
    path.write_text(path.read_text().replace('"lockfileVersion": 3', '"lockfileVersion": 1'))
    with pytest.raises(ReleaseError, match="lockfileVersion 3"):
        check_lock(path)


def test_an_artifact_is_built_once_for_a_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def npm_ci(directory: Path) -> None:
        built.append(sorted(path.name for path in directory.iterdir()))
        modules(directory)

    monkeypatch.setattr(_npm, "npm_ci", npm_ci)
    source, cache = lock(tmp_path / "source"), tmp_path / "cache"
    artifact, version, changed = build(source, cache)
    assert (version, changed) == ("2.0", True)
    assert build(source, cache) == (artifact, version, False)
    assert built == [["package-lock.json", "package.json"]]
    assert sorted(path.name for path in source.iterdir()) == ["package-lock.json", "package.json"]
    (source / "package.json").write_text('{"overrides": {}}')
    other, _, changed = build(source, cache)
    assert changed
    assert other != artifact
    (source / "package.json").unlink()
    with pytest.raises(ReleaseError, match=r"package\.json does not exist"):
        build(source, cache)


def program(directory: Path, text: str) -> None:
    path = directory / "npm"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_npm_runs_no_scripts_and_its_error_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, 'echo "$@" >arguments')
    _npm.npm_ci(tmp_path)
    assert "ci --ignore-scripts" in (tmp_path / "arguments").read_text()
    program(tmp_path, "echo EINTEGRITY >&2; exit 1")
    with pytest.raises(ReleaseError, match="EINTEGRITY"):
        _npm.npm_ci(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ReleaseError, match="npm, which fetches the packages, is missing"):
        _npm.npm_ci(tmp_path)


def test_an_incomplete_directory_is_unpacked_again(tmp_path: Path) -> None:
    artifact, directory = tmp_path / "x.tar", tmp_path / "opt" / "2.0-abc"
    pack(modules(tmp_path), artifact)
    with pytest.raises(ReleaseError, match="has another checksum"):
        install(artifact, Record("2.0", "0" * 64), directory)
    assert not directory.exists()
    (directory / "half").mkdir(parents=True)
    record = Record("2.0", file_sha256(artifact))
    before = os.umask(0o077)
    try:
        install(artifact, record, directory)
    finally:
        os.umask(before)
    assert read_record(directory) == record
    assert not (directory / "half").exists()
    left = directory / "node_modules" / "left"
    assert (left / "index.js").read_text() == "left/index.js"
    # The program's user reads what root unpacked.
    assert [path.stat().st_mode & 0o777 for path in (left.parent, left, left / "index.js")] == [0o755, 0o755, 0o644]


def test_the_lock_file_of_the_redis_ui_names_no_registry_or_platform() -> None:
    assert check_lock(REDIS_UI / "package-lock.json") == ("redis-ui", "0.9.0")
    packages = json.loads((REDIS_UI / "package-lock.json").read_text())["packages"]
    # Debian's npm can't read aliases; redis-commander looks for some of its packages below itself.
    assert "npm:" not in (REDIS_UI / "package.json").read_text()
    installed = {name: entry for name, entry in packages.items() if name and not entry.get("optional")}
    assert {name.split("/")[1] for name in installed} == {"redis-commander"}
    assert not [name for name, entry in packages.items() if "resolved" in entry]
    assert not [name for name, entry in installed.items() if "os" in entry or "cpu" in entry]
