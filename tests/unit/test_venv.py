"""An environment is made whole or not at all, and what may still run is kept."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._release import (
    Record,
    ReleaseError,
    file_sha256,
    fingerprint,
    read_record,
)
from ansible_collections.fleet.celery.plugins.module_utils._venv import directory_of, install, nearest, prune


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return packed(tmp_path / "flower.tar", ("flower-1-py3-none-any.whl", b"a wheel"))


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
    record = install(run, "/usr/bin/python3", artifact, Record("1", file_sha256(artifact)), directory)
    assert run.seen[0] == ["/usr/bin/python3", "-m", "venv", str(directory / "venv")]
    assert "--no-index" in run.seen[1]
    assert Path(run.seen[1][-1]).name == "flower-1-py3-none-any.whl"
    assert run.seen[2][-1] == "check"
    assert read_record(directory) == record
    assert record.wheels == {"flower-1-py3-none-any.whl": hashlib.sha256(b"a wheel").hexdigest()}
    assert [path.name for path in directory.iterdir()] == ["release.json"], "what was unpacked is still there"


@pytest.mark.parametrize("step", ["venv", "install", "check"])
def test_what_was_broken_off_is_made_anew(tmp_path: Path, artifact: Path, step: str) -> None:
    directory, record = tmp_path / "1-abc", Record("1", file_sha256(artifact))
    with pytest.raises(ReleaseError, match="no room"):
        install(Commands(step), "/usr/bin/python3", artifact, record, directory)
    assert read_record(directory) is None
    (directory / "half").touch()
    install(Commands(), "/usr/bin/python3", artifact, record, directory)
    assert read_record(directory)
    assert not (directory / "half").exists()


def wheel(name: str, version: str, code: str) -> tuple[str, bytes]:
    """Return the name and content of a wheel with one module and a command that runs its main()."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    return f"{name}-{version}-py3-none-any.whl", content.getvalue()


def packed(path: Path, *wheels: tuple[str, bytes]) -> Path:
    """Write an artifact of these wheels."""
    manifest = {"wheels": {name: hashlib.sha256(content).hexdigest() for name, content in wheels}}
    with tarfile.open(path, "w") as tar:
        for name, content in [*wheels, ("manifest.json", json.dumps(manifest).encode())]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def really(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def says(directory: Path, command: str) -> str:
    return subprocess.check_output([directory / "venv" / "bin" / command], text=True).strip()


def says_where(word: str) -> str:
    return f"import sys\ndef main():\n    print('{word}', sys.prefix)\n"


def test_what_a_release_shares_with_another_is_linked(tmp_path: Path) -> None:
    kept, dropped = wheel("kept", "1", says_where("kept")), wheel("dropped", "1", says_where("dropped"))
    first = packed(tmp_path / "1.tar", kept, dropped, wheel("shop", "1", says_where("old")))
    second = packed(tmp_path / "2.tar", kept, wheel("shop", "2", says_where("new")))
    one, two = tmp_path / "one", tmp_path / "two"
    old = install(really, sys.executable, first, Record("1", file_sha256(first)), one)
    before = fingerprint(one)
    new = install(really, sys.executable, second, Record("2", file_sha256(second)), two, others={one: old})

    assert [says(two, name) for name in ("kept", "shop")] == [f"kept {two}/venv", f"new {two}/venv"]
    assert not (two / "venv" / "bin" / "dropped").exists()
    assert sorted(new.wheels) == ["kept-1-py3-none-any.whl", "shop-2-py3-none-any.whl"]
    shared = "venv/lib/python{}.{}/site-packages/kept.py".format(*sys.version_info)
    assert (one / shared).samefile(two / shared)
    # The other is as it was.
    assert fingerprint(one) == before
    assert [says(one, name) for name in ("kept", "dropped", "shop")] == [
        f"kept {one}/venv",
        f"dropped {one}/venv",
        f"old {one}/venv",
    ]


def test_the_nearest_release_is_linked(tmp_path: Path) -> None:
    wheels = {"a": "1", "b": "1", "c": "1"}
    others = {
        tmp_path / "other": Record("0", "", finished="4", wheels={"a": "2"}),
        tmp_path / "far": Record("1", "", finished="3", wheels={"a": "1", "b": "2"}),
        tmp_path / "near": Record("2", "", finished="1", wheels={"a": "1", "b": "1"}),
        tmp_path / "later": Record("3", "", finished="2", wheels={"a": "1", "b": "1", "d": "1"}),
    }
    assert nearest(wheels, others) == tmp_path / "later"
    assert nearest({"a": "3"}, others) is None
    assert nearest(wheels, {}) is None


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
