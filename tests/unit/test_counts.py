"""Tasks are counted by many processes at once, and none twice or never, also when a process is killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._counts import Counts, read_counts

PATH = Path(__file__).parents[2] / "roles" / "celery_app" / "files" / "celery_fleet_report.py"
COUNT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import celery_fleet_report
report = celery_fleet_report.reporter(Path(sys.argv[2]), "shop-email@1.0.0")
for _ in range(int(sys.argv[3])):
    report(0)
    report(1)
print("counted", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def report() -> Any:
    spec = importlib.util.spec_from_file_location("celery_fleet_report", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counting(directory: Path, tasks: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COUNT, str(PATH.parent), str(directory), str(tasks)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_side_by_side_count_each_task_once(tmp_path: Path) -> None:
    running = [counting(tmp_path, 500) for _ in range(4)]
    for process in running:
        assert process.stdout
        assert process.stdout.readline() == "counted\n"
    assert len(list(tmp_path.iterdir())) == 4
    # Killed as by the kernel, when memory is short.
    for process in running:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (found,) = read_counts(tmp_path).values()
    assert found.totals == {"begun": 2000, "done": 2000, "failed": 0, "retried": 0}
    assert sum(second["done"] for second in found.seconds.values()) == 2000


def test_a_file_goes_on_with_the_next_process(tmp_path: Path) -> None:
    for _ in range(3):
        process = counting(tmp_path, 10)
        process.communicate("")
    assert [path.name for path in tmp_path.iterdir()] == ["shop-email@1.0.0.0.counts"]
    assert read_counts(tmp_path)["shop-email", "1.0.0"].totals["done"] == 30


def test_a_forked_child_has_a_file_of_its_own(report: Any, tmp_path: Path) -> None:
    add = report.reporter(tmp_path, "shop-email@1.0.0")
    add(1)
    child = os.fork()
    if not child:
        add(1)
        os._exit(0)
    os.waitpid(child, 0)
    add(1)
    assert read_counts(tmp_path)["shop-email", "1.0.0"].totals["done"] == 3


def test_an_hour_old_second_makes_room(report: Any, tmp_path: Path) -> None:
    counts = report.Counts(tmp_path, "shop-email@1.0.0")
    now = time.time()
    counts.add(1, now - 3600)
    counts.add(1, now)
    counts.add(2, now)
    found = read_counts(tmp_path)["shop-email", "1.0.0"]
    assert found.seconds == {int(now): {"begun": 0, "done": 1, "failed": 1, "retried": 0}}
    assert found.totals["done"] == 2


def test_releases_and_programs_are_told_apart(report: Any, tmp_path: Path) -> None:
    for name in ("shop-email@1.0.0", "shop-email@1.1.0", "shop-video-a@1.1.0"):
        report.Counts(tmp_path, name).add(1, time.time())
    assert set(read_counts(tmp_path)) == {("shop-email", "1.0.0"), ("shop-email", "1.1.0"), ("shop-video-a", "1.1.0")}
    assert sum(counts.totals["done"] for counts in read_counts(tmp_path).values()) == 3


@pytest.mark.parametrize("raw", [b"", b"fleet 1\0", b"x" * 80_000])
def test_what_is_no_file_of_counts_counts_for_nothing(raw: bytes) -> None:
    counts = Counts()
    counts.add(raw)
    assert not counts.totals


def test_a_disk_that_is_full_fails_no_task(report: Any, tmp_path: Path) -> None:
    report.reporter(tmp_path / "missing", "shop-email@1.0.0")(1)
