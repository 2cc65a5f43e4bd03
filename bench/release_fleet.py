"""The hosts of bench/release.py, their load of tasks, and the measurement of a release."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from lab.fleet import BIN, LAB, ROOT, Fleet, become_options, environment, play, read_ledgers, remote

sys.path.insert(0, str(ROOT / "example"))
from shop import ledger

APP, NETWORK, SUBNET = "shop", "fleet-bench-release", "10.90.70"
#: Below the user's home, since the path of a socket may be no longer than 108 characters.
CONTROL_PATH = Path.home() / ".ansible" / "cp" / NETWORK
INVENTORIES = ROOT / ".cache" / "bench" / "release"
BROKER, SENDER = "broker1", "control1"
FLOW = Path(__file__).with_name("on_host") / "flow.py"
PROFILE = {
    "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).with_name("callback_plugins")),
    "ANSIBLE_CALLBACKS_ENABLED": "cpu_per_task",
}
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
#: After the last task was sent, beyond the longest of them.
SETTLE_SECONDS = 60


def workers(number: int) -> list[str]:
    return [f"worker{each}" for each in range(1, number + 1)]


def inventory(number: int, longest: float) -> dict[str, Any]:
    """Return the inventory of a fleet with this number of hosts for workers.

    Args:
        longest: seconds that the longest task takes.
    """
    names = workers(number)
    addresses = {BROKER: 11, SENDER: 12} | {name: 20 + place for place, name in enumerate(names, 1)}
    worker = {
        "name": "general",
        "group": "general",
        "queues": ["general"],
        "concurrency": 2,
        "max_memory_per_child": "128MB",
        "activation": "{{ bench_activation | default('warm') }}",
    }
    state = LAB / NETWORK
    variables = {
        "lab_network": NETWORK,
        "lab_subnet": f"{SUBNET}.0/24",
        "lab_image": "debian12",
        "lab_state": str(state),
        "lab_control_path": str(CONTROL_PATH),
        "ansible_user": "debian",
        "ansible_ssh_common_args": f"-F {shlex.quote(str(state / 'ssh' / 'config'))}",
        "ansible_control_path_dir": str(CONTROL_PATH),
        "celery_app_name": APP,
        "celery_app_module": "shop.celery:app",
        "celery_app_source": str(ROOT / "example"),
        "celery_app_environment": {"DJANGO_SETTINGS_MODULE": "shop.settings"},
        "celery_app_artifact_dir": str(state / "artifacts"),
        "celery_secrets_dir": str(state / "secrets"),
        "celery_firewall": False,
        "celery_rollout_report_dir": str(state / "rollouts"),
        # What the kernel says is this machine's.
        "celery_host_memory": "1GB",
        "celery_queues": [
            {
                "name": "general",
                "tasks": ["customers.*", "reports.*", "ticks.*"],
                "time_limit": int(max(longest, 60)) + 60,
                "backlog": 1000,
            }
        ],
        "celery_workers": [worker],
    }
    return {
        "all": {
            "vars": variables,
            "hosts": {name: {"ansible_host": f"{SUBNET}.{last}"} for name, last in addresses.items()},
            "children": {
                "broker": {"hosts": {BROKER: {}}},
                "beat": {"hosts": {SENDER: {}}},
                "general": {"hosts": {name: {} for name in names}},
            },
        }
    }


def write_inventory(number: int, longest: float) -> Path:
    path = INVENTORIES / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(inventory(number, longest), indent=2), encoding="utf-8")
    return path


def fleet_of(number: int) -> Fleet:
    """Return the fleet for the demo's functions."""
    state = LAB / NETWORK
    hosts = [SENDER, *workers(number)]
    return Fleet(
        name=APP,
        app=APP,
        network=NETWORK,
        state=state,
        secrets=state / "secrets",
        addresses={},
        broker=BROKER,
        kind="rabbitmq",
        beat=SENDER,
        flower="",
        monitor="",
        app_hosts=hosts,
        tls=True,
    )


