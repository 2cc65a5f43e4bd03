"""The example application on a scenario's hosts: send tasks, and read their outcomes from the ledger."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import testinfra
from shared.spent import spent

LEDGER = "/var/lib/shop/ledger/*.jsonl"
# So many tasks are looked for on the hosts; lines of more are all brought here.
AT_ONCE = 500
RUN = "runuser -u shop -- /srv/shop/bin/celery_run"
# What is awaited ends a wait, so how long one may take says nothing of the fleet: only what never comes lasts as long.
PATIENCE_SECONDS = 900
SEND = """
import json, sys
from shop.celery import app
app.loader.import_default_modules()
for call in json.loads(sys.argv[1]):
    task = app.signature(call["task"], args=call["args"], kwargs=call["kwargs"], app=app)
    print(task.apply_async(**call["options"]).id)
"""
# Holds back what a queue is crowded with: how much a machine keeps up with is not what tests ask.
FLOW = """
import json, sys, time
from pathlib import Path
from shop.celery import app
app.loader.import_default_modules()
deadline = time.monotonic() + 3600

calls = [(app.amqp.router.route({}, call["task"])["queue"].name, call) for call in json.loads(sys.argv[2])]
connection, looked, crowded = None, 0.0, set()

def look():
    global connection
    try:
        connection = connection or app.connection_for_read()
        declare = connection.default_channel.queue_declare
        return {name for name, _ in calls if declare(name, passive=True).message_count > 60}
    except Exception:  # the broker is away, and says so in many ways
        connection = None
        return set()

while not Path(sys.argv[1]).exists() and time.monotonic() < deadline:
    if time.monotonic() > looked + 1:
        looked, crowded = time.monotonic(), look()
    for queue, call in calls:
        if queue not in crowded:
            print(app.signature(call["task"], args=call["args"], kwargs=call["kwargs"], app=app).apply_async().id)
    time.sleep(float(sys.argv[3]))
"""


# Those that send tasks now, by Shop.flow.
_SENDERS: set[Future[str]] = set()


def now() -> str:
    """Return the current time in the ledger's format."""
    return datetime.now(UTC).isoformat()


def connect(name: str) -> Any:
    """Return a host of the scenario's inventory, as root."""
    return testinfra.get_host(f"ansible://{name}", sudo=True)


def wait_until(check: Callable[[], Any], what: str, timeout: float = PATIENCE_SECONDS, interval: float = 1.0) -> Any:
    """Poll until check returns a true value, and return it.

    Args:
        what: is waited for, for the message.
        timeout: seconds.
    """
    deadline = time.monotonic() + timeout
    with spent("what tests wait for"):
        while not (result := check()):
            # Nothing would come of a sender that has failed.
            for sender in [each for each in _SENDERS if each.done()]:
                pytest.fail(f"a sender ended meanwhile: {sender.result()[-200:]}")
            assert time.monotonic() < deadline, f"after {timeout} s: {what}"
            time.sleep(interval)
    return result


