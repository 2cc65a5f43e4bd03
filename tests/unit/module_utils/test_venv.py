"""Virtual environments: complete, linked from other releases, and installed without running code of wheels."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._release import (
    Record,
    ReleaseError,
    file_sha256,
    fingerprint,
    read_record,
)
from ansible_collections.fleet.celery.plugins.module_utils._venv import (
    Run,
    install,
    lacking,
    nearest,
    unpacked,
)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return packed(tmp_path / "flower.tar", ("flower-1-py3-none-any.whl", b"a wheel"))


def make(run: Run, python: str, artifact: Path, directory: Path, others: Mapping[Path, Record] | None = None) -> Record:
    """Install an artifact into a directory named after the version."""
    sha256 = file_sha256(artifact)
    with unpacked(artifact, sha256, directory.parent) as (source, wheels):
        record = Record(directory.name, sha256, wheels=wheels)
        return install(run, python, source, record, directory, others=others or {}, installer=sys.executable)


class Commands:
    """A fake that records commands, and fails at one of them."""

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.seen: list[list[str]] = []

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        self.seen.append(argv)
        return (1, "", "no room") if len(self.seen) - 1 == self.fails_at else (0, "3.11.2", "")


def test_python_of_the_environment_is_never_run(tmp_path: Path, artifact: Path) -> None:
    run, directory = Commands(), tmp_path / "opt" / "1-abc"
    record = make(run, "/usr/bin/python3", artifact, directory)
    # Isolated: neither the caller's environment nor the current directory adds code.
    assert {tuple(argv[:2]) for argv in run.seen} == {("/usr/bin/python3", "-I"), (sys.executable, "-I")}
    assert [Path(argv[-1]).name for argv in run.seen if argv[0] == sys.executable] == ["flower-1-py3-none-any.whl"]
    assert record.python == "3.11.2"
    assert read_record(directory) == record
    assert record.wheels == {"flower-1-py3-none-any.whl": hashlib.sha256(b"a wheel").hexdigest()}
    assert [path.name for path in directory.iterdir()] == ["release.json"]
    assert [path.name for path in directory.parent.iterdir()] == ["1-abc"], "what was unpacked is still there"


@pytest.mark.parametrize("step", range(3))
def test_interrupted_installation_is_repeated(tmp_path: Path, artifact: Path, step: int) -> None:
    directory = tmp_path / "1-abc"
    with pytest.raises(ReleaseError, match="no room"):
        make(Commands(step), "/usr/bin/python3", artifact, directory)
    assert read_record(directory) is None
    (directory / "half").touch()
    make(Commands(), "/usr/bin/python3", artifact, directory)
    assert read_record(directory)
    assert not (directory / "half").exists()


def wheel(name: str, version: str, code: str, **others: str) -> tuple[str, bytes]:
    """Return the name and content of a wheel with one module, a command that runs its main(), and other files."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        **others,
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


def test_wheels_of_another_release_are_linked(tmp_path: Path) -> None:
    kept, dropped = wheel("kept", "1", says_where("kept")), wheel("dropped", "1", says_where("dropped"))
    first = packed(tmp_path / "1.tar", kept, dropped, wheel("shop", "1", says_where("old")))
    second = packed(tmp_path / "2.tar", kept, wheel("shop", "2", says_where("new")))
    one, two = tmp_path / "one", tmp_path / "two"
    old = make(really, sys.executable, first, one)
    packages = "venv/lib/python{}.{}/site-packages".format(*sys.version_info)
    # Such as a settings file, beside which an application keeps its database.
    (one / packages / "db.sqlite3").touch()
    before = fingerprint(one)
    new = make(really, sys.executable, second, two, {one: old})

    assert [says(two, name) for name in ("kept", "shop")] == [f"kept {two}/venv", f"new {two}/venv"]
    assert not (two / "venv" / "bin" / "dropped").exists()
    assert sorted(new.wheels) == ["kept-1-py3-none-any.whl", "shop-2-py3-none-any.whl"]
    assert (one / packages / "kept.py").samefile(two / packages / "kept.py")
    assert not (two / packages / "db.sqlite3").exists()
    # The other release is unchanged.
    assert fingerprint(one) == before
    assert [says(one, name) for name in ("kept", "dropped", "shop")] == [
        f"kept {one}/venv",
        f"dropped {one}/venv",
        f"old {one}/venv",
    ]