@contextmanager
def release_hosts(number: int, longest: float) -> Iterator[None]:
    """Boot the hosts of the largest fleet, and remove them at the end, also after an error or a signal."""

    def end(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    become = become_options()
    largest = write_inventory(number, longest)
    try:
        print(f"Booting {number + 2} hosts", flush=True)
        play(largest, "lab/create.yml", become)
        yield
    finally:
        # Who told it to end may do so again: the hosts are removed all the same.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("Removing the hosts", flush=True)
        play(largest, "lab/destroy.yml", become)


# ---- What the controller does ----


@dataclass
class Run:
    """A release, measured on the controller.

    Attributes:
        began: when, in seconds since the epoch, as ended.
        cpu: seconds of processors that it took the controller, with all processes that it started.
        main: those of its main process alone.
        code: what it ended with.
        lines: what it printed, each with its time.
    """

    began: float
    ended: float
    cpu: float
    main: float
    code: int
    lines: list[tuple[float, str]]

    @property
    def seconds(self) -> float:
        """Return its duration in seconds."""
        return self.ended - self.began

    @property
    def output(self) -> str:
        """Return its output."""
        return "".join(line for _, line in self.lines)


def cpu_of(pid: int | str) -> float:
    """Return the CPU seconds of a process, without its children; 0 if it has exited."""
    try:
        # The name before it may hold anything, also brackets.
        fields = Path("/proc", str(pid), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def connections_cpu() -> float:
    """Return the CPU seconds of SSH's control masters, which outlive the process that started them."""
    found = 0.0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(CONTROL_PATH) in command and "[mux]" in command:
            found += cpu_of(path.parent.name)
    return found


def close_connections() -> None:
    """Stop SSH's control masters, so that each run opens its own connections."""
    subprocess.run([str(ROOT / "lab" / "close_connections.sh"), str(CONTROL_PATH)], check=True, stderr=subprocess.PIPE)
    CONTROL_PATH.mkdir(mode=0o700, parents=True)


def run(command: list[str], log: Path, environ: dict[str, str] | None = None) -> Run:
    """Run the command of a release, and measure it. Each line of the log begins with its second."""
    close_connections()
    log.parent.mkdir(parents=True, exist_ok=True)
    lines: list[tuple[float, str]] = []
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment() | (environ or {}),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        began = time.time()
        assert process.stdout  # noqa: S101 - it is a pipe
        try:
            for line in process.stdout:
                lines.append((time.time(), line))
                file.write(f"{lines[-1][0] - began:6.1f}  {line}")
        except KeyboardInterrupt:
            process.terminate()
            raise
        # Until it is waited for, the kernel still knows what it used.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        ended = time.time()
        main = cpu_of(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime + connections_cpu()
    return Run(began, ended, cpu, main, process.returncode, lines)


# ---- The ways to release ----


def old_way(number: int, version: str, log: Path) -> Run:
    """Release by sequential SSH, with a script."""
    state = LAB / NETWORK
    artifact = next((state / "artifacts").glob(f"{APP}-*.tar"))
    command = [str(Path(__file__).with_name("old_way.sh")), str(state / "ssh" / "config"), str(artifact), version]
    return run([*command, SENDER, *workers(number)], log)


def deploy(number: int, version: str, log: Path, variables: dict[str, Any]) -> Run:
    """Release by playbooks/deploy.yml. The log ends with the costs of each of its tasks on the controller."""
    values = json.dumps(variables | {"celery_app_version": version})
    playbook = [str(BIN / "ansible-playbook"), "-i", str(INVENTORIES / f"{number}.json"), "playbooks/deploy.yml"]
    return run([*playbook, "-e", values], log, PROFILE)


# ---- Tasks ----


@dataclass
class Flow:
    """Tasks that were sent during a block.

    Attributes:
        began: when, in seconds since the epoch.
        short: ids of the short tasks.
        long: ids of the long ones.
    """

    began: float
    short: set[str] = field(default_factory=set)
    long: set[str] = field(default_factory=set)


@contextmanager
def flow(fleet: Fleet, rate: float, long: float) -> Iterator[Flow]:
    """Send tasks during the block. Their ids are known at its end.

    Args:
        rate: short tasks a second.
        long: seconds that the long tasks take; 0: there are none.
    """
    # A connection of its own: what is measured closes all others.
    ssh = ["ssh", "-F", str(fleet.state / "ssh" / "config"), "-S", "none", "-o", "BatchMode=yes", fleet.beat]
    send = ["sudo", "-n", "-u", fleet.app, f"/srv/{fleet.app}/bin/celery_run", "python", "-c"]
    send += [FLOW.read_text(encoding="utf-8"), str(rate), str(len(fleet.app_hosts) - 1), str(long)]
    with subprocess.Popen(
        [*ssh, shlex.join(send)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout  # noqa: S101 - it is a pipe
        if process.stdout.readline().strip() != "begun":
            raise RuntimeError("no tasks can be sent; why is above")
        sent = Flow(time.time())
        try:
            yield sent
        finally:
            # Its input ends, whereupon it does too.
            text = process.communicate()[0]
        if process.returncode != 0:
            raise RuntimeError("the program that sends tasks broke off; why is above")
        ids = json.loads(text)
        sent.short, sent.long = set(ids["short"]), set(ids["long"])


@dataclass(frozen=True)
class Tasks:
    """The outcomes of tasks.

    Attributes:
        done_at: when short tasks were done, in seconds since the epoch.
    """

    sent: int
    done: int
    failed: int
    lost: int
    repeated: int
    done_at: list[float]


def settle(fleet: Fleet, sent: Flow, long: float) -> Tasks:
    """Wait until all tasks have ended, and return their outcomes."""
    ids = sent.short | sent.long
    deadline = time.monotonic() + long + SETTLE_SECONDS
    while True:
        lines = list(read_ledgers(fleet, sent.began))
        found = ledger.count(lines, ids).total
        if found.done + found.failed >= len(ids) or time.monotonic() > deadline:
            break
        time.sleep(1)
    done_at = []
    for line in lines:
        entry = json.loads(line)
        if entry["event"] == "done" and entry["id"] in sent.short:
            done_at.append(datetime.fromisoformat(entry["time"]).timestamp())
    return Tasks(len(ids), found.done, found.failed, len(ids) - found.done - found.failed, found.repeated, done_at)


def tidy(fleet: Fleet) -> None:
    """Remove the ledgers of earlier runs, and the releases by sequential SSH, which nothing else removes."""
    script = (
        f"rm -f /var/lib/{fleet.app}/ledger/*.jsonl; cd /srv/{fleet.app}; now=$(readlink current); "
        'for each in releases/old-*; do [ "$each" = "$now" ] || rm -rf "$each"; done'
    )
    each(fleet, lambda host: remote(fleet, host, ["sudo", "-n", "sh", "-c", script]))


def each(fleet: Fleet, act: Callable[[str], object]) -> None:
    for host in fleet.app_hosts:
        act(host)


def releases(fleet: Fleet) -> dict[str, str]:
    """Return the current release of each host."""
    command = ["readlink", f"/srv/{fleet.app}/current"]
    return {host: Path(remote(fleet, host, command).strip()).name for host in fleet.app_hosts}
