"""Artifacts: contents, caching, downloads and refusals."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import tarfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.fleet.celery.plugins.module_utils import _artifact
from ansible_collections.fleet.celery.plugins.module_utils._artifact import (
    Inputs,
    any_glibc,
    build,
    build_wheel,
    fetch,
    find_requirements,
    local_requirements,
    manifest_of,
    pack,
    ready_artifact,
    requirement_texts,
    unread_locks,
    usable,
)
from ansible_collections.fleet.celery.plugins.module_utils._release import MANIFEST, ReleaseError, file_sha256, unpack
from ansible_collections.fleet.celery.plugins.module_utils._resolve import Package
from ansible_collections.fleet.celery.plugins.module_utils._source import fetch as fetch_url
from ansible_collections.fleet.celery.plugins.module_utils._source import obtain, read_url
from ansible_collections.fleet.celery.plugins.module_utils._tree import digest_of, source_files
from ansible_collections.fleet.celery.plugins.modules import celery_artifact
from wheels import wheel


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def project(directory: Path) -> Path:
    """Write a project with leftovers of builds and tools."""
    for name in (
        "pyproject.toml",
        "shop/__init__.py",
        "shop/build/__init__.py",
        "shop/data.txt",
        "build/lib/shop/__init__.py",
        "dist/shop-1.0.tar.gz",
        "shop.egg-info/PKG-INFO",
        "shop/__pycache__/x.cpython-311.pyc",
        ".git/HEAD",
        ".venv/bin/python",
        "venv/bin/python",
        "htmlcov/index.html",
        "node_modules/x/index.js",
    ):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[project]\nname = 'shop'\n" if name == "pyproject.toml" else name)
    shutil.rmtree(directory / ".git")
    return directory


UV_LOCK = """\
version = 1
revision = 3
requires-python = ">=3.9"

[[package]]
name = "site"
version = "1.0"
source = { virtual = "." }
dependencies = [{ name = "vine" }]