def call(task: str, *args: Any, kwargs: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Return a call of a task for Shop.send, with options of apply_async."""
    return {"task": task, "args": list(args), "kwargs": kwargs or {}, "options": options}


def transcode(video: int, seconds: float, **options: Any) -> dict[str, Any]:
    """Return a call of video.transcode that leaves the processor to the other tests."""
    return call("video.transcode", video, seconds, kwargs={"rest": 0.02}, **options)


@dataclass(frozen=True)
class Report:
    """A task reports.build that is in flight.

    Attributes:
        id: of its task.
        figures: the file that it waits for.
    """

    shop: Shop
    id: str
    figures: str

    def finish(self) -> None:
        """Make the task end."""
        for host in self.shop.hosts:
            self.shop.output(f"touch {self.figures}", host)


@dataclass
class Shop:
    """A fleet that runs the example.

    Attributes:
        sender: name of the host that tasks are sent from.
        hosts: names of the hosts whose ledgers count.
    """

    sender: str
    hosts: tuple[str, ...]
    _connections: dict[str, Any] = field(default_factory=dict)

    def host(self, name: str) -> Any:
        if name not in self._connections:
            self._connections[name] = connect(name)
        return self._connections[name]

    def output(self, command: str, host: str = "") -> str:
        """Run a command on a host, which must succeed, and return its output. The default is the sender."""
        with spent("commands on hosts"):
            result = self.host(host or self.sender).run(command)
        assert result.rc == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return str(result.stdout)

    @contextmanager
    def altered(self, host: str, do: str, undo: str) -> Iterator[None]:
        """Run a command on a host, and another one at the end of the block, which reverts it."""
        self.output(do, host)
        try:
            yield
        finally:
            self.output(undo, host)

    def send(self, *calls: dict[str, Any]) -> list[str]:
        """Send tasks and return their ids."""
        return self.output(f"{RUN} python -c {shlex.quote(SEND)} {shlex.quote(json.dumps(calls))}").split()

    @contextmanager
    def flow(self, *calls: dict[str, Any], every: float = 0.2) -> Iterator[list[str]]:
        """Send tasks repeatedly during the block. The list has their ids at its end.

        Args:
            every: so many seconds.
        """
        ids: list[str] = []
        stop = self.output("mktemp --dry-run").strip()
        command = f"{RUN} python -c {shlex.quote(FLOW)} {stop} {shlex.quote(json.dumps(calls))} {every}"
        with ThreadPoolExecutor(1) as pool:
            # A connection of its own, beside those that the block uses.
            sending = pool.submit(Shop(self.sender, ()).output, command)
            _SENDERS.add(sending)
            try:
                yield ids
            finally:
                _SENDERS.discard(sending)
                self.output(f"touch {stop}")
                ids += sending.result().split()

    def report(self, month: str) -> Report:
        """Start a task that runs until finish is called."""
        figures = f"/var/lib/shop/figures-{month}"
        (task,) = self.send(call("reports.build", month, 550, kwargs={"figures": figures}))
        self.wait_for([task], "started")
        return Report(self, task, figures)

    def logs_of(self, ids: Iterable[str]) -> str:
        """Return what the workers' logs say of tasks, and the lines after each."""
        patterns = " ".join(f"-e {task}" for task in ids)
        return "\n".join(
            self.host(name).run(f"grep -h -A3 {patterns} /var/log/shop/*.log").stdout for name in self.hosts
        )

    def ledger(self, ids: Iterable[str] | None = None, since: str = "") -> list[dict[str, Any]]:
        """Return the lines of all hosts' ledgers, or those of some tasks.

        Args:
            since: of lines from this time on, as the ledger has it. All of it is much to read again and again.
        """
        wanted = set(ids) if ids is not None else None
        command = f"grep -h '' {LEDGER}"
        if wanted is not None and len(wanted) <= AT_ONCE:
            command = f"grep -hF {' '.join(f'-e {task}' for task in sorted(wanted)) or '-e none'} {LEDGER}"
        # A line begins with the time, so that is its second word.
        newer = shlex.quote(f'$2 >= "\\"{since}"')
        lines: list[dict[str, Any]] = []
        for name in self.hosts:
            lines += self._json_lines(f"{{ {command} 2>/dev/null || true; }} | awk {newer}", name)
        return [line for line in lines if wanted is None or line["id"] in wanted]

    def _json_lines(self, command: str, host: str, attempts: int = 5) -> list[dict[str, Any]]:
        """Return the JSON lines that a command prints. An incomplete last line is read again."""
        text = self.output(command, host)
        try:
            return [json.loads(line) for line in text.splitlines()]
        except ValueError:
            if attempts == 1:
                raise
            return self._json_lines(command, host, attempts - 1)

    def events(self, ids: Iterable[str], event: str, since: str = "") -> list[dict[str, Any]]:
        return [line for line in self.ledger(ids, since) if line["event"] == event]

    def wait_for(self, ids: Iterable[str], *events: str) -> list[dict[str, Any]]:
        """Wait until each task has one of these events (by default done), and return their lines."""
        ids, events = set(ids), events or ("done",)

        def all_there() -> list[dict[str, Any]]:
            lines = [line for line in self.ledger(ids) if line["event"] in events]
            return lines if {line["id"] for line in lines} == ids else []

        try:
            lines: list[dict[str, Any]] = wait_until(all_there, f"not all of {len(ids)} tasks")
        except AssertionError as error:
            raise AssertionError(f"{error} are {' or '.join(events)}: {self.whereabouts(ids, events)}") from error
        return lines

    def whereabouts(self, ids: Iterable[str], ends: Iterable[str]) -> dict[str, int]:
        """Return the number of tasks without an end, by queue and latest event."""
        heard: dict[str, tuple[str, str]] = {}
        for line in sorted(self.ledger(ids), key=lambda line: str(line["time"])):
            queue = line["queue"] or heard.get(line["id"], ("?", ""))[0]
            heard[line["id"]] = (queue, f"{line['event']} on {line['host']}")
        return dict(Counter(f"{queue} {last}" for queue, last in heard.values() if last.split()[0] not in ends))

    def run(self, *calls: dict[str, Any]) -> list[dict[str, Any]]:
        """Send tasks, wait until they are done, and return their lines of the ledger."""
        return self.wait_for(self.send(*calls))

    def inspect(self, what: str, node: str) -> dict[str, Any]:
        """Return a worker's reply to an inspect command: stats, active, conf, ..."""
        # As root, who may also ask workers that require signed messages.
        ask = f"celery -A shop.celery:app inspect {what} --json --timeout 60 -d {node}"
        text = self.output(f"/srv/shop/bin/celery_operator {ask}")
        answer: dict[str, Any] = json.loads(text)[node]
        return answer

    def pid(self, host: str, program: str) -> int:
        """Return the process id of a program in Supervisor; 0 if it is not running."""
        return int(self.output(f"supervisorctl pid {program} || true", host).split()[-1])

    def pids(self, host: str) -> dict[str, int]:
        """Return the process id of each running program of a host."""
        rows: list[list[str]] = []

        def settled() -> bool:
            rows[:] = (line.split() for line in self.output("supervisorctl status || true", host).splitlines())
            return not any(row[1] == "STARTING" for row in rows)

        # A worker may be at work before Supervisor says that it stays up.
        wait_until(settled, f"programs of {host} do not stay up")
        return {row[0]: int(row[3].rstrip(",")) for row in rows if row[1] == "RUNNING"}
