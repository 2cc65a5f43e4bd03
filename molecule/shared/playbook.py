"""Playbooks, run once more by a test on the scenario's hosts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"


def run_playbook(path: Path, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook with other values of variables."""
    return subprocess.run(
        ["ansible-playbook", str(path), "-e", json.dumps(variables), *options],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
    )


def converge(*options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run the scenario's own playbook with other values of variables."""
    return run_playbook(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml", *options, **variables)


def changed(run: subprocess.CompletedProcess[str]) -> int:
    """Return how many tasks changed something on the first host; the run must have succeeded."""
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr
    return int(re.findall(r"\bchanged=(\d+)", run.stdout)[0])


def converge_host(host: Any, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run the scenario's own playbook on one of its hosts, with other values of variables."""
    return converge("--limit", host.backend.host, *options, **variables)