[package.dev-dependencies]
dev = [{ name = "amqp" }]
docs = [{ name = "amqp" }]
"""
LOCKED = """
[[package]]
name = "{0}"
version = "{1}"
source = {{ registry = "https://index.example/simple" }}
wheels = [{{ url = "https://index.example/{0}-{1}-py3-none-any.whl", hash = "sha256:{2}" }}]
"""
PROJECT = "[project]\nname = 'site'\nversion = '1.0'\ndependencies = ['vine']\n"


def test_requirements_file_in_the_source_directory_is_found(tmp_path: Path) -> None:
    source, kept = tmp_path / "source", tmp_path / "kept"
    source.mkdir()
    assert find_requirements(source, kept) is None
    (source / "pyproject.toml").write_text(PROJECT)
    assert find_requirements(source, kept) == source / "pyproject.toml"
    (source / "pyproject.toml").write_text(f"{PROJECT}[build-system]\nrequires = []\n")
    assert find_requirements(source, kept) is None
    (source / "requirements.txt").touch()
    assert find_requirements(source, kept) == source / "requirements.txt"
    (source / "requirements.lock").touch()
    assert find_requirements(source, kept) == source / "requirements.lock"
    assert find_requirements(source / "requirements.txt", kept) is None


def test_lock_of_uv_decides_versions_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f"{PROJECT}[dependency-groups]\ndev = ['amqp']\ndocs = ['amqp']\n")
    hashes = {"vine": "a" * 64, "amqp": "b" * 64}
    locked = "".join(LOCKED.format(name, "5.1", sha256) for name, sha256 in hashes.items())
    (tmp_path / "uv.lock").write_text(UV_LOCK + locked)
    file = find_requirements(tmp_path, tmp_path / "kept")
    assert file
    assert file.read_text().split() == ["vine==5.1", "\\", f"--hash=sha256:{hashes['vine']}"]
    (tmp_path / "uv.lock").write_text("version = 99\n")
    with pytest.raises(ReleaseError, match=rf"{tmp_path}/uv\.lock can't be read:\n(?s:.*)celery_app_requirements"):
        find_requirements(tmp_path, tmp_path / "kept")


def test_lock_of_another_tool_is_reported_unless_requirements_stand_for_it(tmp_path: Path) -> None:
    (tmp_path / "poetry.lock").touch()
    assert unread_locks(tmp_path, None) == ["poetry.lock"]
    assert unread_locks(tmp_path, tmp_path / "pyproject.toml") == ["poetry.lock"]
    assert unread_locks(tmp_path, tmp_path / "requirements.txt") == []
    assert unread_locks(None, None) == []


def test_old_celery_is_refused_before_the_download(tmp_path: Path) -> None:
    wheel(tmp_path, "celery-4.4.1")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("--no-index\n--find-links .\ncelery\n")
    with pytest.raises(ReleaseError, match=r"celery 4\.4\.1 is too old\. Require celery>=5\.3 of the application"):
        build(Inputs(requirements=requirements), directory=tmp_path / "cache", python="3.11.2", machine="x86_64")


def test_leftovers_of_builds_are_not_source_files(tmp_path: Path) -> None:
    source = project(tmp_path)
    found = {str(path.relative_to(source)) for path in source_files(source)}
    assert found == {"pyproject.toml", "shop/__init__.py", "shop/build/__init__.py", "shop/data.txt"}


def test_digest_depends_on_contents_and_names_only(tmp_path: Path) -> None:
    source = project(tmp_path / "a")
    before = digest_of(source_files(source), source)
    assert digest_of(source_files(project(tmp_path / "b")), tmp_path / "b") == before
    (source / "build" / "more").touch()
    os.utime(source / "pyproject.toml", (1, 1))
    assert digest_of(source_files(source), source) == before
    assert digest_of(source_files(source), source, "3.13.5") != before
    (source / "shop" / "data.txt").rename(source / "shop" / "renamed.txt")
    renamed = digest_of(source_files(source), source)
    assert renamed != before
    (source / "shop" / "build" / "__init__.py").write_text("changed")
    assert digest_of(source_files(source), source) != renamed


def test_build_ignores_leftovers_and_creates_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = project(tmp_path / "source")
    seen: set[str] = set()

    def fake_pip(arguments: list[str], **_: str) -> str:
        copy = Path(arguments[-1])
        seen.update(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
        (copy / "build").mkdir()
        wheel(Path(arguments[arguments.index("--wheel-dir") + 1]), "shop-1.0")
        return ""

    monkeypatch.setattr(_artifact, "pip", fake_pip)
    before = sorted(source.rglob("*"))
    assert build_wheel(source, tmp_path).read_bytes()
    assert seen == {"pyproject.toml", "shop/__init__.py", "shop/build/__init__.py", "shop/data.txt"}
    assert sorted(source.rglob("*")) == before


def test_artifact_bytes_depend_on_content_only(tmp_path: Path) -> None:
    sums = []
    for number, names in enumerate((["a-1.0", "b-2.0"], ["b-2.0", "a-1.0"])):
        wheels = tmp_path / str(number)
        wheels.mkdir()
        for name in names:
            (wheels / f"{name}-py3-none-any.whl").write_text(name)
            os.utime(wheels / f"{name}-py3-none-any.whl", (number, number))
        pack(wheels, tmp_path / f"{number}.tar", {"name": "shop"})
        sums.append(file_sha256(tmp_path / f"{number}.tar"))
    assert sums[0] == sums[1]
    (tmp_path / "1" / "a-1.0-py3-none-any.whl").write_text("other")
    pack(tmp_path / "1", tmp_path / "1.tar", {"name": "shop"})
    assert file_sha256(tmp_path / "1.tar") != sums[0]


def test_packed_wheels_are_unpacked(tmp_path: Path) -> None:
    path = wheel(tmp_path / "wheels", "shop-1.0")
    pack(tmp_path / "wheels", tmp_path / "shop.tar", {"name": "shop", "version": "1.0"})
    (tmp_path / "out").mkdir()
    assert unpack(tmp_path / "shop.tar", tmp_path / "out") == {path.name: file_sha256(path)}
    assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert manifest_of(tmp_path / "shop.tar")["version"] == "1.0"


def crafted(path: Path, files: dict[str, bytes], manifest: dict[str, object] | None) -> Path:
    if manifest is not None:
        files = {**files, MANIFEST: json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


SHA_A = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # of the letter a


@pytest.mark.parametrize(
    ("files", "wheels", "message"),
    [
        ({"a.whl": b"b"}, {"a.whl": SHA_A}, "a.whl in .* has another checksum than in its manifest"),
        ({"a.whl": b"a", "b.whl": b"b"}, {"a.whl": SHA_A}, "does not contain exactly the wheels of its manifest"),
        ({}, {"a.whl": SHA_A}, "does not contain exactly the wheels of its manifest"),
        ({"../a.whl": b"a"}, {"a.whl": SHA_A}, r"contains \.\./a.whl, which is not a regular file"),
        ({"sub/a.whl": b"a"}, {"a.whl": SHA_A}, "which is not a regular file"),
    ],
)
def test_unpack_refuses_a_tampered_artifact(
    tmp_path: Path, files: dict[str, bytes], wheels: dict[str, str], message: str
) -> None:
    artifact = crafted(tmp_path / "x.tar", files, {"wheels": wheels})
    (tmp_path / "out").mkdir()
    with pytest.raises(ReleaseError, match=message):
        unpack(artifact, tmp_path / "out")
    assert not (tmp_path / "a.whl").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_unpack_refuses_a_member_that_is_not_a_regular_file(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("a.whl")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    (tmp_path / "out").mkdir()
    with pytest.raises(ReleaseError, match="not a regular file"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_unpack_refuses_an_artifact_without_manifest(tmp_path: Path) -> None:
    artifact = crafted(tmp_path / "x.tar", {"a.whl": b"a"}, None)
    (tmp_path / "out").mkdir()
    for read in (manifest_of, lambda path: unpack(path, tmp_path / "out")):
        with pytest.raises(ReleaseError, match="no manifest"):
            read(artifact)


def wheels_of(artifact: Path) -> set[str]:
    with tarfile.open(artifact) as tar:
        return set(tar.getnames()) - {MANIFEST}


def test_artifact_is_rebuilt_only_after_a_change(tmp_path: Path) -> None:
    source = wheel(tmp_path / "source", "shop-1.0")
    wheelhouse = tmp_path / "wheelhouse"
    wheel(wheelhouse, "amqp-5.4")

    def make(python: str = "3.11.2") -> tuple[Path, bool]:
        return build(
            Inputs(source, wheelhouse=wheelhouse), directory=tmp_path / "cache", python=python, machine="x86_64"
        )

    first, built = make()
    assert built
    assert wheels_of(first) == {"shop-1.0-py3-none-any.whl", "amqp-5.4-py3-none-any.whl"}
    manifest = manifest_of(first)
    assert (manifest["name"], manifest["version"], manifest["python"]) == ("shop", "1.0", "3.11")
    assert make() == (first, False)
    wheel(tmp_path / "source", "shop-1.0", "VALUE = 2\n")
    second, built = make()
    assert built
    assert second != first
    wheel(wheelhouse, "amqp-5.4", "VALUE = 2\n")
    third, built = make()
    assert built
    assert third not in (first, second)
    fourth, built = make("3.13.5")
    assert built
    assert fourth != third
    assert make() == (third, False)


def test_wheelhouse_with_several_pythons_gives_each_its_wheels(tmp_path: Path) -> None:
    names = {
        "a-1.0": "cp311-cp311-manylinux_2_28_x86_64",
        "b-1.0": "cp313-cp313-manylinux2014_x86_64.manylinux_2_17_x86_64",
        "c-1.0": "cp38-abi3-linux_x86_64",
        "d-1.0": "cp311-cp311-manylinux_2_28_aarch64",
        "e-1.0": "py2.py3-none-any",
        "f-1.0": "cp313-cp313-musllinux_1_2_x86_64",
    }
    for name, tag in names.items():
        wheel(tmp_path, name, tag=tag)

    def letters(python: str, machine: str = "x86_64") -> str:
        return "".join(path.name[0] for path in usable(tmp_path, python, any_glibc(machine)))

    assert letters("3.11.2") == "ace"
    assert letters("3.13.5") == "bce"
    assert letters("3.11.2", "aarch64") == "de"


def test_source_takes_precedence_over_its_older_wheel(tmp_path: Path) -> None:
    source = wheel(tmp_path / "source", "shop-1.0", "VALUE = 'new'\n")
    for name in ("shop-1.0", "shop-0.9", "amqp-5.4"):
        wheel(tmp_path / "wheelhouse", name, "VALUE = 'old'\n")
    artifact, _ = build(
        Inputs(source, wheelhouse=tmp_path / "wheelhouse"),
        directory=tmp_path / "cache",
        python="3.11.2",
        machine="x86_64",
    )
    assert wheels_of(artifact) == {"shop-1.0-py3-none-any.whl", "amqp-5.4-py3-none-any.whl"}
    with tarfile.open(artifact) as tar:
        packed = tar.extractfile(source.name)
        assert packed
        assert packed.read() == source.read_bytes()


def test_requirements_are_downloaded_for_the_hosts_python(tmp_path: Path) -> None:
    wheel(tmp_path / "links", "amqp-5.4", tag="cp313-cp313-manylinux_2_28_x86_64")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"--find-links {tmp_path / 'links'}\namqp==5.4 ; python_version >= '3.12'\n")
    artifact, _ = build(Inputs(requirements=requirements), directory=tmp_path, python="3.13.5", machine="x86_64")
    assert wheels_of(artifact) == {"amqp-5.4-cp313-cp313-manylinux_2_28_x86_64.whl"}
    requirements.write_text(f"--find-links {tmp_path / 'links'}\namqp==5.4\n")
    with pytest.raises(ReleaseError, match=r"can't be resolved for Python 3\.11\.2 on x86_64"):
        build(Inputs(requirements=requirements), directory=tmp_path, python="3.11.2", machine="x86_64")


def refusal(source: Path, tmp_path: Path) -> str:
    with pytest.raises(ReleaseError) as refused:
        build(Inputs(source), directory=tmp_path / "cache", python="3.11.2", machine="x86_64")
    return str(refused.value)


def test_invalid_source_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none", tmp_path) == f"{tmp_path}/none does not exist"
    message = "can't be built, because it has neither a pyproject.toml of a package nor a setup.py"
    assert refusal(tmp_path, tmp_path).startswith(f"{tmp_path} {message}")
    (tmp_path / "README.md").touch()
    message = "(celery_app_source) is neither a directory nor a wheel (.whl), an sdist"
    assert refusal(tmp_path / "README.md", tmp_path).startswith(f"{tmp_path}/README.md {message}")


@pytest.mark.parametrize("source", ["pretix", "pretix>=2026", "pretix[memcached]"])
def test_package_without_an_exact_version_is_refused(tmp_path: Path, source: str) -> None:
    assert "Name a package of the index with its exact version, such as pretix==1.0" in refusal(Path(source), tmp_path)


def test_directory_with_dependency_groups_only_is_refused_with_the_command_that_locks_them(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[dependency-groups]\nmain = ['celery']\n")
    assert "uv pip compile --group main -o requirements.lock" in refusal(tmp_path, tmp_path)


def test_wheelhouse_without_wheels_is_refused(tmp_path: Path) -> None:
    wheelhouse = tmp_path / "wheelhouse"
    wheel(wheelhouse, "a-1.0", tag="cp313-cp313-linux_x86_64")
    with pytest.raises(ReleaseError, match=r"contains no wheels for Python 3\.11\.2"):
        build(Inputs(wheelhouse=wheelhouse), directory=tmp_path / "cache", python="3.11.2", machine="x86_64")
    shutil.copy(wheelhouse / "a-1.0-cp313-cp313-linux_x86_64.whl", wheelhouse / "nonsense.whl")
    with pytest.raises(ReleaseError, match="nonsense"):
        build(Inputs(wheelhouse=wheelhouse), directory=tmp_path / "cache", python="3.11.2", machine="x86_64")
    assert not list((tmp_path / "cache").glob("*"))


def test_targets_of_links_are_source_files(tmp_path: Path) -> None:
    source, common = tmp_path / "shop", tmp_path / "common"
    source.mkdir()
    common.mkdir()
    (common / "money.py").write_text("VAT = 19\n")
    (source / "common").symlink_to(common)
    (source / "itself").symlink_to(".")
    (source / "gone").symlink_to("nowhere")
    assert [path.relative_to(source).as_posix() for path in source_files(source)] == ["common/money.py"]
    before = digest_of(source_files(source), source)
    (common / "money.py").write_text("VAT = 20\n")
    assert digest_of(source_files(source), source) != before


def test_included_requirements_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    top, base, limits = (
        tmp_path / name for name in ("requirements.txt", "requirements/base.txt", "requirements/limits.txt")
    )
    top.write_text("\ufeff-r requirements/base.txt  # shared\n-r https://example.com/more.txt\n")
    base.write_text("-c limits.txt\n-r ../requirements.txt\nvine==5.1\n", encoding="utf-16")
    limits.write_text("amqp<6\n")
    texts = requirement_texts(top)
    assert list(texts) == [top, base, limits]
    assert "vine==5.1" in texts[base]
    limits.write_bytes(b"# caf\xe9\n")
    with pytest.raises(ReleaseError, match=r"limits\.txt is not UTF-8"):
        requirement_texts(top)
    limits.unlink()
    with pytest.raises(ReleaseError, match=r"limits\.txt does not exist"):
        requirement_texts(top)


@pytest.mark.parametrize(
    "line",
    ["./lib", "-e ./lib", "--editable=lib/../lib/", "lib/", "lib @ file:./lib", "file:lib/ ; python_version > '3'"],
)
def test_required_directory_is_a_local_requirement(tmp_path: Path, line: str) -> None:
    (tmp_path / "lib").mkdir()
    assert local_requirements([f"vine==5.1\n{line}\n"], tmp_path) == {tmp_path / "lib"}


def test_other_lines_are_no_local_requirements(tmp_path: Path) -> None:
    (tmp_path / "vine").mkdir()
    lines = ["vine", "vine @ https://example.com/vine/", "# ./vine", "-r ./vine", "git+https://example.com/vine/"]
    assert local_requirements(lines, tmp_path) == set()


def test_included_requirements_file_changes_the_artifact(tmp_path: Path) -> None:
    wheel(tmp_path / "links", "amqp-5.4")
    wheel(tmp_path / "links", "vine-5.1")
    (tmp_path / "requirements.txt").write_text("-r base.txt\n")
    base = tmp_path / "base.txt"

    def make(text: str, python: str = "3.11.2") -> tuple[set[str], bool]:
        base.write_text(f"--find-links links\n{text}")
        requirements = tmp_path / "requirements.txt"
        artifact, built = build(Inputs(requirements=requirements), directory=tmp_path, python=python, machine="x86_64")
        return wheels_of(artifact), built

    assert make("amqp==5.4\n") == ({"amqp-5.4-py3-none-any.whl"}, True)
    assert make("amqp==5.4\n") == ({"amqp-5.4-py3-none-any.whl"}, False)
    # A patch version of Python changes the artifact only if a marker uses it.
    assert make("amqp==5.4\n", "3.11.9") == ({"amqp-5.4-py3-none-any.whl"}, False)
    assert make("vine==5.1 ; python_full_version < '3.11.3'\namqp==5.4\n", "3.11.9")[0] == {"amqp-5.4-py3-none-any.whl"}
    both = {"amqp-5.4-py3-none-any.whl", "vine-5.1-py3-none-any.whl"}
    assert make("vine==5.1 ; python_full_version < '3.11.3'\namqp==5.4\n") == (both, True)


HERE = (platform.python_version(), platform.machine())
OTHER = "3.99.1"
OTHER_MACHINE = "aarch64" if HERE[1] == "x86_64" else "x86_64"


def sdist_only(directory: Path, tag: str) -> Path:
    """Write an sdist that builds a wheel with this tag, and return a requirements file with the sdist."""
    project = directory / "docopt"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'b'\nbackend-path = ['.']\n"
    )
    (project / "b.py").write_text(
        "import shutil\ndef build_wheel(directory, *rest):\n"
        f"    return shutil.copy('docopt-0.6-{tag}.whl', directory).split('/')[-1]\n"
    )
    wheel(project, "docopt-0.6", tag=tag)
    (project / "PKG-INFO").write_text("Metadata-Version: 2.2\nName: docopt\nVersion: 0.6\n")
    links = directory / "links"
    links.mkdir()
    with tarfile.open(links / "docopt-0.6.tar.gz", "w:gz") as tar:
        tar.add(project, "docopt-0.6")
    requirements = directory / "requirements.txt"
    requirements.write_text("--find-links links\ndocopt==0.6\n")
    return requirements


@pytest.mark.parametrize("python", [HERE[0], OTHER])
def test_dependency_without_a_wheel_is_built_if_the_wheel_is_portable(tmp_path: Path, python: str) -> None:
    requirements = sdist_only(tmp_path, "py3-none-any")
    artifact, _ = build(Inputs(requirements=requirements), directory=tmp_path, python=python, machine="x86_64")
    assert wheels_of(artifact) == {"docopt-0.6-py3-none-any.whl"}


@pytest.mark.parametrize(("glibc", "machine"), [("2.99", HERE[1]), ("2.36", OTHER_MACHINE)])
def test_compiled_wheel_of_another_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glibc: str, machine: str
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", glibc))
    python = HERE[0]
    tag = f"cp{python.split('.')[0]}{python.split('.')[1]}"
    requirements = sdist_only(tmp_path, f"{tag}-{tag}-linux_{HERE[1]}")
    with pytest.raises(ReleaseError) as refused:
        build(Inputs(requirements=requirements), directory=tmp_path, python=python, machine=machine)
    message = str(refused.value)
    assert message.startswith(f"docopt 0.6 has no wheel for Python {python} on {machine}, and docopt-0.6-{tag}")
    assert "may not run there. Build its wheel on such a host: pip wheel --no-deps docopt==0.6." in message


def test_compiled_wheel_of_a_system_like_the_oldest_hosts_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    python, machine = HERE
    tag = f"cp{python.split('.')[0]}{python.split('.')[1]}"
    requirements = sdist_only(tmp_path, f"{tag}-{tag}-linux_{machine}")
    artifact, _ = build(Inputs(requirements=requirements), directory=tmp_path, python=python, machine=machine)
    assert wheels_of(artifact) == {f"docopt-0.6-{tag}-{tag}-linux_{machine}.whl"}


def test_wheel_with_the_newest_glibc_of_the_same_machine_is_chosen(tmp_path: Path) -> None:
    names = {
        tag: wheel(tmp_path / "links", "libsass-0.23", tag=f"cp38-abi3-{tag}_x86_64").as_uri()
        for tag in ("manylinux1", "manylinux_2_28", "manylinux_2_40", "linux")
    }

    def get(directory: Path) -> None:
        package = Package("libsass", "0.23", dict.fromkeys(names.values(), ""), "")
        fetch([package], {}, directory, kept=tmp_path / "kept", python="3.11.2", machine="x86_64")

    for expected in ("manylinux_2_28", "manylinux1", "linux"):
        directory = tmp_path / expected
        directory.mkdir()
        get(directory)
        assert [path.name for path in directory.iterdir()] == [names.pop(expected).rpartition("/")[2]]
    with pytest.raises(ReleaseError, match=r"libsass 0\.23 has no wheel .*, and no source to build one from"):
        get(tmp_path)


def locked(directory: Path, *more: str) -> Path:
    """Write a lock with the hash of a wheel, and return it."""
    digest = sha256(wheel(directory / "links", "vine-5.1").read_bytes()).hexdigest()
    path = directory / "requirements.lock"
    path.write_text("\n".join(["--find-links links", f"vine==5.1 --hash=sha256:{digest}", *more]) + "\n")
    return path


def test_only_files_with_locked_hashes_are_downloaded(tmp_path: Path) -> None:
    lock = locked(tmp_path)
    artifact, _ = build(Inputs(requirements=lock), directory=tmp_path / "a", python="3.11.2", machine="x86_64")
    assert wheels_of(artifact) == {"vine-5.1-py3-none-any.whl"}
    wheel(tmp_path / "links", "vine-5.1", "VALUE = 'another'\n")
    with pytest.raises(ReleaseError, match=r"has no hash of a file of vine 5\.1 that fits Python 3\.11\.2"):
        build(Inputs(requirements=lock), directory=tmp_path / "b", python="3.11.2", machine="x86_64")


def test_incomplete_lock_is_refused(tmp_path: Path) -> None:
    source = wheel(tmp_path / "source", "shop-1.0", needs="amqp")
    wheel(tmp_path / "links", "amqp-5.4")
    with pytest.raises(ReleaseError, match=r"has hashes, but none for amqp 5\.4\. Lock all packages"):
        build(Inputs(source, requirements=locked(tmp_path)), directory=tmp_path, python="3.11.2", machine="x86_64")


def test_requirements_and_dependencies_of_the_source_are_resolved_together(tmp_path: Path) -> None:
    source = wheel(tmp_path / "source", "shop-1.0", needs="amqp")
    for name in ("amqp-5.3", "amqp-5.4", "gunicorn-23.0"):
        wheel(tmp_path / "links", name)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("--find-links links\ngunicorn\namqp<5.4\n")
    artifact, _ = build(
        Inputs(source, requirements=requirements), directory=tmp_path, python="3.11.2", machine="x86_64"
    )
    names = {"amqp-5.3", "gunicorn-23.0", "shop-1.0"}
    assert wheels_of(artifact) == {f"{name}-py3-none-any.whl" for name in names}


def test_distribution_of_an_index_is_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel(tmp_path / "house", "Pretix-2026.7", needs="vine")
    wheel(tmp_path / "house", "Pretix-2026.8")
    wheel(tmp_path / "house", "vine-5.1")
    result = run(capsys, source="pretix==2026.7", directory=str(tmp_path / "cache"), wheelhouse=str(tmp_path / "house"))
    assert (result["name"], result["version"]) == ("pretix", "2026.7")
    assert wheels_of(Path(result["path"])) == {"Pretix-2026.7-py3-none-any.whl", "vine-5.1-py3-none-any.whl"}


def test_compiled_source_for_another_python_is_refused(tmp_path: Path) -> None:
    source = wheel(tmp_path / "source", "shop-1.0", tag="cp399-cp399-linux_x86_64")
    with pytest.raises(ReleaseError, match=r"shop-1\.0-cp399.* does not fit the hosts' Python 3\.11\.2 on x86_64"):
        build(Inputs(source, wheelhouse=tmp_path), directory=tmp_path / "cache", python="3.11.2", machine="x86_64")
    assert not list((tmp_path / "cache").iterdir())


def artifact_of(directory: Path, tag: str = "py3-none-any", python: str = "3.11") -> Path:
    """Write an artifact of one wheel."""
    wheel(directory / "wheels", "shop-1.0", tag=tag)
    pack(directory / "wheels", directory / "shop.tar", {"name": "shop", "version": "1.0", "python": python})
    return directory / "shop.tar"


@pytest.mark.parametrize(
    "tag", ["py3-none-any", "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", "cp38-abi3-linux_x86_64"]
)
def test_fitting_artifact_is_used_unchanged(tmp_path: Path, tag: str) -> None:
    artifact = artifact_of(tmp_path, tag)
    before = file_sha256(artifact)
    assert ready_artifact(Inputs(artifact), python="3.11.2", machine="x86_64") == artifact
    assert file_sha256(artifact) == before


def test_source_that_is_not_an_artifact_is_built(tmp_path: Path) -> None:
    for source in (None, tmp_path, tmp_path / "gone.tar", wheel(tmp_path, "shop-1.0")):
        assert ready_artifact(Inputs(source), python="3.11.2", machine="x86_64") is None


@pytest.mark.parametrize(
    ("tag", "python", "message"),
    [
        (
            "cp311-cp311-manylinux_2_28_aarch64",
            "3.11",
            r"shop\.tar \(celery_app_source\) was built for Python 3\.11 on aarch64, but hosts have Python 3\.11\.2 on "
            r"x86_64, where shop-1\.0-cp311-cp311-manylinux_2_28_aarch64\.whl can't be installed\. Set it to an",
        ),
        (
            "cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64",
            "3.13",
            r"was built for Python 3\.13 on x86_64, but hosts have Python 3\.11\.2 on x86_64, where shop-1\.0-cp313",
        ),
        (
            "py3-none-any",
            "3.13",
            r"was built for Python 3\.13, but hosts have Python 3\.11\.2 on x86_64\. Set it to an",
        ),
        (
            "cp311-cp311-musllinux_1_2_x86_64",
            "3.11",
            r"Python 3\.11 on x86_64, but .* where shop-1\.0-cp311-cp311-musl",
        ),
        ("cp311-cp311-macosx_11_0_arm64", "3.11", r"Python 3\.11 on macosx_11_0_arm64, but hosts have"),
    ],
)
def test_artifact_for_other_hosts_is_refused(tmp_path: Path, tag: str, python: str, message: str) -> None:
    with pytest.raises(ReleaseError, match=message):
        ready_artifact(Inputs(artifact_of(tmp_path, tag, python)), python="3.11.2", machine="x86_64")


WHOLE = {"name": "shop", "version": "1.0", "python": "3.11"}
A = "a-1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("files", "manifest", "message"),
    [
        ({A: b"a"}, None, "has no manifest"),
        ({A: b"b"}, {**WHOLE, "wheels": {A: SHA_A}}, "a.* has another checksum than in its manifest"),
        ({A: b"a"}, {"name": "shop", "version": "1.0", "wheels": {A: SHA_A}}, "'python'"),
        ({A: b"a"}, {**WHOLE, "version": 1.0, "wheels": {A: SHA_A}}, "its manifest is invalid"),
        ({A: b"a"}, {**WHOLE, "wheels": [A]}, "list indices"),
        ({}, {**WHOLE, "wheels": {}}, "contains no wheels"),
        ({"a.whl": b"a"}, {**WHOLE, "wheels": {"a.whl": SHA_A}}, "Invalid wheel filename"),
        ({MANIFEST: b"none"}, None, "Expecting value"),
    ],
)
def test_damaged_artifact_is_refused(
    tmp_path: Path, files: dict[str, bytes], manifest: dict[str, object] | None, message: str
) -> None:
    artifact = crafted(tmp_path / "x.tar", files, manifest)
    with pytest.raises(
        ReleaseError, match=rf"^{artifact} \(celery_app_source\) is not a valid artifact of .*{message}.*Build it again"
    ):
        ready_artifact(Inputs(artifact), python="3.11.2", machine="x86_64")


@pytest.mark.parametrize("length", [0, 100, 1500])
def test_truncated_artifact_is_refused(tmp_path: Path, length: int) -> None:
    artifact = artifact_of(tmp_path)
    artifact.write_bytes(artifact.read_bytes()[:length])
    with pytest.raises(ReleaseError, match="is not a valid artifact of"):
        ready_artifact(Inputs(artifact), python="3.11.2", machine="x86_64")


def test_wheelhouse_or_requirements_with_an_artifact_are_refused(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path)
    with pytest.raises(ReleaseError, match=r"contains all of its dependencies\. Remove celery_app_wheelhouse"):
        ready_artifact(Inputs(artifact, wheelhouse=tmp_path), python="3.11.2", machine="x86_64")
    with pytest.raises(ReleaseError, match=r"contains all of its dependencies\. Remove celery_app_requirements"):
        ready_artifact(Inputs(artifact, requirements=tmp_path), python="3.11.2", machine="x86_64")


@dataclass
class Server:
    """A web server that serves files, and records its requests.

    Attributes:
        headers: sent in addition to those of a file; a Location redirects.
        user: and its password, without which no file is there.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    user: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        credentials = request.headers["Authorization"]
        self.asked.append((request.path, credentials))
        path = request.path.partition("?")[0]
        known = not self.user or credentials == "Basic " + b64encode(self.user.encode()).decode()
        content = self.files.get(path) if known else None
        headers = self.headers.get(path, {})
        request.send_response(404 if content is None else 302 if "Location" in headers else 200)
        for name, value in {"Content-Length": str(len(content or b"")), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content or b"")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").touch(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    here = Server()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            here.answer(self)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        here.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield here
        http.shutdown()
        thread.join(10)


