"""A host of the lab that does not boot says why, and soon."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "lab" / "wait_for_boot.sh"
# A podman whose container is in a state, has printed something, and whose systemd answers something.
PODMAN = """#!/bin/sh
case "$*" in
  *State.ExitCode*) echo "$STATE, exit code 1" ;;
  inspect*) echo "$STATE" ;;
  logs*) printf '%s\\n' "$CONSOLE" ;;
  *is-system-running*) [ "$SYSTEMD" != hangs ] || sleep 60; echo "$SYSTEMD" ;;
  *list-jobs*) echo "42 slow.service start running" ;;
  *list-units*) echo "broken.service loaded failed failed" ;;
  *ssh_host_ed25519_key.pub*) echo "ssh-ed25519 AAAA root@host" ;;
esac
"""


def wait(directory: Path, **answers: str) -> subprocess.CompletedProcess[str]:
    """Wait two seconds for a host."""
    podman = directory / "podman"
    podman.write_text(PODMAN, encoding="utf-8")
    podman.chmod(0o755)
    environment = {"STATE": "running", "CONSOLE": "Welcome", "SYSTEMD": "starting"} | answers
    path = f"{directory}:{os.environ['PATH']}"
    return subprocess.run(
        [str(SCRIPT), "host", "2"], capture_output=True, text=True, check=False, env=environment | {"PATH": path}
    )


@pytest.mark.parametrize("state", ["running", "degraded"])
def test_a_host_that_is_up_gives_its_key(tmp_path: Path, state: str) -> None:
    run = wait(tmp_path, SYSTEMD=state)
    assert (run.returncode, run.stdout) == (0, "ssh-ed25519 AAAA root@host\n")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"STATE": "exited"}, "its container is exited, exit code 1"),
        (
            {"CONSOLE": "Failed to create control group inotify object: Too many open files\nFreezing execution."},
            "systemd gave up",
        ),
        ({}, "for 2 s, nothing has changed; systemd says: starting"),
        ({"SYSTEMD": "hangs"}, "for 2 s, nothing has changed; systemd says: nothing"),
    ],
    ids=["exited", "gave-up", "slow", "hangs"],
)
def test_a_host_that_does_not_boot_reports_why(tmp_path: Path, answers: dict[str, str], reason: str) -> None:
    run = wait(tmp_path, **answers)
    assert run.returncode == 1
    assert f"host does not boot: {reason}" in run.stderr
    for line in (answers.get("CONSOLE", "Welcome").splitlines()[0], "42 slow.service", "broken.service"):
        assert line in run.stderr
    assert run.stdout == ""
