"""Writing and validation of configuration files."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._config_files import ConfigError, Directory, File, Link

GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture(autouse=True)
def owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the user who runs the tests stand in for root."""
    me = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(pwd, "getpwnam", lambda _: me)
    monkeypatch.setattr(os, "chown", lambda *_: None)
    monkeypatch.setattr(os, "fchown", lambda *_: None)


def file(path: Path, content: str, **fields: Any) -> File:
    item = {"path": str(path), "content": content, "group": GROUP, "mode": "0640", "secret": False, "validate": []}
    return File.of(item | fields)


def run(command: list[str]) -> tuple[int, str, str]:
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    return result.returncode, result.stdout, result.stderr


def test_a_file_is_written_once_with_its_parent_directories(tmp_path: Path) -> None:
    wanted = file(tmp_path / "a" / "b" / "c.conf", "x = 1\n")
    assert not wanted.there()
    previous = os.umask(0o077)
    try:
        wanted.put()
    finally:
        os.umask(previous)
    assert wanted.there()
    assert wanted.path.read_text() == "x = 1\n"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755
    assert [entry.name for entry in wanted.path.parent.iterdir()] == ["c.conf"]


def test_a_mode_that_differs_is_a_change_that_shows_no_content(tmp_path: Path) -> None:
    wanted = file(tmp_path / "c.conf", "x = 1\n")
    wanted.put()
    wanted.path.chmod(0o644)
    assert not wanted.there()
    assert wanted.difference() == f"--- {wanted.path}\n+++ {wanted.path} 0640 root:{GROUP}\n"


def test_a_link_in_a_files_place_is_replaced_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("x = 1\n")
    wanted = file(tmp_path / "c.conf", "x = 1\n")
    wanted.path.symlink_to(other)
    assert not wanted.there()
    wanted.put()
    assert not wanted.path.is_symlink()


def test_the_diff_leaves_out_secrets(tmp_path: Path) -> None:
    path = tmp_path / "c.conf"
    assert file(path, "a\nb").difference() == f"--- absent\n+++ {path} 0640 root:{GROUP}\n@@ -0,0 +1,2 @@\n+a\n+b\n"
    path.write_text("a\n")
    assert "+b\n" in file(path, "b\n").difference()
    assert "b\n" not in file(path, "b\n", secret=True).difference().splitlines(keepends=True)
    assert "(secret)" in file(path, "b\n", secret=True).difference()


def test_a_rejected_file_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "c.conf"
    check = ["grep", "-q", "good", "{}"]
    assert file(path, "good\n", validate=check).rejection(run) == ""
    said = file(path, "bad\n", validate=["/bin/sh", "-c", "cat $0; exit 3", "{}"]).rejection(run)
    assert said == f"{path} is not replaced, because sh rejects it: bad"
    assert not path.exists()
    path.write_text("bad\n")
    assert file(path, "bad\n", validate=check).rejection(run) == "", "what is there is not checked again"


def test_secrets_are_masked_in_a_rejection(tmp_path: Path) -> None:
    content = (
        "broker_url = 'amqp://shop:open sesame@b1//'\npassword = s3cretpass\nhash = $2b$10$abcdefgh\nCELERY_ZONE = 1\n"
    )
    check = ["/bin/sh", "-c", "cat $0; echo Cannot mix CELERY_ZONE with url; exit 1", "{}"]
    said = file(tmp_path / "c.py", content, secret=True, validate=check).rejection(run)
    assert said.endswith("url = '***'\npassword = ***\nhash = ***\nCELERY_ZONE = 1\nCannot mix CELERY_ZONE with url")


def test_an_invalid_mode_or_validation_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the mode '77' is not valid"):
        file(tmp_path / "c.conf", "", mode="77")
    with pytest.raises(ConfigError, match=r"validate \(promtool check\) lacks"):
        file(tmp_path / "c.conf", "", validate=["promtool", "check"])


def test_directories_and_links_are_made_once(tmp_path: Path) -> None:
    directory = Directory.of({"path": str(tmp_path / "a" / "b"), "group": GROUP, "mode": "0750"})
    link = Link.of({"path": str(tmp_path / "c" / "link"), "target": "/not/there"})
    for wanted in (directory, link):
        assert not wanted.there()
        wanted.put()
        assert wanted.there()
    directory.path.chmod(0o755)
    assert not directory.there()
    moved = Link.of({"path": str(link.path), "target": "/elsewhere"})
    assert not moved.there()
    moved.put()
    assert moved.there()


def test_a_group_that_does_not_exist_yet_is_a_change(tmp_path: Path) -> None:
    wanted = file(tmp_path / "c.conf", "x")
    wanted.put()
    assert not file(tmp_path / "c.conf", "x", group="no-such-group").there()
