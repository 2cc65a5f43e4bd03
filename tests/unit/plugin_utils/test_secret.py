"""The lookup of passwords."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.fleet.celery.plugins.lookup.secret import printed

ROOT = Path(__file__).parents[3]


def test_a_command_prints_a_password_with_any_character(tmp_path: Path) -> None:
    (tmp_path / "redis_application").write_text(" $a {{ b }} \n", encoding="utf-8")
    ask = "lookup('fleet.celery.secret', 'redis_application', directory='/none'%s)"
    message = "{{ [%s, %s] | to_json | b64encode }}" % (ask % "", ask % ", given='mine'")  # noqa: UP031 - braces
    variables = {"celery_secret_command": ["cat", f"{tmp_path}/{{name}}"]}
    run = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible")), "localhost", "-m", "debug"),
            *("-a", f"msg={message}", "-e", json.dumps(variables)),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "WyIgJGEge3sgYiB9fSAiLCAibWluZSJd" in run.stdout


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["sh", "-c", "echo locked >&2; exit 1"], "prints no password: locked"),
        (["true"], "exit code 0"),
        (["/nothing"], "/nothing does not run"),
    ],
)
def test_a_command_without_a_password_fails(command: list[str], reason: str) -> None:
    with pytest.raises(AnsibleError, match=reason):
        printed(command)