def test_bytecode_is_linked(tmp_path: Path) -> None:
    kept = wheel("kept", "1", says_where("kept"))
    first, second = packed(tmp_path / "1.tar", kept), packed(tmp_path / "2.tar", kept, wheel("shop", "2", ""))
    old = make(really, sys.executable, first, tmp_path / "one")
    make(really, sys.executable, second, tmp_path / "two", {tmp_path / "one": old})
    one, two = (next((tmp_path / each / "venv").glob("lib/*/*/__pycache__/kept.*.pyc")) for each in ("one", "two"))
    assert one.samefile(two)
    assert list((tmp_path / "two" / "venv").glob("lib/*/*/__pycache__/shop.*.pyc"))


def test_installation_runs_no_code_of_a_wheel(tmp_path: Path) -> None:
    attack = f"import pathlib; pathlib.Path({str(tmp_path / 'done')!r}).touch()\n"
    evil = dict.fromkeys(("evil.pth", "sitecustomize.py", "installer.py", "evil-1.data/scripts/python"), attack)
    make(really, sys.executable, packed(tmp_path / "1.tar", wheel("evil", "1", attack, **evil)), tmp_path / "1")
    assert not (tmp_path / "done").exists()
    # The fixture is valid: Python of the environment runs the code.
    python = tmp_path / "1" / "venv" / "bin" / "python3"
    subprocess.run([python, "-c", ""], check=True)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("path", ["../../../../evil", "/evil", "evil-1.data/scripts/../../evil"])
def test_wheel_with_a_path_outside_of_the_environment_is_refused(tmp_path: Path, path: str) -> None:
    artifact = packed(tmp_path / "1.tar", wheel("evil", "1", "", **{path: "attack"}))
    with pytest.raises(
        ReleaseError, match=r"evil-1-py3-none-any\.whl contains .*, which is outside of the environment"
    ):
        make(really, sys.executable, artifact, tmp_path / "1")
    assert read_record(tmp_path / "1") is None


def test_two_wheels_may_contain_the_same_file(tmp_path: Path) -> None:
    wheels = [wheel(name, "1", says_where(name), **{"tests/__init__.py": name}) for name in ("one", "two")]
    make(really, sys.executable, packed(tmp_path / "1.tar", *wheels), tmp_path / "1")
    venv = f"{tmp_path}/1/venv"
    assert [says(tmp_path / "1", name) for name in ("one", "two")] == [f"one {venv}", f"two {venv}"]


def test_release_with_most_common_wheels_is_linked(tmp_path: Path) -> None:
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


def test_artifact_with_another_checksum_is_refused(tmp_path: Path, artifact: Path) -> None:
    with (
        pytest.raises(ReleaseError, match="has another checksum than the artifact"),
        unpacked(artifact, "0" * 64, tmp_path),
    ):
        pass


def test_wheel_with_another_checksum_is_refused(tmp_path: Path) -> None:
    run, record = Commands(), Record("1", "", wheels={"shop-1-py3-none-any.whl": "0" * 64})
    (tmp_path / "shop-1-py3-none-any.whl").write_text("another")
    with pytest.raises(
        ReleaseError, match=r"shop-1-py3-none-any\.whl has another checksum than the wheel that was built"
    ):
        install(run, "/usr/bin/python3", tmp_path, record, tmp_path / "1")
    assert run.seen == []


def test_wheels_of_no_release_are_lacking(tmp_path: Path) -> None:
    others = {tmp_path / "1": Record("1", "", wheels={"a": "1", "b": "1", "d": "1"})}
    assert lacking({"a": "1", "b": "2", "c": "1"}, others) == ["b", "c"]
    assert lacking({"a": "1", "b": "2"}, {}) == ["a", "b"]
