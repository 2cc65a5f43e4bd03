"""Directories that change hands."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils import _files
from ansible_collections.fleet.celery.plugins.module_utils._files import belongs, make_directory


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return whom directories were given to: the user 4711 of the group 4712, which this machine need not have."""
    calls: list[tuple[int, int]] = []

    def note(_: int, uid: int, gid: int) -> None:
        calls.append((uid, gid))

    monkeypatch.setattr(_files, "pwd", SimpleNamespace(getpwnam=lambda _: SimpleNamespace(pw_uid=4711)))
    monkeypatch.setattr(_files, "grp", SimpleNamespace(getgrnam=lambda _: SimpleNamespace(gr_gid=4712)))
    monkeypatch.setattr(os, "fchown", note)
    return calls


def test_a_link_is_not_followed(tmp_path: Path, given: list[Any]) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.mkdir(mode=0o700)
    link.symlink_to(victim)
    with pytest.raises(NotADirectoryError):
        make_directory(link, 0o755, "root", "shop")
    assert given == []
    assert victim.stat().st_mode & 0o777 == 0o700
    assert not belongs(link, 0o700, "root", "root")


def test_a_directory_with_a_new_owner_keeps_files_and_no_links(tmp_path: Path, given: list[Any]) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "worker.log").touch()
    (logs / "next.log").symlink_to("/etc/ld.so.preload")
    os.mkfifo(logs / "pipe.log")
    make_directory(logs, 0o750, "root", "shop")
    assert given == [(4711, 4712)]
    assert [path.name for path in logs.iterdir()] == ["worker.log"]
    assert logs.stat().st_mode & 0o777 == 0o750
