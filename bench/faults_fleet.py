"""The hosts of bench/faults.py, the tasks that flow there, and what can be done to a host from outside."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lab.fleet import BIN, LAB, LOGS, ROOT, Fleet, LabError, environment, next_release, play, processes, remote

APP, NETWORK, SUBNET = "shop", "fleet-bench-faults", "10.90.75"
#: Below the user's home, since the path of a socket may be no longer than 108 characters.
CONTROL_PATH = Path.home() / ".ansible" / "cp" / NETWORK
BROKER, CONTROL, WORKERS = "broker1", "control1", ("worker1", "worker2")
ADDRESSES = {BROKER: f"{SUBNET}.11", "worker1": f"{SUBNET}.21", "worker2": f"{SUBNET}.22", CONTROL: f"{SUBNET}.31"}
#: Not below the application's own directory, whose disk one of the faults fills.
LEDGER = "/var/tmp/shop-ledger"  # noqa: S108 - a path on the hosts
LOAD = Path(__file__).with_name("on_host") / "load.py"
#: Short tasks on prefork and on gevent, and longer ones: so many seconds apart, each kind by a sender of its own.
LONG_SECONDS = 6
CALLS = (
    {"task": "customers.sync", "args": [1], "every": 0.25},
    {"task": "email.send_order_confirmation", "args": [1, "a@shop.example"], "every": 0.25},
    # Not in step with the second after which a worker on Redis asks anew: one host would get them all.
    {"task": "reports.build", "args": ["2026-03", LONG_SECONDS], "every": 3.7},
)
PACKAGES = {
    "broker": ["rabbitmq-server", "logrotate", "redis-server", "nginx", "nodejs", "prometheus-node-exporter"],
    "application": ["supervisor", "python3-installer", "python3-gdbm", "python3-prometheus-client", "nginx"],
    "monitor": ["prometheus", "prometheus-alertmanager", "prometheus-node-exporter"],
}
PODMAN = ["podman"] if os.geteuid() == 0 else ["sudo", "podman"]
NSENTER = ["nsenter"] if os.geteuid() == 0 else ["sudo", "nsenter"]


def inventory(kind: str, image: str) -> dict[str, Any]:
    """Return the inventory: a broker, two hosts that run each worker, and one for beat and the monitor."""
    state = LAB / NETWORK
    worker: dict[str, Any] = {"group": "general", "max_memory_per_child": "128MB"}
    variables = {
        "lab_network": NETWORK,
        "lab_subnet": f"{SUBNET}.0/24",
        "lab_image": image,
        "lab_memory": "2g",
        "lab_packages": PACKAGES["application"] + PACKAGES["monitor"],
        "lab_state": str(state),
        "lab_control_path": str(CONTROL_PATH),
        "ansible_user": "debian",
        "ansible_ssh_common_args": f"-F {shlex.quote(str(state / 'ssh' / 'config'))}",
        "ansible_control_path_dir": str(CONTROL_PATH),
        "celery_broker": kind,
        "celery_app_name": APP,
        "celery_app_module": "shop.celery:app",
        "celery_app_source": str(ROOT / "example"),
        "celery_app_environment": {"DJANGO_SETTINGS_MODULE": "shop.settings", "SHOP_LEDGER_DIR": LEDGER},
        "celery_app_artifact_dir": str(state / "artifacts"),
        "celery_secrets_dir": str(state / "secrets"),
        "celery_firewall": False,
        "celery_rollout_report_dir": str(state / "rollouts"),
        "celery_host_memory": "2GB",
        "celery_queues": [
            {"name": "customers", "tasks": ["customers.*"], "time_limit": 30, "backlog": 10000},
            {"name": "email", "tasks": ["email.*"], "time_limit": 30, "backlog": 10000},
            {"name": "reports", "tasks": ["reports.*"], "time_limit": 30, "backlog": 1000},
            {"name": "video", "tasks": ["video.*"], "time_limit": 30, "backlog": 1000},
            {"name": "ticks", "tasks": ["ticks.*"], "time_limit": 30, "transient": True, "backlog": 100},
        ],
        "celery_workers": [
            worker | {"name": "customers", "queues": ["customers", "ticks"], "concurrency": 2},
            {"name": "email", "group": "general", "queues": ["email"], "pool": "gevent", "concurrency": 20}
            | {"activation": "handover"},
            worker | {"name": "reports", "queues": ["reports", "video"], "concurrency": 2, "activation": "handover"},
        ],
        # None is sent for later, so that what Redis holds for a worker that is gone is soon given to others.
        "celery_longest_countdown": 10,
        "celery_rollout_observe_seconds": 5,
        "prometheus_listen_address": "{{ ansible_host }}",
        "alertmanager_listen_address": "{{ ansible_host }}",
        # What takes minutes elsewhere takes seconds here.
        "prometheus_scrape_interval": "5s",
        "celery_queue_defaults": {"alerts": {"age": 20, "depth": 200}},
        "celery_alerts": {
            name: {"for": 0}
            for name in (
                "CeleryQueueOld",
                "CeleryQueueDeep",
                "CeleryQueueWithoutConsumer",
                "CeleryWorkerGone",
                "CeleryWorkerDisconnected",
                "CeleryHostDisk",
                "CeleryBrokerDown",
                "CeleryBrokerMemory",
                "CeleryBrokerDisk",
                "CeleryExporterDown",
                "CeleryMetricsAbsent",
            )
        }
        | {name: {"window": 30} for name in ("CeleryTasksKilled", "CeleryTaskLogLoses")}
        | {"CeleryWorkerFlapping": {"window": 60}, "CeleryBeatSilent": {"threshold": 45}},
    }
    hosts = {name: {"ansible_host": address} for name, address in ADDRESSES.items()}
    hosts[BROKER]["lab_packages"] = PACKAGES["broker"]  # type: ignore[assignment]
    return {
        "all": {
            "vars": variables,
            "hosts": hosts,
            "children": {
                "broker": {"hosts": {BROKER: {}}},
                "general": {"hosts": {name: {} for name in WORKERS}},
                "beat": {"hosts": {CONTROL: {}}},
                "monitor": {"hosts": {CONTROL: {}}},
            },
        }
    }


def write_inventory(kind: str, image: str) -> Path:
    path = ROOT / ".cache" / "bench" / "faults" / f"{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(inventory(kind, image), indent=2), encoding="utf-8")
    return path


def fleet_of(kind: str) -> Fleet:
    """Return what the demo's functions must know of the fleet."""
    state = LAB / NETWORK
    return Fleet(
        name=APP,
        app=APP,
        network=NETWORK,
        state=state,
        secrets=state / "secrets",
        addresses=ADDRESSES,
        broker=BROKER,
        kind=kind,
        beat=CONTROL,
        flower="",
        monitor=CONTROL,
        app_hosts=[CONTROL, *WORKERS],
        tls=True,
    )


