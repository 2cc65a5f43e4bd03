"""A user's application on a host, as opposed to the example."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.deployed import wait_until
from shared.playbook import PLAYBOOKS, run_playbook

# What becomes of something that a producer may not do.
ATTEMPT = """
def attempt(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "allowed"
"""

# Sends tasks until a file is removed, which it makes when it has sent the first ones.
LOAD = """
from pathlib import Path
from time import sleep
sent, flag = {tasks}, Path({flag!r})
flag.touch()
while flag.exists():
    sleep(1)
    sent += {tasks}
print(json.dumps(sent))
"""


@dataclass(frozen=True)
class Application:
    """An application on one of its hosts.

    Attributes:
        host: its testinfra connection, as root.
        setup: code that runs before any other.
    """

    host: Any
    name: str
    setup: str = ""

    def python(self, code: str) -> Any:
        """Run code in the application's environment, as its user, and return the JSON that it prints."""
        program = "\n".join(["import json", self.setup, code])
        run = f"/srv/{self.name}/bin/celery_run python -c {shlex.quote(program)}"
        return json.loads(self.host.check_output(run).splitlines()[-1])

    def produce(self, code: str) -> Any:
        """Run code as a web server that sends tasks, with a Celery application without tasks."""
        program = "\n".join(["import json", "from celery import Celery", "app = Celery('web')", ATTEMPT, code])
        python = f"/srv/{self.name}/current/venv/bin/python"
        run = f"set -a; . /etc/{self.name}-producer/environment; exec {python} -c {shlex.quote(program)}"
        return json.loads(self.host.check_output(f"runuser -u www-data -- sh -c {shlex.quote(run)}").splitlines()[-1])

    def release(self) -> str:
        return Path(self.host.check_output(f"readlink /srv/{self.name}/current")).name

    @contextmanager
    def load(self, tasks: str) -> Iterator[list[str]]:
        """Send tasks from one process until the end of the block; yield their ids, which are known after it.

        Args:
            tasks: expression that sends tasks, as a list of their ids.
        """
        flag = f"/var/lib/{self.name}/sending"
        sent: list[str] = []
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(self.python, LOAD.format(tasks=tasks, flag=flag))
            try:
                wait_until(lambda: sending.done() or self.host.file(flag).exists, "nothing is sent")
                yield sent
            finally:
                self.host.check_output(f"rm -f {flag}")
            sent += sending.result()

    def release_under_load(self, tasks: str, **release: Any) -> tuple[str, list[str], set[str]]:
        """Deploy another release, and roll it back, while tasks are sent.

        Args:
            tasks: see load.

        Returns:
            What deploy.yml said, the ids of the tasks, and the two releases.
        """
        first = self.release()
        with self.load(tasks) as sent:
            told = play("deploy", **release)
            second = self.release()
            play("rollback")
        assert self.release() == first != second
        return told, sent, {first, second}


def changed_source(source: Path, copy: Path, change: Callable[[Path], None]) -> str:
    """Copy a source, change the copy, and return its path."""
    shutil.copytree(source, copy)
    change(copy)
    return str(copy)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def play(name: str, *options: str, **variables: Any) -> str:
    """Run a playbook, which must succeed, and return its output in one line."""
    run = run_playbook(PLAYBOOKS / f"{name}.yml", *options, **variables)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr
    return one_line(run.stdout)


def refused(name: str, *options: str, **variables: Any) -> str:
    """Run a playbook, which must fail, and return its output in one line."""
    run = run_playbook(PLAYBOOKS / f"{name}.yml", *options, **variables)
    assert run.returncode != 0, run.stdout[-5000:]
    return one_line(run.stdout)


def one_line(output: str) -> str:
    """Return a text without YAML's line breaks and quotes."""
    return " ".join(output.replace("''", "'").split())


def attempts(queue: str) -> str:
    """Return code of a producer that tries to consume, to purge queues, and to control workers."""
    return (
        f"take = lambda: app.connection().default_channel.basic_get({queue!r})\n"
        "calls = [take, app.control.purge, lambda: app.control.ping(timeout=1)]\n"
        "print(json.dumps([attempt(call) for call in calls]))"
    )
