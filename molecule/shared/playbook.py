"""Runs of playbooks on the scenario's hosts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shared.deployed import wait_until
from shared.spent import spent

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
MARK = "FLEET_TEST_PLAYBOOK"


def run_playbook(path: Path, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook with extra variables."""
    with started_playbook(path, *options, **variables) as run:
        return run.end()


@dataclass
class Started:
    """A run of a playbook.

    Attributes:
        output: the file that it prints to.
        error: the one that its warnings go to.
        mark: a text in the environment of all of its processes, and of no others.
    """

    process: subprocess.Popen[bytes]
    output: Path
    error: Path
    mark: str

    def end(self) -> subprocess.CompletedProcess[str]:
        """Wait until the playbook has ended, and return its result."""
        # Ansible's own callback notes what its tasks take.
        with spent(""):
            code = self.process.wait()
        return subprocess.CompletedProcess(self.process.args, code, self.output.read_text(), self.error.read_text())

    def wait_for(self, pattern: str) -> None:
        """Wait until the output matches a pattern. The playbook must not end before."""

        def printed() -> bool:
            text = " ".join(self.output.read_text().split())
            assert self.process.poll() is None, text
            return bool(re.search(pattern, text))

        # On an idle machine, the last tasks take less than a second.
        wait_until(printed, f"the playbook does not say {pattern}", interval=0.05)

    def kill(self) -> None:
        """Kill the playbook and its processes, as by a power failure of the controller."""
        # Mitogen's are in sessions of their own, and one that is killed may just have started another.
        while processes := list(self._processes()):
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self.process.wait()

    def _processes(self) -> Iterator[int]:
        mark = f"{MARK}={self.mark}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it belongs to another user, or has ended
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    yield int(process.name)


@contextmanager
def started_playbook(path: Path, *options: str, **variables: Any) -> Iterator[Started]:
    """Start a playbook with extra variables. It is killed at the end of the block."""
    with TemporaryDirectory() as directory:
        output, error, mark = Path(directory, "output"), Path(directory, "error"), str(uuid.uuid4())
        with (
            output.open("wb") as out,
            error.open("wb") as err,
            subprocess.Popen(
                ["ansible-playbook", str(path), "-e", json.dumps(variables), *options],
                stdout=out,
                stderr=err,
                start_new_session=True,
                env=os.environ | {"ANSIBLE_NOCOLOR": "1", MARK: mark},
            ) as process,
        ):
            started = Started(process, output, error, mark)
            try:
                yield started
            finally:
                if process.poll() is None:
                    started.kill()


def converge(*options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run the scenario's converge.yml with extra variables."""
    return run_playbook(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml", *options, **variables)


def converge_host(host: Any, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run the scenario's converge.yml on a single host, with extra variables."""
    return converge("--limit", host.backend.host, *options, **variables)


def changed(run: subprocess.CompletedProcess[str]) -> int:
    """Return the number of changed tasks on the first host. The run must have succeeded."""
    return _changed(run)[0]


def changes(run: subprocess.CompletedProcess[str]) -> set[int]:
    """Return the numbers of changed tasks of all hosts. The run must have succeeded."""
    return set(_changed(run))


def _changed(run: subprocess.CompletedProcess[str]) -> list[int]:
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr
    return [int(number) for number in re.findall(r"\bchanged=(\d+)", run.stdout)]


def failures(run: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the error of each failed host in one line. The run must have failed."""
    assert run.returncode != 0, run.stdout[-3000:]
    # YAML doubles the quotes in a quoted text.
    told = " ".join(run.stdout.partition("PLAY RECAP")[0].replace("''", "'").split())
    _, *parts = re.split(r"\bfatal: \[", told)
    return dict(part.split("]: ", 1) for part in parts)
