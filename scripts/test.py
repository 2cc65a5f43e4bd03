#!/usr/bin/env python3
"""Run all checks that a change must pass.

Runs lint and unit tests, then each molecule scenario on its own hosts, several steps at a time. The output of each step
is in .cache/test-logs, the terminal shows its changes of state. When a step ends, or on Ctrl-C, all of its processes
are ended. Processes that a killed run left are ended by the next run. The end shows the costs of the steps. The last
line has totals, which count each lint step, each phase of a scenario, and each test of pytest.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

import yaml

from scripts.costs import PODMAN, Meter, machine_seconds, process_seconds, spent_table, stat_of, table

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".cache" / "test-logs"
# Scenarios of all checkouts use the same networks, so running steps are recorded in one place.
RUNNING = Path("~/.cache/celery-fleet/tests").expanduser()
BIN = ROOT / ".venv" / "bin"
TAIL_LINES = 80
# Of a step, and of each, at the end of a run.
FAILURES_SHOWN = 10
FAILURE_WIDTH = 300
HEARTBEAT_SECONDS = 60
# At least twice the time of the longest step, so that only a step that hangs is ended.
STEP_LIMIT_SECONDS = 75 * 60
# The scenario and the test of `--quick`.
QUICK_SCENARIO = "release_rabbitmq"
QUICK_TEST = "test_a_release_loses_and_repeats_nothing"
# Started last, so that no long scenario is alone at the end of a run.
SHORT_SCENARIOS = ("celery_task_log", "flower", "supervisor")
# Seconds between SIGTERM and SIGKILL.
GRACE_SECONDS = 20

# Environment variable of all processes of a step, also of those in sessions of their own.
MARK = "FLEET_TEST_STEP"

PHASE = re.compile(r"\[[^\]]+ > (?P<phase>\w+)\] (?P<event>Executing|Executed: (?P<result>\w+))\s*$")
PYTEST_SUMMARY = re.compile(r"^(?:=+ )?(?P<counts>\d+ \w+(?:, \d+ \w+)*) in [\d.]+s")
# A line of pytest's last summary, or an error of Ansible.
FAILURE = re.compile(r"^(?:FAILED|ERROR) \S+::|^\[ERROR\]: ")
COUNT = re.compile(r"(\d+) (passed|failed|errors?)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Step:
    """A command and its result."""

    name: str
    group: str
    command: list[str]
    cwd: Path = ROOT
    cleanup: list[str] = field(default_factory=list)
    phase: str = ""
    started: float = 0.0
    passed: int = 0
    failed: int = 0
    lines: int = 0
    network: str = ""
    hosts: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    # Line of the log with the first failure. Later lines are about the cleanup.
    failed_at: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.meter = Meter(self.name, self.network)
        # Unique, because a test of this script runs steps within a step, and must not end that.
        self.mark = f"{self.name} {uuid.uuid4()}"

    @property
    def log(self) -> Path:
        """Return the path of the step's output."""
        return LOGS / f"{self.name}.log"

    @property
    def spent(self) -> Path:
        """Return the path of the time that a scenario spent, by kind of work."""
        return LOGS / f"{self.name}.spent"

    def read(self, line: str) -> str:
        """Read a line of output; return "begin" or "end" if a phase begins or ends with it."""
        self.lines += 1
        if FAILURE.match(line) and not self.failed_at:
            self.failures.append(line.rstrip()[:FAILURE_WIDTH])
        if counts := PYTEST_SUMMARY.match(line):
            for number, outcome in COUNT.findall(counts["counts"]):
                if outcome == "passed":
                    self.passed += int(number)
                else:
                    self.failed += int(number)
        if self.group != "scenario" or not (match := PHASE.search(line)):
            return ""
        if match["event"] == "Executing":
            self.phase = match["phase"]
            return "begin"
        if match["result"] == "Failed":
            self.failed_at = self.failed_at or self.lines
        if match["result"] == "Successful" and match["phase"] != "verify":
            self.passed += 1
        return "end"

    def close(self, code: int) -> None:
        """Count the step itself, unless its output had counts."""
        if self.group == "lint":
            self.passed, self.failed = int(code == 0), int(code != 0)
        elif code != 0 and self.failed == 0:
            self.failed = 1
        elif code == 0 and self.passed == 0:
            # Without any test, a run of tests has failed.
            self.failed = 1