WHEEL = "/shop-1.0-py3-none-any.whl"


def test_file_with_the_right_checksum_is_downloaded_once(tmp_path: Path, server: Server) -> None:
    content = wheel(tmp_path / "source", "shop-1.0").read_bytes()
    server.files[WHEEL] = content
    digest = sha256(content).hexdigest()
    path, new = fetch_url(server.url + WHEEL, digest, tmp_path / "kept")
    assert (path, new) == (tmp_path / "kept" / digest / WHEEL[1:], True)
    assert path.read_bytes() == content
    assert fetch_url(server.url + WHEEL, digest, tmp_path / "kept") == (path, False)
    assert len(server.asked) == 1
    # A changed file in the cache is not used.
    path.write_bytes(b"other")
    assert fetch_url(server.url + WHEEL, digest, tmp_path / "kept")[0].read_bytes() == content
    assert len(server.asked) == 2
    assert obtain(None, server.url + WHEEL, digest.upper(), tmp_path / "kept") == (path, False)


def test_file_without_checksum_is_downloaded_each_time(tmp_path: Path, server: Server) -> None:
    server.files[WHEEL] = wheel(tmp_path / "source", "shop-1.0").read_bytes()
    first, new = fetch_url(server.url + WHEEL, "", tmp_path / "kept")
    assert new
    assert fetch_url(server.url + WHEEL, "", tmp_path / "kept") == (first, False)
    server.files[WHEEL] = wheel(tmp_path / "source", "shop-1.0", "VALUE = 2\n").read_bytes()
    second, new = fetch_url(server.url + WHEEL, "", tmp_path / "kept")
    assert new
    assert second != first
    assert len(server.asked) == 3


