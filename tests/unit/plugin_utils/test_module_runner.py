"""Modules on many hosts from within an action plugin, in runs of Ansible on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INVENTORY = """
[all]
here ansible_connection=local text='of here'
there ansible_connection=local text='of there'
gone ansible_host=127.0.0.1 ansible_port=1
"""
ACTION = """
import json
from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.plugin_utils._module_runner import ModuleRunner

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        results = ModuleRunner(self, 2).run("ansible.builtin.command", self._task.args["hosts"])
        with open(self._task.args["results"], "w") as file:
            json.dump({name: {key: result.get(key) for key in ("rc", "stdout", "failed", "unreachable", "invocation")}
                       for name, result in results.items()}, file)
        return {"changed": False}
"""
PLAY = """
- hosts: all
  gather_facts: false
  environment: {TEXT: "{{ text | default('') }}"}
  tasks:
    - run_on_hosts:
        results: RESULTS
        hosts: HOSTS
      run_once: true
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return the command that runs the play."""
    (tmp_path / "action_plugins").mkdir()
    (tmp_path / "action_plugins" / "run_on_hosts.py").write_text(ACTION, encoding="utf-8")
    (tmp_path / "inventory").write_text(INVENTORY, encoding="utf-8")
    return ["ansible-playbook", "-i", str(tmp_path / "inventory"), str(tmp_path / "play.yml")]


def start(command: list[str], hosts: str) -> subprocess.Popen[str]:
    directory = Path(command[-1]).parent
    play = PLAY.replace("HOSTS", hosts).replace("RESULTS", str(directory / "results.json"))
    Path(command[-1]).write_text(play, encoding="utf-8")
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".ansible" / "collections"),
        "ANSIBLE_LOCAL_TEMP": str(directory / "tmp"),
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_each_host_runs_the_module_as_itself(command: list[str], tmp_path: Path) -> None:
    hosts = (
        "{here: {argv: [sh, -c, 'echo $TEXT; echo \"$0\"', !unsafe '{{ 1 + 1 }}']}, "
        "there: {argv: [sh, -c, 'echo $TEXT; exit 3']}, gone: {argv: ['true']}}"
    )
    run = start(command, hosts)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    results = json_of(tmp_path)
    assert results["here"] == {
        "rc": 0,
        # The variables are those of the host, and a template in a value is text.
        "stdout": "of here\n{{ 1 + 1 }}",
        "failed": False,
        "unreachable": None,
        # It may contain secrets.
        "invocation": None,
    }
    assert (results["there"]["rc"], results["there"]["stdout"], results["there"]["failed"]) == (3, "of there", True)
    assert results["gone"]["unreachable"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_on_without_ansible(command: list[str], number: signal.Signals) -> None:
    # A time that no other process on this machine sleeps.
    seconds = f"{3000 + os.getpid() / 1e7:.7f}"
    run = start(command, f"{{here: {{argv: [sleep, '{seconds}']}}, there: {{argv: [sleep, '{seconds}']}}}}")
    try:
        wait_for(lambda: len(sleeping(seconds)) == 2)
        run.send_signal(number)
        wait_for(lambda: not sleeping(seconds))
    finally:
        run.kill()
        run.communicate()
    assert run.returncode != 0


def json_of(tmp_path: Path) -> dict[str, dict[str, object]]:
    results: dict[str, dict[str, object]] = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    return results


def sleeping(seconds: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if arguments[:2] == [b"sleep", seconds.encode()]:
            found.append(path.parent.name)
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
