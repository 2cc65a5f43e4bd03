"""Counts of tasks: exact with many processes, also when a process is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import (
    BOUNDS,
    KINDS,
    RECORDS,
    SIZE,
    Counts,
    CountsFile,
    read_counts,
    remove_counts,
)

MODULES = Path(__file__).parents[3] / "plugins" / "module_utils"
NAME = "shop-email@1.0.0"
DONE, FAILED = KINDS.index("done"), KINDS.index("failed")
NOW = 1_800_000_000.0
COUNT = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from celery_fleet_runtime.counts import CountsFile
file = CountsFile(Path(sys.argv[2]), {NAME!r})
for _ in range(int(sys.argv[3])):
    file.begin("email", "mailer.send", time.time())
    file.count({DONE}, "email", "mailer.send", time.time())
    file.end("email", "mailer.send", time.time(), 0.02)
if sys.argv[4:]:
    file.begin("email", "mailer.send", time.time())
print("counted", flush=True)
sys.stdin.read()
"""


def counting(directory: Path, tasks: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COUNT, str(MODULES), str(directory), str(tasks), *more]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "counted\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process, as the kernel does when memory runs out."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def found(directory: Path) -> Counts:
    return read_counts(directory)["shop-email", "1.0.0"]


def test_parallel_processes_count_each_task_once(tmp_path: Path) -> None:
    running = [counting(tmp_path, 500) for _ in range(4)]
    assert len(list(tmp_path.iterdir())) == 4
    for process in running:
        kill(process)
    counts = found(tmp_path)
    assert counts.totals == {"begun": 2000, "done": 2000, "failed": 0, "retried": 0}
    assert sum(second["done"] for second in counts.seconds.values()) == 2000
    assert counts.tasks["email", "mailer.send"].kinds["done"] == 2000
    assert counts.tasks["email", "mailer.send"].runs[BOUNDS.index(0.05)] == 2000


def test_the_next_process_continues_a_file(tmp_path: Path) -> None:
    for _ in range(3):
        counting(tmp_path, 10).communicate("")
    assert [path.name for path in tmp_path.iterdir()] == ["shop-email@1.0.0.0.counts"]
    assert found(tmp_path).totals["done"] == 30
    assert found(tmp_path).tasks["email", "mailer.send"].kinds["done"] == 30


def test_an_in_flight_task_is_counted_as_interrupted_once_its_process_is_killed(tmp_path: Path) -> None:
    process = counting(tmp_path, 1, "one more")
    assert (found(tmp_path).running, found(tmp_path).broken_off) == (1, 0)
    kill(process)
    assert (found(tmp_path).running, found(tmp_path).broken_off) == (0, 1)
    counting(tmp_path, 1).communicate("")
    assert (found(tmp_path).running, found(tmp_path).broken_off) == (0, 1)
    assert found(tmp_path).totals["done"] == 2


def test_a_forked_child_takes_a_file_of_its_own(tmp_path: Path) -> None:
    CountsFile(tmp_path, NAME).count(DONE, "email", "mailer.send", NOW)
    mine = CountsFile(tmp_path, NAME)
    child = os.fork()
    if not child:
        CountsFile(tmp_path, NAME).count(DONE, "email", "mailer.send", NOW)
        os._exit(0)
    os.waitpid(child, 0)
    mine.count(DONE, "email", "mailer.send", NOW)
    assert found(tmp_path).totals["done"] == 3


def test_a_second_is_overwritten_after_an_hour(tmp_path: Path) -> None:
    file = CountsFile(tmp_path, NAME)
    file.count(DONE, "email", "mailer.send", NOW - 3600)
    file.count(DONE, "email", "mailer.send", NOW)
    file.count(FAILED, "email", "mailer.send", NOW)
    counts = found(tmp_path)
    assert counts.seconds == {int(NOW): {"begun": 0, "done": 1, "failed": 1, "retried": 0}}
    assert counts.totals["done"] == 2


def test_waits_and_runs_are_counted_by_queue_and_task(tmp_path: Path) -> None:
    file = CountsFile(tmp_path, NAME)
    file.begin("email", "mailer.send", NOW, sent=NOW - 7, wait=7.0)
    file.end("email", "mailer.send", NOW + 4000, 4000.0)
    file.begin("email", "mailer.send", NOW + 1, sent=NOW - 8, wait=9.0)
    file.begin("video", "mailer.send", NOW, sent=NOW, wait=0.0)
    file.begin("video", "mailer.send", NOW)
    tasks = found(tmp_path).tasks
    email, video = tasks["email", "mailer.send"], tasks["video", "mailer.send"]
    assert email.waits == [2 if bound == 10.0 else 0 for bound in (*BOUNDS, 0)]
    assert email.runs == [0] * len(BOUNDS) + [1]
    assert (email.wait_seconds, email.run_seconds, email.latest_sent) == (16.0, 4000.0, NOW - 7)
    # What nobody stamped has begun, and waited nobody knows how long.
    assert (video.kinds["begun"], sum(video.waits)) == (2, 1)