def test_wrong_checksum_is_refused_and_not_cached(tmp_path: Path, server: Server) -> None:
    content = wheel(tmp_path / "source", "shop-1.0").read_bytes()
    server.files[WHEEL] = content
    both = rf"shop-1\.0-.* from 127\.0\.0\.1 .* SHA-256 {sha256(content).hexdigest()}, but .*_sha256 is {SHA_A}"
    with pytest.raises(ReleaseError, match=both):
        fetch_url(server.url + WHEEL, SHA_A, tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


def test_checksum_of_a_path_is_verified(tmp_path: Path) -> None:
    path = wheel(tmp_path, "shop-1.0")
    assert obtain(path, None, file_sha256(path), tmp_path) == (path, False)
    with pytest.raises(ReleaseError, match=rf"{path} .* SHA-256 {file_sha256(path)}, but .* {SHA_A}"):
        obtain(path, None, SHA_A, tmp_path)
    with pytest.raises(ReleaseError, match=r"is a directory, which has no checksum\. Remove celery_app_source_sha256"):
        obtain(tmp_path, None, SHA_A, tmp_path)
    with pytest.raises(ReleaseError, match=r"celery_app_source_sha256 'abc' is not a SHA-256 checksum\. Set it to 64"):
        obtain(path, None, "abc", tmp_path)
    with pytest.raises(ReleaseError, match="celery_app_source_sha256 is set without celery_app_source"):
        obtain(None, None, SHA_A, tmp_path)


def test_file_url_is_a_file_of_the_controller(tmp_path: Path) -> None:
    source = wheel(tmp_path / "my source", "shop-1.0+local")
    url = f"file://{tmp_path}/my%20source/shop-1.0%2Blocal-py3-none-any.whl"
    path, _ = fetch_url(url, "", tmp_path / "kept")
    assert (path.name, path.read_bytes()) == (source.name, source.read_bytes())
    source.unlink()
    with pytest.raises(
        ReleaseError, match=r"shop-1\.0\+local-.* from this machine .* can't be downloaded: .*No such file"
    ):
        fetch_url(url, "", tmp_path / "kept")


def test_redirect_does_not_get_the_password(tmp_path: Path, server: Server) -> None:
    content = artifact_of(tmp_path).read_bytes()
    server.files = {"/latest/shop.tar": b"", "/blob/4711": content}
    server.headers["/latest/shop.tar"] = {"Location": f"{server.url}/blob/4711?signature=x"}
    url = server.url.replace("//", "//ci:s3cret%2F@") + "/latest/shop.tar"
    path, _ = fetch_url(url, "", tmp_path / "kept")
    assert (path.name, path.read_bytes()) == ("shop.tar", content)
    assert server.asked == [
        ("/latest/shop.tar", "Basic " + b64encode(b"ci:s3cret/").decode()),
        ("/blob/4711?signature=x", None),
    ]


def test_netrc_provides_user_and_password(tmp_path: Path, server: Server) -> None:
    server.files[WHEEL] = wheel(tmp_path / "source", "shop-1.0").read_bytes()
    server.user = "ci:s3cret"
    with pytest.raises(ReleaseError, match=r"can't be downloaded: HTTP Error 404.* better, into ~/\.netrc"):
        fetch_url(server.url + WHEEL, "", tmp_path / "kept")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ci password s3cret\n")
    assert fetch_url(server.url + WHEEL, "", tmp_path / "kept")[1]
    (tmp_path / "netrc").write_text("machine 127.0.0.1\nlogin ci password has blank s3cret\n")
    with pytest.raises(ReleaseError, match=r"line 2 of .*/netrc is invalid\. Fix it") as refused:
        fetch_url(server.url + WHEEL, "", tmp_path / "kept")
    assert "blank" not in str(refused.value)


def test_download_is_not_decompressed(tmp_path: Path, server: Server) -> None:
    sdist_only(tmp_path, "py3-none-any")
    content = (tmp_path / "links" / "docopt-0.6.tar.gz").read_bytes()
    server.files["/docopt-0.6.tar.gz"] = content
    server.headers["/docopt-0.6.tar.gz"] = {"Content-Encoding": "gzip"}
    path, _ = fetch_url(server.url + "/docopt-0.6.tar.gz", "", tmp_path / "kept")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (b"<html>Who are you?</html>", {}, "is not a valid wheel, sdist or artifact.* such as a login page"),
        (b"", {}, "is not a valid wheel, sdist or artifact"),
        (b"PK", {"Content-Length": "1000"}, "is incomplete: 2 bytes of 1000"),
        (b"PK", {"Content-Length": "many"}, "is incomplete|can't be downloaded"),
        (b"5\r\nPK", {"Transfer-Encoding": "chunked"}, "can't be downloaded"),
    ],
)
def test_invalid_download_is_not_cached(
    tmp_path: Path, server: Server, content: bytes, headers: dict[str, str], message: str
) -> None:
    server.files[WHEEL] = content
    server.headers[WHEEL] = headers
    with pytest.raises(ReleaseError, match=rf"shop-1\.0-.* from 127\.0\.0\.1 \(celery_app_source\) .*({message})"):
        fetch_url(server.url + WHEEL, "", tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://ci:s3cret/x@ci.example/shop.tar", "is not a valid URL"),
        ("https://ci:s3cret?x@ci.example/shop.tar", "is not a valid URL"),
        ("https://ci:s3cret@x@ci.example/shop.tar", "is not a valid URL"),
        ("https://ci:s3cret@[ci.example/shop.tar", "is not a valid URL"),
        ("https://ci:s3cret@ci.example℀/shop.tar", "is not a valid URL"),
        ("https://ci.example/a b.tar?key=s3cret", "is not a valid URL.* a space as %20"),
        ("https://ci:1/s3cret@ci.example", "does not end in the file name"),
        ("https://ci:s3cret@ci.example/shop", "on ci.example whose path does not end in the file name of a wheel"),
        ("https://ci.example/shop?file=shop.tar&key=s3cret", "does not end in the file name"),
        ("https://ci:s3cret@ci.example/..%2Fshop.tar", "does not end in the file name"),
        ("git+https://ci:s3cret@ci.example/shop.tar", r"begins with git\+https://\. Use http, https or file"),
    ],
)
def test_invalid_url_is_refused_without_showing_its_password(url: str, message: str) -> None:
    with pytest.raises(ReleaseError, match=message) as refused:
        read_url(url)
    assert "s3cret" not in str(refused.value)


