"""A fleet on the lab's hosts, for the demo and the benchmarks: its names, its playbooks, and commands on its hosts."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import program_in
from rich.console import Console
from rich.markup import escape
from rich.status import Status

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
LAB = ROOT / ".lab"
LOGS = ROOT / ".cache" / "demo"
TAIL_LINES = 40
# Ledgers that were last written this long before the first task have no tasks of this run.
CLOCK_SKEW_SECONDS = 3600
# Long enough for a busy machine.
REMOTE_TIMEOUT_SECONDS = 600
# The services of systemd that the table of hosts shows.
UNITS = ["rabbitmq-server.service", "redis-server.service", "valkey-server.service", "flower.service", "nginx.service"]
UNITS += ["redis-sentinel.service", "prometheus.service", "prometheus-alertmanager.service"]
PORTS = {"prometheus": 9090, "alertmanager": 9093}
BROKERS = ("rabbitmq", "redis")
TITLE = re.compile(r"^(?P<kind>PLAY|TASK|RUNNING HANDLER) \[(?P<name>.*)\] \*+$")
RECAP = re.compile(r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+)")
# supervisorctl: name, state in capitals, and "pid 1, uptime 0:00:01" or an error.
PROGRAM = re.compile(r"^(?P<name>\S+)\s+(?P<state>[A-Z]+)\s*(?:pid \d+, uptime )?(?P<detail>.*)$")
console = Console(highlight=False, emoji=False)


class LabError(Exception):
    """Something in the lab failed. The message is for the user."""


@dataclass
class Fleet:
    """The hosts and names of an inventory of the lab."""

    name: str
    app: str
    network: str
    state: Path
    secrets: Path
    #: The address of each host.
    addresses: dict[str, str]
    broker: str
    #: "rabbitmq" or "redis".
    kind: str
    beat: str
    flower: str
    monitor: str
    #: Hosts that run the application, and have a ledger.
    app_hosts: list[str]
    #: Whether connections are encrypted.
    tls: bool
    #: All hosts of the broker, of which broker is the first.
    brokers: list[str] = field(default_factory=list)
    #: Hosts that run workers.
    worker_hosts: list[str] = field(default_factory=list)

    @property
    def scheme(self) -> str:
        """Return the scheme of the URLs of web pages."""
        return "https" if self.tls else "http"

    @property
    def ca(self) -> Path:
        """Return the file of the authorities that clients trust."""
        return self.secrets / "ca" / "trusted.crt"


@dataclass(frozen=True)
class Process:
    """A program or service on a host, as Supervisor or systemd reports it."""

    name: str
    state: str
    detail: str = ""

    @property
    def healthy(self) -> bool:
        """Return whether it is running."""
        return self.state in {"RUNNING", "running"}


@dataclass
class Recap:
    """The progress of a playbook, from its output."""

    play: str = ""
    task: str = ""
    tasks: int = 0
    changed: int = 0
    hosts: list[str] = field(default_factory=list)

    def read(self, line: str) -> bool:
        """Read a line, and return whether it begins a play or a task."""
        if title := TITLE.match(line):
            if title["kind"] == "PLAY":
                self.play, self.task = title["name"], ""
            else:
                self.task = title["name"]
                self.tasks += 1
            return True
        if recap := RECAP.match(line):
            self.hosts.append(recap["host"])
            self.changed += int(recap["changed"])
        return False


def parse_fleet(inventory: dict[str, Any], home: Path, source: Path, kind: str = "rabbitmq") -> Fleet:
    """Return the fleet of an inventory.

    Args:
        inventory: output of `ansible-inventory --list`.
        home: the user's home directory, below which the fleet's secrets are.
        source: the inventory's directory.
        kind: the broker.

    Raises:
        LabError: the inventory has no hosts of the lab.
    """
    variables: dict[str, dict[str, Any]] = inventory.get("_meta", {}).get("hostvars", {})
    missing = [host for host, values in variables.items() if not {"lab_network", "ansible_host"} <= set(values)]
    if missing or not variables:
        raise LabError(
            f"{source} has no hosts of the lab. Use inventories/lab, or set lab_network and ansible_host of "
            f"{', '.join(missing) or 'its hosts'}"
        )
    values = next(iter(variables.values()))
    app = values.get("celery_app_name", "shop")
    name = values.get("celery_fleet_name", app)

    def members(group: str) -> list[str]:
        content = inventory.get(group, {})
        nested = (host for child in content.get("children", []) for host in members(child))
        return [*content.get("hosts", []), *nested]

    def hosts_of(duty: str) -> list[str]:
        group = values.get(f"celery_{duty}_group", duty)
        hosts = members(group)
        if not hosts:
            raise LabError(f"{source} has no host in the group {group}, which the demo needs. Put a host into it")
        return hosts

    beat, brokers = hosts_of("beat")[0], hosts_of("broker")
    workers = {host for worker in values.get("celery_workers", []) for host in members(worker["group"])}

    return Fleet(
        name=name,
        app=app,
        network=values["lab_network"],
        state=LAB / values["lab_network"],
        secrets=home / ".local" / "share" / "celery-fleet" / name,
        addresses={host: str(values["ansible_host"]) for host, values in sorted(variables.items())},
        broker=brokers[0],
        brokers=brokers,
        kind=kind,
        beat=beat,
        flower=hosts_of("flower")[0],
        monitor=hosts_of("monitor")[0],
        app_hosts=sorted(workers | {beat}),
        worker_hosts=sorted(workers),
        tls=values.get("celery_tls", "only") not in ("off", False),
    )


def parse_programs(text: str, files: Iterable[Path]) -> list[Process]:
    """Return the programs in the output of `supervisorctl status`.

    Args:
        files: configuration files of the programs. A slot that has stopped after a handover has none, and is left out.
    """
    matches = [match for line in text.splitlines() if (match := PROGRAM.match(line))]
    declared = set(map(program_in, files))
    return [
        Process(match["name"], match["state"], match["detail"])
        for match in matches
        if match["state"] != "STOPPED" or match["name"] in declared
    ]


def parse_units(text: str) -> list[Process]:
    """Return the installed services in the output of `systemctl list-units --all --plain --no-legend`."""
    processes = []
    for line in text.splitlines():
        unit, load, _active, state, *_description = line.split()
        if load == "loaded":
            processes.append(Process(unit.removesuffix(".service"), state))
    return processes


def say(text: str) -> None:
    """Print a line without markup and wrapping."""
    console.print(text, markup=False, soft_wrap=True)


def environment() -> dict[str, str]:
    """Return the environment for Ansible: .venv first in PATH, output without colours and buffers."""
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "PYTHONUNBUFFERED": "1",
    }


def become_options() -> list[str]:
    """Return the option with which Ansible asks for sudo's password, if sudo needs one."""
    if os.geteuid() == 0 or not shutil.which("sudo"):
        return []
    able = subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode == 0  # noqa: S607
    return [] if able else ["--ask-become-pass"]