def lint_steps() -> list[Step]:
    """Return the steps that only read the sources."""
    python = str(BIN / "python")
    sources = ("plugins", "playbooks", "scripts", "lab", "tests", "molecule", "roles", "bench", "example/shop")
    typed = [name for name in sources if any((ROOT / name).rglob("*.py"))]
    commands = {
        "ansible-lint": [str(BIN / "ansible-lint"), "--offline", "--strict"],
        "yamllint": [str(BIN / "yamllint"), "--strict", "."],
        "ruff": [str(BIN / "ruff"), "check", "."],
        "ruff-format": [str(BIN / "ruff"), "format", "--check", "."],
        "mypy": [str(BIN / "mypy"), *typed],
        "argument-specs": [python, "scripts/check_argument_specs.py"],
        "role-readmes": [python, "scripts/role_readmes.py", "--check"],
        "dashboards": [python, "scripts/dashboards.py", "--check"],
        # Fails on documentation that ansible-doc or a site can't show, and on broken links.
        "docs": ["scripts/docs"],
    }
    return [Step(name, "lint", command) for name, command in commands.items()]


def unit_steps() -> list[Step]:
    """Return the tests that need no hosts."""
    pytest = [str(BIN / "python"), "-m", "pytest"]
    return [
        Step("unit", "unit", [*pytest, "tests/unit"]),
        Step("example", "unit", pytest, cwd=ROOT / "example"),
    ]


def hosts_in(inventory: Path) -> int:
    """Return the number of hosts that a scenario boots."""
    hosts: set[str] = set()

    def walk(group: dict[str, object] | None) -> None:
        for key, value in (group or {}).items():
            if key == "hosts" and isinstance(value, dict):
                hosts.update(value)
            elif isinstance(value, dict) and key != "vars":
                walk(value)

    for path in inventory.glob("*.yml"):
        walk(yaml.safe_load(path.read_text(encoding="utf-8")))
    return len(hosts)


def scenario_steps() -> list[Step]:
    """Return a step for each molecule scenario. Those with the most hosts, which take longest, are first."""
    paths = [path.parent for path in ROOT.glob("molecule/*/molecule.yml")]
    paths.sort(key=lambda path: (path.name in SHORT_SCENARIOS, -hosts_in(path / "inventory"), path.name))
    inventories = [ROOT / "molecule" / "shared" / "inventory"]
    return [
        Step(
            path.name,
            "scenario",
            [str(BIN / "molecule"), "test", "--scenario-name", path.name],
            network=f"fleet-{path.name}",
            hosts=hosts_in(path / "inventory"),
            cleanup=[
                str(BIN / "ansible-playbook"),
                *[f"--inventory={inventory}" for inventory in [*inventories, path / "inventory"]],
                str(ROOT / "lab" / "destroy.yml"),
            ],
        )
        for path in paths
    ]