def test_the_longest_wait_and_run_are_counted_by_minute(tmp_path: Path) -> None:
    file = CountsFile(tmp_path, NAME)
    for after, wait in ((0, 50.0), (1, 2.0), (60, 3.0), (120, 1.0), (121, 4.0)):
        file.begin("email", "mailer.send", NOW + after, sent=NOW, wait=wait)
    minute = int(NOW) // 60
    assert found(tmp_path).tasks["email", "mailer.send"].longest == {minute + 1: (3.0, 0.0), minute + 2: (4.0, 0.0)}


def test_tasks_beyond_the_records_are_counted_together(tmp_path: Path) -> None:
    file = CountsFile(tmp_path, NAME)
    for number in range(RECORDS + 10):
        file.count(DONE, "email", f"task-{number}", NOW)
    counts = found(tmp_path)
    assert len(counts.tasks) == RECORDS
    assert counts.tasks["", ""].kinds["done"] == 11
    assert counts.totals["done"] == RECORDS + 10


def test_on_a_full_disk_new_tasks_are_counted_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CountsFile(tmp_path, NAME)
    file.count(DONE, "email", "mailer.send", NOW)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for task in ("mailer.send", "mailer.other"):
        file.count(DONE, "email", task, NOW)
    assert {name: tasks.kinds["done"] for name, tasks in found(tmp_path).tasks.items()} == {
        ("email", "mailer.send"): 2,
        ("", ""): 1,
    }
    with pytest.raises(OSError, match="No space left"):
        CountsFile(tmp_path, NAME)
    monkeypatch.undo()
    CountsFile(tmp_path, NAME).count(DONE, "email", "mailer.other", NOW)
    assert found(tmp_path).totals["done"] == 4


def test_a_long_name_is_cut_and_found_again(tmp_path: Path) -> None:
    for _ in range(2):
        CountsFile(tmp_path, NAME).count(DONE, "email", "é" * 300, NOW)
    ((queue, task),) = found(tmp_path).tasks
    assert queue == "email"
    assert len(task) < 256
    assert found(tmp_path).tasks[queue, task].kinds["done"] == 2


def test_only_written_blocks_are_allocated(tmp_path: Path) -> None:
    def room() -> int:
        return path.stat().st_blocks * 512

    file = CountsFile(tmp_path, NAME)
    file.count(DONE, "email", "mailer.send", NOW)
    (path,) = tmp_path.iterdir()
    before = room()
    # On a full disk it would be too late: memory for which there is no room kills who writes to it.
    for second in range(3600):
        file.count(DONE, "email", "mailer.send", NOW + second)
    os.sync()
    assert room() == before < 100_000 < path.stat().st_size == SIZE


def test_counts_are_separate_by_release_and_program(tmp_path: Path) -> None:
    for name in ("shop-email@1.0.0", "shop-email@1.1.0", "shop-video-a@1.1.0"):
        CountsFile(tmp_path, name).count(DONE, "email", "mailer.send", NOW)
    assert set(read_counts(tmp_path)) == {("shop-email", "1.0.0"), ("shop-email", "1.1.0"), ("shop-video-a", "1.1.0")}
    assert sum(counts.totals["done"] for counts in read_counts(tmp_path).values()) == 3


@pytest.mark.parametrize("raw", [b"", b"fleet 2\0", b"x" * SIZE])
def test_an_invalid_file_is_ignored(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / f"{NAME}.0.counts").write_bytes(raw)
    assert not found(tmp_path).totals


def test_a_file_of_another_format_is_cleared(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.0.counts").write_bytes(b"fleet 1\0" + b"\1" * 70_000)
    CountsFile(tmp_path, NAME).count(DONE, "email", "mailer.send", NOW)
    assert found(tmp_path).totals["done"] == 1


def test_links_and_pipes_in_the_directory_are_ignored(tmp_path: Path) -> None:
    directory, secret = tmp_path / "counts", tmp_path / "secret.counts"
    CountsFile(directory, "shop-email@1.0").begin("email", "send", 1000.0)
    secret.write_bytes((directory / "shop-email@1.0.0.counts").read_bytes())
    (directory / "link@1.0.0.counts").symlink_to(secret)
    os.mkfifo(directory / "pipe@1.0.0.counts")
    (directory / "directory@1.0.0.counts").mkdir()
    assert list(read_counts(directory)) == [("shop-email", "1.0")]

    other = tmp_path / "other"
    directory.rename(other)
    directory.symlink_to(other)
    assert read_counts(directory) == {}
    remove_counts(directory, "1.0")
    assert (other / "shop-email@1.0.0.counts").exists()


def test_the_counts_of_a_release_are_removed(tmp_path: Path) -> None:
    for release in ("1.0", "1.1"):
        CountsFile(tmp_path, f"shop-email@{release}")
    (tmp_path / "link@1.0.0.counts").symlink_to(tmp_path / "shop-email@1.1.0.counts")
    remove_counts(tmp_path, "1.0")
    assert [path.name for path in tmp_path.iterdir()] == ["shop-email@1.1.0.counts"]
