"""The heartbeat file of a worker."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.alive import (
    FRESH_SECONDS,
    AliveFile,
    is_fresh,
    read_alive,
)

ME = os.getpid()


def test_last_heartbeat_is_read(tmp_path: Path) -> None:
    # A new host has no directory of counts.
    tmp_path /= "counts"
    file = AliveFile(tmp_path, "shop-email")
    file.write([f"queue-{number}" for number in range(70)], active=3, held=2, done=100)
    file.write(["email"], active=0, held=0, done=101)
    found = read_alive(tmp_path, "shop-email", ME)
    assert found
    assert (found.queues, found.active, found.held, found.done) == (("email",), 0, 0, 101)
    assert is_fresh(found)
    assert not is_fresh(replace(found, at=found.at - FRESH_SECONDS - 1))
    assert not is_fresh(replace(found, at=time.monotonic() + 60))


def test_worker_without_a_connection_is_not_fresh(tmp_path: Path) -> None:
    AliveFile(tmp_path, "shop-email").write([], active=1, held=0, done=1, connected=False)
    found = read_alive(tmp_path, "shop-email", ME)
    assert found
    assert not found.connected
    assert not is_fresh(found)
    assert 0 <= found.age < 60


def test_heartbeat_of_an_earlier_release_is_that_of_a_connected_worker(tmp_path: Path) -> None:
    file = AliveFile(tmp_path, "shop-email")
    file.write(["email"], active=0, held=0, done=0)
    path = tmp_path / "shop-email.alive"
    raw = json.loads(path.read_text())
    del raw["connected"]
    path.write_text(json.dumps(raw))
    assert is_fresh(read_alive(tmp_path, "shop-email", ME))


def test_other_process_or_program_has_no_heartbeat(tmp_path: Path) -> None:
    AliveFile(tmp_path, "shop-email").write(["email"], active=0, held=0, done=0)
    assert read_alive(tmp_path, "shop-email", ME + 1) is read_alive(tmp_path, "shop-video", ME) is None
    assert read_alive(tmp_path / "missing", "shop-email", ME) is None
    assert not is_fresh(None)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "at": 1, "queues": 3}'])
def test_invalid_heartbeat_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "shop-email.alive").write_text(content)
    assert read_alive(tmp_path, "shop-email", 1) is None


def test_links_and_pipes_are_not_read(tmp_path: Path) -> None:
    AliveFile(tmp_path, "secret").write(["email"], active=0, held=0, done=0)
    (tmp_path / "link.alive").symlink_to("secret.alive")
    os.mkfifo(tmp_path / "pipe.alive")
    assert read_alive(tmp_path, "link", ME) is read_alive(tmp_path, "pipe", ME) is None
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    assert read_alive(tmp_path / "elsewhere", "secret", ME) is None


def test_full_disk_does_not_stop_heartbeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AliveFile(tmp_path, "shop-email")
    file.write(["email"], active=0, held=0, done=1)
    size = (tmp_path / "shop-email.alive").stat()

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    file.write(["email"], active=0, held=0, done=2)
    monkeypatch.undo()
    found = read_alive(tmp_path, "shop-email", ME)
    assert found
    assert found.done == 2
    assert (tmp_path / "shop-email.alive").stat().st_blocks == size.st_blocks
