"""Tests of all scenarios."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path


def test_check_mode_on_converged_hosts_reports_no_change() -> None:
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    run = subprocess.run(
        ["ansible-playbook", "--check", "--diff", str(scenario / "converge.yml")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    counts = re.findall(r"\bchanged=(\d+)", run.stdout)
    assert counts, run.stdout
    assert set(counts) == {"0"}, run.stdout