# ---- Playbooks ----


def descendants(pid: int) -> list[int]:
    """Return the processes that a process of this machine has started, and that these have."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name before it may hold anything, also brackets.
            parent = int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found: list[int] = []
    left = children.get(pid, [])
    while left:
        found += left
        left = [child for each in left for child in children.get(each, [])]
    return found


@dataclass
class Started:
    """A run of a playbook that may be under way still.

    Attributes:
        log: the file that it prints to.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """Kill it and all that it started, as a controller that loses its power."""
        # Ansible's own processes are in sessions of their own. None starts another one once it stands still.
        os.kill(self.process.pid, signal.SIGSTOP)
        for pid in [*descendants(self.process.pid), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return self.process.wait()

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@dataclass
class Hosts:
    """A fleet that something is done to.

    Attributes:
        releases: those that were named for it.
    """

    fleet: Fleet
    inventory: Path
    releases: list[str] = field(default_factory=list)

    def root(self, host: str, script: str) -> str:
        """Run a script as root of a host, and return what it prints."""
        return remote(self.fleet, host, ["sudo", "-n", "sh", "-c", script])

    def main_process(self, host: str, worker: str) -> int:
        """Return the process id of a worker's main process, whichever slot it is in."""
        lines = self.root(host, "supervisorctl status || true").splitlines()
        names = {f"{APP}-{worker}", f"{APP}-{worker}-a", f"{APP}-{worker}-b"}
        pids = [line.split()[3] for line in lines if line.split()[0] in names and " RUNNING " in line]
        if not pids:
            raise LabError(f"{worker} does not run on {host}: {lines}")
        return int(pids[0].rstrip(","))

    def well(self) -> bool:
        """Return whether all programs and services of all hosts run."""

        def of(host: str) -> bool:
            try:
                found = processes(self.fleet, host)
            except LabError:
                return False
            return bool(found) and all(process.healthy for process in found)

        with ThreadPoolExecutor(len(ADDRESSES)) as pool:
            return all(pool.map(of, ADDRESSES))

    def next_release(self) -> str:
        """Name a release that there was not yet."""
        self.releases.append(next_release(self.releases[-1] if self.releases else self.current(CONTROL)))
        return self.releases[-1]

    def current(self, host: str) -> str:
        """Return the release that a host points to."""
        return Path(remote(self.fleet, host, ["readlink", f"/srv/{APP}/current"]).strip()).name

    @contextmanager
    def started(self, name: str, variables: Mapping[str, Any]) -> Iterator[Started]:
        """Start a playbook; it does not outlive the block."""
        log = LOGS / f"faults-{name}-{time.time():.0f}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [str(BIN / "ansible-playbook"), "-i", str(self.inventory), f"playbooks/{name}.yml"]
        with (
            log.open("wb") as file,
            subprocess.Popen(
                [*command, "-e", json.dumps(variables)],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            run = Started(process, log)
            try:
                yield run
            finally:
                if process.poll() is None:
                    run.kill()

    def playbook(self, name: str, **variables: str) -> Started:
        """Run a playbook to its end, whatever that is."""
        with self.started(name, variables) as run:
            run.end()
        return run

    def told(self, name: str, variable: str) -> Any:  # noqa: ANN401 - JSON
        """Return what a playbook writes to the file that a variable names; None if it came to nothing."""
        path = self.inventory.with_name(f"{name}.json")
        path.unlink(missing_ok=True)
        self.playbook(name, **{variable: str(path)})
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def status(self) -> dict[str, Any]:
        """Return what playbooks/status.yml shows of each host."""
        return self.told("status", "celery_status_file") or {}

    def doctor(self) -> dict[str, list[dict[str, str]]]:
        """Return what each check of playbooks/doctor.yml found."""
        found = self.told("doctor", "celery_doctor_file")
        if found is None:
            raise LabError("doctor.yml did not come to its end: see its log")
        checks: dict[str, list[dict[str, str]]] = found["checks"]
        return checks

    def watchdog(self, since: float) -> list[str]:
        """Return what the watchdogs' journals say that they did, each with its host."""
        journal = f"journalctl --unit {APP}-watchdog --since=@{since:.0f} --output=cat --no-pager"
        command = f"{journal} | grep ^Restarting || true"
        return [f"{host}: {line}" for host in WORKERS for line in self.root(host, command).splitlines()]

    # ---- From outside ----

    def cut_off(self, host: str) -> None:
        """End a host at once, as one that loses its power."""
        subprocess.run([*PODMAN, "kill", container(host)], check=True, capture_output=True)

    def start(self, host: str) -> None:
        """Boot a host, and return once all its services are up or have failed."""
        subprocess.run([*PODMAN, "start", container(host)], check=True, capture_output=True)
        wait = [str(ROOT / "lab" / "wait_for_boot.sh"), container(host)]
        subprocess.run(wait if os.geteuid() == 0 else ["sudo", *wait], check=True, capture_output=True)

    def _enter(self, host: str, namespaces: Sequence[str], script: str) -> None:
        found = subprocess.run(
            [*PODMAN, "inspect", "--format", "{{.State.Pid}}", container(host)],
            check=True,
            capture_output=True,
            text=True,
        )
        command = [*NSENTER, "-t", found.stdout.strip(), *namespaces, "sh", "-ec", script]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode != 0:
            raise LabError(f"on {host}, {script} ended with {result.returncode}: {result.stderr}{result.stdout}")

    def network(self, host: str, script: str) -> None:
        """Run a script of this machine in a host's network: what a firewall there would do."""
        self._enter(host, ["--net"], script)

    def mounts(self, host: str, script: str) -> None:
        """Run a script of a host with the right to mount, which its own root does not have."""
        # umount(8) reads what is mounted in /proc of its own process.
        self._enter(host, ["--mount", "--pid"], script)


def container(host: str) -> str:
    return f"{NETWORK}-{host}"


@contextmanager
def faults_hosts(path: Path, become: list[str], *, keep: bool) -> Iterator[None]:
    """Boot the hosts and build the fleet; remove them whatever happens, also when this process is told to end.

    Args:
        keep: do not remove them.
    """

    def end(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        print("Booting four hosts, and building the fleet on them", flush=True)
        play(path, "lab/create.yml", become)
        play(path, "site.yml")
        yield
    finally:
        if not keep:
            # Who told it to end may do so again: the hosts are removed all the same.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("Removing the hosts", flush=True)
            play(path, "lab/destroy.yml", become)


# ---- Tasks ----


@dataclass
class Load:
    """Tasks that flow.

    Attributes:
        began: when, in seconds since the epoch.
        seen: when workers last answered, and which queues each consumes.
        sent: ids of the tasks that were sent; known once it has ended.
        refused: ids of those that could not be sent, as their sender was told, and why.
    """

    began: float
    seen: tuple[float, dict[str, list[str]]] = (0.0, {})
    sent: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)

    def read(self, line: str) -> None:
        """Take up a line of what bench/on_host/load.py prints."""
        values = json.loads(line)
        if "queues" in values:
            self.seen = (values["at"], values["queues"])
        else:
            self.sent, self.refused = set(values["sent"]), values["refused"]


@contextmanager
def load(fleet: Fleet) -> Iterator[Load]:
    """Send tasks while the block runs; their ids are known once it has ended."""
    ssh = ["ssh", "-F", str(fleet.state / "ssh" / "config"), "-S", "none", "-o", "BatchMode=yes", fleet.beat]
    send = ["sudo", "-n", "-u", fleet.app, f"/srv/{fleet.app}/bin/celery_run", "python", "-c"]
    send += [LOAD.read_text(encoding="utf-8"), json.dumps(CALLS)]
    with subprocess.Popen(
        [*ssh, shlex.join(send)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin  # noqa: S101 - they are pipes
        assert process.stdout  # noqa: S101
        if process.stdout.readline().strip() != "begun":
            raise LabError("no tasks can be sent; why is above")
        found = Load(time.time())

        def read() -> None:
            for line in process.stdout or ():
                found.read(line)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield found
        finally:
            # Its input ends, whereupon it does too.
            process.stdin.close()
            reader.join()
        if process.wait() != 0 or not found.sent:
            raise LabError("the program that sends tasks broke off; why is above")


def ledger(fleet: Fleet) -> list[str]:
    """Return the lines of all hosts' ledgers."""

    def of(host: str) -> list[str]:
        return remote(fleet, host, ["sudo", "-n", "sh", "-c", f"cat {LEDGER}/*.jsonl 2>/dev/null || true"]).splitlines()

    with ThreadPoolExecutor(len(fleet.app_hosts)) as pool:
        return [line for lines in pool.map(of, fleet.app_hosts) for line in lines]


def forget(fleet: Fleet) -> None:
    """Forget the tasks of what was before."""
    for host in fleet.app_hosts:
        remote(fleet, host, ["sudo", "-n", "sh", "-c", f"rm -f {LEDGER}/*.jsonl"])


def wait_until(check: Callable[[], Any], timeout: float, interval: float = 1.0) -> Any:  # noqa: ANN401 - as check
    """Return what check returns as soon as that is true, or its last value when the time is over."""
    end = time.monotonic() + timeout
    while not (found := check()) and time.monotonic() < end:
        time.sleep(interval)
    return found
