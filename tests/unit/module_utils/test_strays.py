"""Programs that outlived their supervisord."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.strays import (
    Stray,
    stop_strays,
    strays,
)


def process(proc: Path, pid: int, parent: int, program: str = "") -> None:
    """Create the entries of a process in a simulated /proc."""
    directory = proc / str(pid)
    directory.mkdir()
    variables = f"HOME=/\0SUPERVISOR_PROCESS_NAME={program}\0" if program else "HOME=/\0"
    (directory / "environ").write_text(variables)
    (directory / "stat").write_text(f"{pid} (a) b) S {parent} 1 1 0")


def test_strays_are_the_main_processes_without_a_supervisord(tmp_path: Path) -> None:
    process(tmp_path, 1, 0)
    process(tmp_path, 50, 1)  # supervisord
    process(tmp_path, 100, 50, "shop-email")
    process(tmp_path, 101, 100, "shop-email")
    process(tmp_path, 90, 1, "shop-email")
    process(tmp_path, 91, 90, "shop-email")
    process(tmp_path, 80, 1, "shop-beat")
    (tmp_path / "7").mkdir()  # it has exited
    assert strays(50, tmp_path) == [Stray("shop-beat", 80), Stray("shop-email", 90)]
    assert [stray.pid for stray in strays(0, tmp_path)] == [80, 90, 100]


def test_only_strays_are_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        stop_strays([Stray("shop-email", other.pid)])
        assert other.poll() is None
        other.communicate(b"\n")
    environment = os.environ | {"SUPERVISOR_PROCESS_NAME": "shop-email"}
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as stray:
        assert stray.stdin
        assert stray.stdout
        # A process that is being started has no environment for a moment; one that answers has.
        stray.stdin.write(b"here\n")
        stray.stdin.flush()
        assert stray.stdout.readline() == b"here\n"
        stop_strays([Stray("shop-email", stray.pid)])
        assert stray.wait(timeout=60) == -signal.SIGTERM
