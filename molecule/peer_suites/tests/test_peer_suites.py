"""The application's own user of the broker, with the settings that the fleet renders, can do all that Celery does.

Celery's and kombu's own integration suites say what that is. They run on the host, as the application's user, in its
release and its environment, with RabbitMQ first and then with Redis.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peer_suites.suites import SUITES, Suite
from shared.deployed import connect
from shared.playbook import changed, converge

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
SECRETS = SCENARIO.parents[1] / ".lab" / f"fleet-{SCENARIO.name}" / "secrets"
SOURCE = "/srv/peers/current/venv/src"
# Where all is refused, it is not all tried. What a user may not do fails twice, unlike a test that depends on how long
# something takes.
PYTEST = "python -m pytest -p no:cacheprovider --tb=short -q -rfER --maxfail=10 --reruns=1"
# Some four minutes on an idle machine.
LONGEST_SECONDS = 2400
# Names that kombu's suite has for queues and exchanges.
KOMBU_NAMES = "test.*|(simple|priority|ttl)_.*|(rk_)?direct[12]|fanout[12]|topic[123]|revive_.*"


@dataclass(frozen=True)
class Fleet:
    """The fleet on one of the brokers.

    Attributes:
        broker: rabbitmq or redis.
    """

    host: Any
    broker: str

    def pytest(self, suite: Suite, *options: str) -> tuple[int, str]:
        """Run pytest on a suite's tests; return its exit code and its output."""
        root = f"{SOURCE}/{suite.root}".rstrip("/")
        arguments = [*suite.options, f"--rootdir={root}", *options, *(f"{root}/{test}" for test in suite.tests)]
        command = (
            "url=${CELERY_BROKER_URL#*://}; url=${url%/0}; "
            f"{suite.setup}; {self.inspector()}; exec timeout {LONGEST_SECONDS} {PYTEST} {shlex.join(arguments)}"
        )
        run = self.host.run(f"/srv/peers/bin/celery_run sh -c {shlex.quote(command)}")
        return run.rc, run.stdout + run.stderr

    def inspector(self) -> str:
        """Return the shell's command that names the user by which kombu's suite reads what is in Redis."""
        if self.broker == "rabbitmq":
            return ":"
        return f"export REDIS_USER=peers-admin REDIS_PASSWORD={(SECRETS / 'redis_administrator').read_text().strip()}"

    def redis(self, *arguments: str) -> Any:
        """Return what Redis answers to its administrator."""
        command = shlex.join(["redis-cli", "--json", "--user", "peers-admin", *arguments])
        return json.loads(self.host.check_output(f"{self.inspector()}; REDISCLI_AUTH=$REDIS_PASSWORD {command}"))

    def refused(self) -> list[str]:
        """Return what the broker refused to the application's user."""
        if self.broker == "rabbitmq":
            found = self.host.run("grep -hi access_refused /var/log/rabbitmq/*.log")
            return str(found.stdout).splitlines()
        return [str(entry) for entry in self.redis("ACL", "LOG") if entry["username"] == "peers"]

    @contextmanager
    def names_of_kombu(self) -> Iterator[None]:
        """Let the application's user have the names that kombu's suite has chosen, for what it may do anyway."""
        if self.broker == "redis":
            self.redis("ACL", "SETUSER", "peers", "allkeys", "allchannels")
            try:
                yield
            finally:
                self.redis("ACL", "LOAD")
            return
        listed = self.host.check_output("rabbitmqctl --quiet list_user_permissions peers").splitlines()
        vhost, *rights = listed[1].split("\t")
        set_rights = f"rabbitmqctl set_permissions -p {vhost} peers"
        wider = [f"{right.removesuffix(')$')}|{KOMBU_NAMES})$" for right in rights]
        self.host.check_output(f"{set_rights} {shlex.join(wider)}")
        try:
            yield
        finally:
            self.host.check_output(f"{set_rights} {shlex.join(rights)}")


@pytest.fixture(scope="module", params=["rabbitmq", "redis"])
def fleet(request: pytest.FixtureRequest) -> Fleet:
    """Return the fleet on a broker, its own worker stopped: the suites bring one of theirs."""
    host = connect("vm1")
    if request.param == "redis":
        assert changed(converge(celery_broker="redis"))
    host.check_output("systemctl stop peers-watchdog && supervisorctl stop peers-main")
    return Fleet(host, request.param)


def passes(fleet: Fleet, suite: Suite) -> None:
    """Fail unless all tests of a suite pass that are to, and none of those is gone that are not."""
    _, collected = fleet.pytest(suite, "--collect-only")
    tests = [line for line in collected.splitlines() if "::" in line]
    gone = [name for name in suite.deselected if not any(test.startswith(name) for test in tests)]
    assert not gone, f"these are deselected but not there: {gone}\n{collected[-3000:]}"
    code, told = fleet.pytest(suite, *(f"--deselect={name}" for name in suite.deselected))
    failed = [line for line in told.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert code == 0, f"{' | '.join(failed)}\n{told[-20000:]}"
    counted = re.search(r"\b(\d+) passed", told.splitlines()[-1])
    assert counted, told
    assert int(counted[1]) >= suite.least, told
    assert fleet.refused() == []


def test_celerys_suite_passes(fleet: Fleet) -> None:
    passes(fleet, SUITES[fleet.broker]["celery"])


def test_kombus_suite_passes(fleet: Fleet) -> None:
    with fleet.names_of_kombu():
        passes(fleet, SUITES[fleet.broker]["kombu"])