def clock(seconds: float) -> str:
    """Return a duration as minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Run:
    """Runs steps in parallel and prints their states."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.running: dict[str, tuple[Step, subprocess.Popen[str]]] = {}
        self.lock = threading.Lock()
        self.interrupted = threading.Event()
        self.live = sys.stdout.isatty()
        self.environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "MOLECULE_COMMAND_BORDERS": "false",
            "NO_COLOR": "1",
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "lab" / "callback_plugins"),
            "ANSIBLE_CALLBACKS_ENABLED": "spent",
        }
        # The first three belong to this process's own environment. With the last, each of some thousand processes of
        # Python would compile all of its imports.
        for name in ("ANSIBLE_CONFIG", "ANSIBLE_INVENTORY", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"):
            self.environment.pop(name, None)

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        with self.lock:
            print(f"{self.erase}{clock(time.monotonic() - self.began):>6}  {text}", flush=True)

    @property
    def erase(self) -> str:
        """Return the escape sequence that removes the status line."""
        return "\r\x1b[K" if self.live else ""

    def status(self) -> str:
        """Return the running steps, with their phases and times."""
        now = time.monotonic()
        return ", ".join(
            f"{step.name} ({step.phase + ' ' if step.phase else ''}{clock(now - step.started)})"
            for step, _ in list(self.running.values())
        )

    def watch(self, stop: threading.Event) -> None:
        """Print the status each second on a terminal, else each minute."""
        measured = time.monotonic()
        while not stop.wait(1 if self.live else HEARTBEAT_SECONDS):
            if time.monotonic() - measured >= HEARTBEAT_SECONDS:
                measured = time.monotonic()
                for step, _ in list(self.running.values()):
                    step.meter.hosts()
            if not self.live:
                self.say("running: " + (self.status() or "nothing"))
                continue
            with self.lock:
                width = shutil.get_terminal_size().columns - 1
                line = f"{clock(time.monotonic() - self.began):>6}  {self.status()}"[:width]
                print(f"{self.erase}{line}", end="", flush=True)

    def execute(self, step: Step) -> None:
        """Run one step to its end."""
        if self.interrupted.is_set():
            return
        step.started = time.monotonic()
        step.spent.unlink(missing_ok=True)
        with step.log.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                step.command,
                cwd=step.cwd,
                env=self.environment | {"FLEET_SPENT": str(step.spent), MARK: step.mark} | step.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self.running[step.name] = (step, process)
            self.say(f"{step.name}: started")
            with recorded(step, process.pid):
                code = self.follow(step, process, log)
                end_processes_of(step.mark)
            if code != 0 and step.cleanup:
                # molecule cleans up after a failure, but not if it is killed.
                subprocess.run(step.cleanup, env=self.environment, cwd=ROOT, stdout=log, stderr=log, check=False)
        del self.running[step.name]
        step.close(code)
        self.print_result(step, code)

    def follow(self, step: Step, process: subprocess.Popen[str], log: IO[str]) -> int:
        """Read the output of a step and measure its costs until it has ended; return its exit code."""
        limit = threading.Timer(STEP_LIMIT_SECONDS, self.end, [process])
        limit.start()
        if step.group != "scenario":
            step.meter.begin(step.started, process.pid)
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for raw in process.stdout:
            line = COLOUR.sub("", raw)
            log.write(line)
            log.flush()
            event = step.read(line)
            if event == "begin":
                step.meter.begin(time.monotonic(), process.pid)
                self.say(f"{step.name}: {step.phase}")
            elif event == "end":
                step.meter.end(step.phase, time.monotonic(), process_seconds(process.pid))
        # Read its CPU time before it is reaped, which another thread may already have done.
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        used = process_seconds(process.pid)
        code = process.wait()
        limit.cancel()
        if step.group != "scenario":
            step.meter.end("", time.monotonic(), used)
        return code

    def print_result(self, step: Step, code: int) -> None:
        """Print the result of a step, and the end of its log if it failed."""
        took = time.monotonic() - step.started
        if step.failed == 0:
            self.say(f"{step.name}: passed in {clock(took)}")
            return
        why = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        if code < 0 and took >= STEP_LIMIT_SECONDS:
            why += f" after {STEP_LIMIT_SECONDS // 60} minutes"
        self.say(f"{step.name}: FAILED in {clock(took)} ({why}); the end of {step.log.relative_to(ROOT)}:")
        lines = step.log.read_text(encoding="utf-8").split("\n")
        lines = lines[: step.failed_at or step.lines][-TAIL_LINES:]
        with self.lock:
            print("\n".join(f"    {line}" for line in lines), flush=True)

    def end(self, process: subprocess.Popen[str]) -> None:
        """End a step and its processes by SIGTERM, and by SIGKILL after GRACE_SECONDS."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(GRACE_SECONDS)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue
            return

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        """End all steps, which clean up after themselves."""
        if self.interrupted.is_set():
            return
        self.interrupted.set()
        self.say(f"{signal.Signals(number).name}: ending all steps and cleaning up")
        for _, process in list(self.running.values()):
            threading.Thread(target=self.end, args=[process]).start()

    def run(self, steps: Iterable[Step], jobs: int) -> None:
        """Run steps, at most `jobs` at a time."""
        with ThreadPoolExecutor(jobs) as pool:
            for future in [pool.submit(self.execute, step) for step in steps]:
                future.result()


@contextmanager
def recorded(step: Step, pid: int) -> Iterator[None]:
    """Record that a step is running, so that the next test run can end it if this one is killed."""
    note = RUNNING / f"{step.name}.json"
    left = {"pid": pid, "started": started_at(pid), "mark": step.mark, "network": step.network}
    note.write_text(json.dumps(left), encoding="utf-8")
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def started_at(pid: int) -> str:
    """Return the start time of a process, in ticks since the boot; empty if it is not running."""
    fields = stat_of(pid)
    return fields[19] if fields and fields[0] != "Z" else ""


def end_processes_of(mark: str) -> None:
    """Kill all processes of a step that are still running."""
    variable = f"{MARK}={mark}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # it belongs to another user, or has exited
            continue


def end_leftovers() -> None:
    """Remove the processes and hosts that a killed test run left."""
    for note in sorted(RUNNING.glob("*.json")):
        left = json.loads(note.read_text(encoding="utf-8"))
        print(f"test: cleaning up {note.stem}, which an earlier run left behind", flush=True)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if started_at(left["pid"]) == left["started"] != "":
                os.killpg(left["pid"], number)
                gone = time.monotonic() + GRACE_SECONDS
                while started_at(left["pid"]) == left["started"] and time.monotonic() < gone:
                    time.sleep(0.2)
        end_processes_of(left["mark"])
        if left["network"]:
            hosts = [*PODMAN, "ps", "--all", "--quiet", "--filter", f"name=^{left['network']}-"]
            found = subprocess.run(hosts, capture_output=True, text=True, check=False).stdout.split()
            if found:
                subprocess.run([*PODMAN, "rm", "--force", "--time", "0", *found], stdout=subprocess.DEVNULL, check=True)
            subprocess.run([*PODMAN, "network", "rm", "--force", left["network"]], capture_output=True, check=False)
        note.unlink()


@contextmanager
def alone() -> Iterator[None]:
    """Lock out other test runs of this user, whose hosts and networks have the same names."""
    RUNNING.mkdir(parents=True, exist_ok=True)
    with (RUNNING / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SystemExit(f"test: another run is active: {lock.read().strip()}. Wait for it, or end it") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} in {ROOT}\n")
        lock.flush()
        end_leftovers()
        yield


def check_machine(steps: Sequence[Step], jobs: int) -> None:
    """Exit with a message if this machine is too small for the steps that run at a time."""
    sizes = sorted((step.hosts for step in steps), reverse=True)[:jobs]
    if hosts := sum(sizes):
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        checked = subprocess.run([*sudo, sys.executable, str(ROOT / "lab" / "machine.py"), str(hosts)], check=False)
        if checked.returncode != 0:
            raise SystemExit("test: nothing was started")


def quick_steps() -> list[Step]:
    """Return lint, unit tests, and one fleet from site.yml to a rollout."""
    (fleet,) = (step for step in scenario_steps() if step.name == QUICK_SCENARIO)
    fleet.environment["PYTEST_ADDOPTS"] = f"-k {QUICK_TEST}"
    # The fleet takes longest.
    return [fleet, *lint_steps(), *unit_steps()]


def chosen(only: str | None) -> list[Step]:
    """Return steps by name or by group. Exit on an unknown name."""
    steps = [*lint_steps(), *unit_steps(), *scenario_steps()]
    if only is None:
        return steps
    names = {name.strip() for name in only.split(",") if name.strip()}
    known = {step.name for step in steps} | {step.group for step in steps}
    if unknown := names - known:
        raise SystemExit(f"test: no such step: {', '.join(sorted(unknown))}. The steps are: {', '.join(sorted(known))}")
    return [step for step in steps if names & {step.name, step.group}]


def main() -> int:
    """Run the chosen steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--only", metavar="NAME,...", help="lint, unit, scenario, or the names of single steps")
    some.add_argument("--quick", action="store_true", help="lint, unit tests, and one fleet from site.yml to a rollout")
    parser.add_argument(
        "--jobs",
        type=int,
        default=int(os.environ.get("TEST_JOBS", "4")),
        metavar="N",
        help="steps at a time (default 4, or $TEST_JOBS)",
    )
    parser.add_argument("--list", action="store_true", help="list the steps and run nothing")
    arguments = parser.parse_args()
    steps = quick_steps() if arguments.quick else chosen(arguments.only)
    if arguments.list:
        print("\n".join(f"{step.group:10} {step.name}" for step in steps))
        return 0

    with alone():
        check_machine(steps, arguments.jobs)
        return run_all(steps, arguments.jobs)


def run_all(steps: Sequence[Step], jobs: int) -> int:
    """Run steps, and print their costs and the totals."""
    LOGS.mkdir(parents=True, exist_ok=True)
    used, whole = machine_seconds()
    run = Run()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, run.interrupt)
    stop = threading.Event()
    watcher = threading.Thread(target=run.watch, args=[stop])
    watcher.start()
    try:
        run.run(steps, jobs)
    finally:
        stop.set()
        watcher.join()

    used, whole = (now - then for now, then in zip(machine_seconds(), (used, whole), strict=True))
    busy = used / whole if whole else 0.0
    costs = [cost for step in steps for cost in step.meter.costs]
    report = [*table(costs), "", *spent_table([step.spent for step in steps]), ""]
    report.append(f"{clock(time.monotonic() - run.began)} wall time; the processors were busy {busy:.0%} of it.")
    (LOGS / "costs.md").write_text("\n".join(report) + "\n", encoding="utf-8")
    print("\n".join(["", *report, ""]), flush=True)

    bad = [step.name for step in steps if step.failed or not step.started]
    if bad:
        run.say("not passed: " + ", ".join(bad))
        for step in steps:
            for failure in step.failures[-FAILURES_SHOWN:] if step.failed else ():
                print(f"        {step.name}: {failure}")
    passed, failed = sum(step.passed for step in steps), sum(step.failed for step in steps)
    print(f"{run.erase}{passed} passed, {max(failed, len(bad))} failed", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