def run(capsys: pytest.CaptureFixture[str], **arguments: str) -> dict[str, Any]:
    """Run the module and return its result."""
    with patch_module_args({"python": "3.11.2", **arguments}), pytest.raises(SystemExit):
        celery_artifact.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_wheel_of_a_url_gives_the_same_artifact_as_the_local_wheel(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    source = wheel(tmp_path / "source", "shop-1.0")
    server.files[WHEEL] = source.read_bytes()
    common = {"directory": str(tmp_path / "cache"), "wheelhouse": str(tmp_path / "source")}
    fetched = run(capsys, url=server.url + WHEEL, **common)
    assert (fetched["changed"], fetched["name"], fetched["version"]) == (True, "shop", "1.0")
    again = run(capsys, url=server.url + WHEEL, **common)
    assert (again["changed"], again["path"], again["sha256"]) == (False, fetched["path"], fetched["sha256"])
    assert run(capsys, source=str(source), **common)["path"] == fetched["path"]


def test_artifact_of_a_url_is_deployed_unchanged(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path / "ci", "shop-1.0")
    common = {"directory": str(tmp_path / "cache")}
    built = run(capsys, wheelhouse=str(tmp_path / "ci"), directory=str(tmp_path / "elsewhere"))
    server.files["/shop.tar"] = Path(built["path"]).read_bytes()
    taken = run(capsys, url=f"{server.url}/shop.tar", sha256=built["sha256"], **common)
    assert (taken["sha256"], taken["version"]) == (built["sha256"], built["version"])
    assert file_sha256(Path(taken["path"])) == built["sha256"]
    assert taken["changed"]
    assert not run(capsys, url=f"{server.url}/shop.tar", sha256=built["sha256"], **common)["changed"]
    # Ansible's copy resolves relative paths from another directory.
    monkeypatch.chdir(tmp_path / "elsewhere")
    by_path = run(capsys, source=Path(built["path"]).name, **common)
    assert (by_path["path"], by_path["changed"]) == (built["path"], False)


def test_no_output_contains_the_password(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    url = server.url.replace("//", "//ci:s3cret@") + "/shop.tar?key=s3cret"
    result = run(capsys, url=url, directory=str(tmp_path))
    assert result["failed"]
    assert "shop.tar from 127.0.0.1 (celery_app_source) can't be downloaded" in result["msg"]
    assert "s3cret" not in json.dumps(result)
    server.files["/shop.tar"] = artifact_of(tmp_path).read_bytes()
    result = run(capsys, url=url, directory=str(tmp_path))
    assert result["version"] == "1.0"
    assert "s3cret" not in json.dumps(result)


def test_concurrent_runs_build_an_artifact_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, others = wheel(tmp_path / "source", "shop-1.0"), tmp_path / "others"
    wheel(others, "celery-5.7")
    under_way = threading.Barrier(2, timeout=60)

    def slow(*arguments: Any) -> Path:
        under_way.wait()  # the other one comes while this one builds
        return build_wheel(*arguments)

    monkeypatch.setattr(_artifact, "build_wheel", slow)

    def run() -> tuple[Path, bool]:
        return build(Inputs(source, wheelhouse=others), directory=tmp_path / "cache", python="3.11.2", machine="x86_64")

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run) for _ in range(2)]
        under_way.wait()
        (first, built), (second, built_too) = (each.result(timeout=60) for each in runs)
    assert first == second
    assert {built, built_too} == {True, False}
    assert sorted(manifest_of(first)["wheels"]) == ["celery-5.7-py3-none-any.whl", "shop-1.0-py3-none-any.whl"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]
