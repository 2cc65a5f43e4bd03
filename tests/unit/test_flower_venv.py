"""An environment is made whole or not at all, and what may still run is kept."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._release import (
    Record,
    ReleaseError,
    file_sha256,
    read_record,
)
from ansible_collections.fleet.celery.plugins.module_utils._venv import directory_of, install, prune


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    wheel = b"a wheel"
    manifest = {"wheels": {"flower-1-py3-none-any.whl": hashlib.sha256(wheel).hexdigest()}}
    path = tmp_path / "flower.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in {
            "flower-1-py3-none-any.whl": wheel,
            "manifest.json": json.dumps(manifest).encode(),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


class Commands:
    """Notes what is run, and fails at a word."""

    def __init__(self, fails_at: str = "-") -> None:
        self.fails_at = fails_at
        self.seen: list[list[str]] = []

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        self.seen.append(argv)
        return (1, "", "no room") if self.fails_at in argv else (0, "", "")


def test_all_wheels_are_installed_without_an_index(tmp_path: Path, artifact: Path) -> None:
    run, directory = Commands(), tmp_path / "opt" / "1-abc"
    record = Record("1", file_sha256(artifact))
    install(run, "/usr/bin/python3", artifact, record, directory)
    assert run.seen[0] == ["/usr/bin/python3", "-m", "venv", str(directory / "venv")]
    assert "--no-index" in run.seen[1]
    assert Path(run.seen[1][-1]).name == "flower-1-py3-none-any.whl"
    assert run.seen[2][-1] == "check"
    assert read_record(directory) == record
    assert [path.name for path in directory.iterdir()] == ["release.json"], "what was unpacked is still there"


@pytest.mark.parametrize("step", ["venv", "install", "check"])
def test_what_was_broken_off_is_made_anew(tmp_path: Path, artifact: Path, step: str) -> None:
    directory, record = tmp_path / "1-abc", Record("1", file_sha256(artifact))
    with pytest.raises(ReleaseError, match="no room"):
        install(Commands(step), "/usr/bin/python3", artifact, record, directory)
    assert read_record(directory) is None
    (directory / "half").touch()
    install(Commands(), "/usr/bin/python3", artifact, record, directory)
    assert read_record(directory) == record
    assert not (directory / "half").exists()


def test_another_artifact_is_refused(tmp_path: Path, artifact: Path) -> None:
    run = Commands()
    with pytest.raises(ReleaseError, match="checksum differs"):
        install(run, "/usr/bin/python3", artifact, Record("1", "0" * 64), tmp_path / "1-000")
    assert run.seen == []


def test_the_current_and_the_one_before_stay(tmp_path: Path) -> None:
    paths = [directory_of(tmp_path, "1", digit * 64) for digit in "abcd"]
    for age, path in enumerate(paths):
        path.mkdir()
        Record("1", "x").write(path)
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "not-ours").mkdir()
    prune(tmp_path, paths[3])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["not-ours", paths[0].name, paths[3].name])