def play(inventory: Path, playbook: str, options: list[str] | None = None) -> Recap:
    """Run a playbook. Show its current task on one line, and write its output to a log.

    Raises:
        LabError: the playbook failed. The end of the log is printed.
    """
    log = LOGS / f"{Path(playbook).stem}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(BIN / "ansible-playbook"), "-i", str(inventory), playbook, *(options or [])]
    recap = Recap()
    with (
        log.open("w", encoding="utf-8") as file,
        Status("", console=console) as status,
        subprocess.Popen(
            command, cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
    ):
        # Ansible may ask for a password, so leave the terminal alone until the first play.
        status.stop()
        for line in process.stdout or ():
            file.write(line)
            if recap.read(line):
                current = f"{recap.play}: {recap.task}" if recap.task else recap.play
                # The spinner takes two columns of the line.
                status.update(escape(current[: console.width - 3]))
                status.start()
    if process.returncode != 0:
        lines = log.read_text(encoding="utf-8").rstrip().splitlines()
        say("\n".join(lines[-TAIL_LINES:]))
        raise LabError(f"{playbook} failed. Its whole output is in {log.relative_to(ROOT)}")
    say(f"  {len(recap.hosts)} hosts, {recap.tasks} tasks, {recap.changed} changes")
    return recap


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run podman as root."""
    command = ["podman", *arguments] if os.geteuid() == 0 else ["sudo", "podman", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def remote(fleet: Fleet, host: str, command: list[str], allowed: Iterable[int] = (0,)) -> str:
    """Run a command on a host over SSH, and return its stdout.

    Raises:
        LabError: the command timed out, or its exit code is not allowed.
    """
    ssh = ["ssh", "-F", str(fleet.state / "ssh" / "config"), "-o", "BatchMode=yes", host, shlex.join(command)]
    try:
        result = subprocess.run(ssh, check=False, capture_output=True, text=True, timeout=REMOTE_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{host} did not answer within {error.timeout:.0f} s: {shlex.join(command)}") from error
    if result.returncode not in allowed:
        output = (result.stderr or result.stdout).strip()
        raise LabError(f"on {host}, `{shlex.join(command)}` failed with exit code {result.returncode}: {output}")
    return result.stdout


def read_ledgers(fleet: Fleet, since: float) -> Iterator[str]:
    """Yield the lines of all ledgers that were written since a time, in seconds since the epoch."""
    command = ["sudo", "-n", "find", f"/var/lib/{fleet.app}", "-path", "*/ledger/*.jsonl"]
    command += ["-newermt", f"@{since - CLOCK_SKEW_SECONDS:.0f}", "-exec", "cat", "{}", "+"]
    hosts = fleet.app_hosts
    with ThreadPoolExecutor(len(hosts)) as pool:
        for text in pool.map(lambda host: remote(fleet, host, command), hosts):
            yield from text.splitlines()


def processes(fleet: Fleet, host: str) -> list[Process]:
    """Return the programs and services of a host, running or not."""
    command = ["systemctl", "list-units", "--all", "--plain", "--no-legend", *UNITS, "supervisor.service"]
    units = parse_units(remote(fleet, host, command))
    services = [unit for unit in units if unit.name != "supervisor"]
    if len(services) == len(units):
        return services
    files = map(Path, remote(fleet, host, ["ls", "/etc/supervisor/conf.d"]).split())
    # 3: a program is not running. The table shows which.
    status = remote(fleet, host, ["sudo", "-n", "supervisorctl", "status"], allowed=(0, 3))
    return parse_programs(status, files) + services


def monitor_url(fleet: Fleet, program: str) -> str:
    """Return the URL of Prometheus or Alertmanager."""
    return f"{fleet.scheme}://{fleet.addresses[fleet.monitor]}:{PORTS[program]}"


def get(fleet: Fleet, program: str, path: str) -> Any:  # noqa: ANN401 - JSON
    """Return the response of Prometheus or Alertmanager to a GET request.

    Raises:
        LabError: it does not answer.
    """
    password = (fleet.secrets / program).read_text(encoding="utf-8").strip()
    credentials = base64.b64encode(f"prometheus:{password}".encode()).decode()
    request = Request(monitor_url(fleet, program) + path, headers={"Authorization": f"Basic {credentials}"})  # noqa: S310 - https
    context = ssl.create_default_context(cafile=fleet.ca) if fleet.tls else None
    try:
        with urlopen(request, timeout=REMOTE_TIMEOUT_SECONDS, context=context) as response:  # noqa: S310 - as above
            return json.load(response)
    except URLError as error:
        raise LabError(f"{request.full_url} does not answer: {error}") from error


def load_fleet(inventory: Path, kind: str = "rabbitmq") -> Fleet:
    """Return the fleet of an inventory.

    Raises:
        LabError: the inventory can't be read, or has no hosts of the lab.
    """
    result = subprocess.run(
        [str(BIN / "ansible-inventory"), "-i", str(inventory), "--list"],
        cwd=ROOT,
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise LabError(f"{inventory} can't be read: {result.stderr.strip()}")
    return parse_fleet(json.loads(result.stdout), Path.home(), inventory, kind)


def next_release(version: str) -> str:
    """Return the next release: 1.3.0 after 1.2.0."""
    major, minor, *_ = version.split(".")
    return f"{major}.{int(minor) + 1}.0"
