"""Releases: versions, records, digests and pruning."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._release import (
    RECORD,
    Record,
    ReleaseError,
    check_version,
    fingerprint,
    in_use,
    made_for_another_python,
    prunable,
    read_record,
    started_from,
)
from ansible_collections.fleet.celery.plugins.module_utils._release import _environment as environment_of


def test_record_is_read_back(tmp_path: Path) -> None:
    record = Record("1.0.0", "aa", "bb", ("customers.sync", "video.transcode"), "3.11.2", "2026-11-21T10:00:00", "cc")
    record.write(tmp_path)
    assert read_record(tmp_path) == record
    assert (tmp_path / RECORD).stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


def test_incomplete_release_has_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path / "missing") is None
    (tmp_path / RECORD).write_text('{"version": "1.0')
    assert read_record(tmp_path) is None
    (tmp_path / RECORD).write_text('{"version": "1.0"}')
    assert read_record(tmp_path) is None


def test_fingerprint_detects_changes_of_a_virtual_environment(tmp_path: Path) -> None:
    package = tmp_path / "venv" / "lib" / "package"
    package.mkdir(parents=True)
    (package / "a.py").write_text("x")
    before = fingerprint(tmp_path / "venv")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_text("x")
    assert fingerprint(tmp_path / "venv") == before
    (package / "b.py").write_text("")
    more = fingerprint(tmp_path / "venv")
    assert more != before
    (package / "b.py").unlink()
    assert fingerprint(tmp_path / "venv") == before
    (package / "a.py").write_text("")
    assert fingerprint(tmp_path / "venv") not in (before, more)


def test_python_upgrade_of_the_host_is_detected(tmp_path: Path) -> None:
    for name in ("python3.11", "python3.13", "pypy"):
        (tmp_path / name).touch()
    (tmp_path / "venv" / "lib" / "python3.11").mkdir(parents=True)
    python = tmp_path / "python3"
    seen = []
    for name in ("python3.11", "python3.13", "pypy"):
        python.unlink(missing_ok=True)
        python.symlink_to(name)
        seen.append(made_for_another_python(tmp_path / "venv", python))
    assert seen == [False, True, False]


@pytest.mark.parametrize("version", ["1.0.0", "1!2.0rc1+debian.1", "2026-11-21_a", "8c1f77a"])
def test_valid_versions_are_accepted(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["", ".", "..", "../1.0", "feature/login", "1 0", "-1", "1\n", ".1"])
def test_version_with_a_path_is_refused(version: str) -> None:
    with pytest.raises(ReleaseError, match=r"celery_app_version .* can't name a release"):
        check_version(version)


def host(root: Path) -> tuple[Path, Path]:
    """Write the files that a program starts from. Return the directories of the application and its configuration."""
    app, config = root / "srv", root / "etc"
    for directory in (app / "bin", app / "releases" / "1", app / "releases" / "2", config / "programs"):
        directory.mkdir(parents=True)
    (app / "current").symlink_to("releases/1")
    (app / "bin" / "celery_supervisor").write_text("wrapper")
    (config / "environment").write_text("environment")
    (config / "celery_fleet_settings.py").write_text("settings")
    return app, config


@pytest.mark.parametrize(
    "changed",
    [
        "srv/bin/celery_supervisor",
        "etc/environment",
        "etc/celery_fleet_settings.py",
        "etc/programs/shop-x.env",
        "srv/current",
    ],
)
def test_digest_of_a_program_changes_with_each_of_its_files(tmp_path: Path, changed: str) -> None:
    app, config = host(tmp_path)
    before = started_from(app, config, "shop-x")
    path = tmp_path / changed
    if path.is_symlink():
        path.unlink()
        path.symlink_to("releases/2")
    else:
        path.write_text("other")
    assert started_from(app, config, "shop-x") != before


def test_environment_of_a_program_does_not_change_the_digest_of_others(tmp_path: Path) -> None:
    app, config = host(tmp_path)
    before = started_from(app, config, "shop-y")
    (config / "programs" / "shop-x.env").write_text("A=1")
    assert started_from(app, config, "shop-y") == before


def finished(version: str, day: int) -> Record:
    return Record(version, sha256="", finished=f"2026-01-{day:02d}T00:00:00+00:00")


def test_oldest_releases_are_pruned_first_and_needed_ones_never() -> None:
    records = [finished("1.2", 3), finished("1.0", 1), finished("1.1", 2), finished("1.3", 4)]
    assert prunable(records, 4, ["1.3"]) == []
    assert prunable(records, 2, ["1.3"]) == ["1.0", "1.1"]
    assert prunable(records, 2, ["1.3", "1.0"]) == ["1.1", "1.2"]
    assert prunable(records, 1, ["1.3", "1.0", ""]) == ["1.1", "1.2"]


def test_release_of_a_running_process_is_in_use(tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    environment = {"VIRTUAL_ENV": str(releases / "1.0" / "venv")}
    # After Popen, the program may have no environment yet: one attempt in some hundreds meets that moment.
    for _ in range(20):
        with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, env=environment) as process:
            assert in_use(releases) == {"1.0"}
            process.communicate()
        assert in_use(releases) == set()


def test_program_without_environment_does_not_block(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, env={}) as process:
        assert environment_of(Path(f"/proc/{process.pid}")) == b""
        process.communicate()
    process_of_kernel = tmp_path / "7"
    process_of_kernel.mkdir()
    (process_of_kernel / "environ").touch()
    (process_of_kernel / "stat").write_text("7 (a thread) S " + "0 " * 49)
    assert environment_of(process_of_kernel) == b""


def test_program_during_its_start_is_polled_again(tmp_path: Path) -> None:
    process = tmp_path / "7"
    process.mkdir()
    (process / "environ").touch()
    (process / "stat").write_text("7 (of (two) words) R " + "0 " * 49)
    (process / "exe").symlink_to("/bin/cat")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(environment_of, process)
        with pytest.raises(FutureTimeout):
            found.result(timeout=0.2)
        (process / "environ").write_bytes(b"A=1\0")
        assert found.result() == b"A=1\0"
