"""The faults of bench/faults.py: how each is brought about on the hosts, and how it is taken back."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.faults_figures import events_of, running, status_says
from bench.faults_fleet import ADDRESSES, APP, BROKER, CONTROL, LONG_SECONDS, Hosts, Started, ledger, wait_until
from lab.fleet import BROKERS, LabError

#: Whom a fault happens to.
VICTIM = "worker1"
UNITS = {"rabbitmq": "rabbitmq-server", "redis": "redis-server"}
REDIS = (
    "REDISCLI_AUTH=$(cat /var/lib/celery-fleet/redis/administrator.password) "
    "redis-cli -s /run/redis/redis.sock --user shop-admin"
)
LIMITS = "/etc/rabbitmq/conf.d/50-limits.conf"
LOCK = f"/run/celery-fleet/{APP}.lock"
SMALL = "/mnt/small"
#: Of a full disk: what fits on it beside what is there.
SMALL_MEGABYTES = 32
DISK_SERVICES = f"supervisor {APP}-exporter"
JOURNALS = f"systemd-journald systemd-journald@{APP}"
DEPLOY_SECONDS = 600
#: Who runs a playbook, as its lock says.
OWNER = re.compile(r"\b[\w.-]+@[\w.-]+")


@dataclass
class Seen:
    """What a fault itself has seen.

    Attributes:
        status: what playbooks/status.yml showed.
        notes: what else is to be told.
        trouble: what went otherwise than it should.
    """

    status: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)


def nothing(_: Hosts) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Fault:
    """What happens to a fleet.

    Attributes:
        what: for the table.
        inject: brings it about.
        hold: seconds until it is taken back; 0: it is over at once.
        undo: takes it back.
        prepare: what must be so before, while no task flows.
        restore: undoes that.
        brokers: those that know it.
    """

    name: str
    what: str
    inject: Callable[[Hosts, Seen], None]
    hold: float = 0
    undo: Callable[[Hosts], None] = nothing
    prepare: Callable[[Hosts], None] = nothing
    restore: Callable[[Hosts], None] = nothing
    brokers: tuple[str, ...] = BROKERS


# ---- Processes ----


def at_work(hosts: Hosts, queue: str) -> int:
    """Return the process that has just begun a task of a queue on the victim."""

    def found() -> list[int]:
        lately = time.time() - LONG_SECONDS / 2
        tasks = running(events_of(ledger(hosts.fleet)), queue, VICTIM)
        return [pid for pid, began in tasks.items() if began > lately]

    pids = wait_until(found, 120, 0.5)
    if not pids:
        raise LabError(f"no task of {queue} runs on {VICTIM}")
    return int(pids[0])


def kill_child(hosts: Hosts, _: Seen) -> None:
    hosts.root(VICTIM, f"kill -KILL {at_work(hosts, 'reports')}")


def kill_main(hosts: Hosts, _: Seen) -> None:
    pid = hosts.main_process(VICTIM, "reports")
    at_work(hosts, "reports")
    hosts.root(VICTIM, f"kill -KILL {pid}")


def kill_supervisord(hosts: Hosts, _: Seen) -> None:
    hosts.root(VICTIM, "kill -KILL $(cat /run/supervisord.pid)")


def stop_main(hosts: Hosts, _: Seen) -> None:
    hosts.root(VICTIM, f"kill -STOP {hosts.main_process(VICTIM, 'customers')}")


def continue_main(hosts: Hosts) -> None:
    # The watchdog may have ended it by now.
    hosts.root(VICTIM, "pkill -CONT --full 'celery.* worker' || true")


# ---- Hosts and the network ----


def kill_broker(hosts: Hosts, _: Seen) -> None:
    hosts.root(BROKER, f"systemctl kill --signal KILL {UNITS[hosts.fleet.kind]}")


def reboot(name: str) -> Callable[[Hosts, Seen], None]:
    def inject(hosts: Hosts, _: Seen) -> None:
        hosts.cut_off(name)
        hosts.start(name)

    return inject


def cut_off(hosts: Hosts, _: Seen) -> None:
    hosts.cut_off(VICTIM)


def start(hosts: Hosts) -> None:
    hosts.start(VICTIM)


def firewall(action: str) -> str:
    address = ADDRESSES[BROKER]
    return f"iptables {action} INPUT -s {address} -j DROP; iptables {action} OUTPUT -d {address} -j DROP"


def partition(hosts: Hosts, _: Seen) -> None:
    hosts.network(VICTIM, firewall("-I"))


def heal(hosts: Hosts) -> None:
    hosts.network(VICTIM, firewall("-D"))


# ---- A broker that is short of something ----


def rabbitmq_disk(hosts: Hosts, _: Seen) -> None:
    hosts.root(BROKER, "rabbitmqctl set_disk_free_limit mem_relative 1000")


def rabbitmq_disk_back(hosts: Hosts) -> None:
    limit = f"$(sed -n 's/^disk_free_limit.absolute = //p' {LIMITS})"
    hosts.root(BROKER, f"rabbitmqctl set_disk_free_limit {limit}")


def rabbitmq_memory(hosts: Hosts, _: Seen) -> None:
    hosts.root(BROKER, "rabbitmqctl set_vm_memory_high_watermark absolute 1MB")


def rabbitmq_memory_back(hosts: Hosts) -> None:
    limit = f"$(sed -n 's/^vm_memory_high_watermark.absolute = //p' {LIMITS})"
    hosts.root(BROKER, f"rabbitmqctl set_vm_memory_high_watermark absolute {limit}")


def redis_memory(hosts: Hosts, _: Seen) -> None:
    hosts.root(BROKER, f"{REDIS} config set maxmemory 1mb")


def redis_memory_back(hosts: Hosts) -> None:
    configured = "$(sed -n 's/^maxmemory //p' /etc/redis/redis.conf)"
    hosts.root(BROKER, f"{REDIS} config set maxmemory {configured}")


# ---- Full disks and no journal ----


def small_disk(directory: str) -> Callable[[Hosts], None]:
    """Return what gives a directory of the victim a small file system of its own."""

    def prepare(hosts: Hosts) -> None:
        used = int(hosts.root(VICTIM, f"du --summarize --block-size 1M {directory}").split()[0])
        hosts.root(VICTIM, f"systemctl stop {DISK_SERVICES} && mkdir -p {SMALL}")
        hosts.mounts(
            VICTIM,
            f"mount -t tmpfs -o size={used + SMALL_MEGABYTES}m,mode=755 small {SMALL}; cp -a {directory}/. {SMALL}/; "
            f"chown --reference={directory} {SMALL}; chmod --reference={directory} {SMALL}; "
            f"mount --bind {SMALL} {directory}",
        )
        hosts.root(VICTIM, f"systemctl restart {JOURNALS} && systemctl start {DISK_SERVICES}")

    return prepare


def large_disk(directory: str) -> Callable[[Hosts], None]:
    """Return what takes that back, and keeps what was written."""

    def restore(hosts: Hosts) -> None:
        hosts.root(VICTIM, f"systemctl stop {DISK_SERVICES}")
        hosts.mounts(VICTIM, f"umount -l {directory}; cp -a {SMALL}/. {directory}/; umount -l {SMALL}")
        hosts.root(VICTIM, f"systemctl restart {JOURNALS} && systemctl start {DISK_SERVICES}")

    return restore


def fill(directory: str) -> Callable[[Hosts, Seen], None]:
    def inject(hosts: Hosts, _: Seen) -> None:
        hosts.root(VICTIM, f"cat /dev/zero >{directory}/filler 2>/dev/null || true; df {directory} | grep -q '100%'")

    return inject


def empty(directory: str) -> Callable[[Hosts], None]:
    def undo(hosts: Hosts) -> None:
        hosts.root(VICTIM, f"rm {directory}/filler")

    return undo


JOURNAL_UNITS = "systemd-journald systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket"


def stop_journald(hosts: Hosts, _: Seen) -> None:
    own = f"systemd-journald@{APP}.service systemd-journald@{APP}.socket"
    hosts.root(
        VICTIM, f"systemctl stop {JOURNAL_UNITS} {own} 2>/dev/null; ! systemctl is-active --quiet systemd-journald"
    )


def start_journald(hosts: Hosts) -> None:
    hosts.root(VICTIM, f"systemctl start systemd-journald.socket systemd-journald systemd-journald@{APP}.socket")


# ---- Releases ----


def staging(hosts: Hosts, version: str) -> bool:
    """Return whether the release is being brought to the victim."""
    return bool(hosts.root(VICTIM, f"ls -d /srv/{APP}/releases/{version}* /srv/{APP}/releases/.*{version}* || true"))


def activating(host: str) -> Callable[[Hosts, str], bool]:
    """Return what tells whether a host has come to the release."""
    return lambda hosts, version: hosts.current(host) == version


def deployed(hosts: Hosts, seen: Seen, run: Started, version: str) -> None:
    """Note whether a release that has ended is everywhere."""
    found = {host: hosts.current(host) for host in hosts.fleet.app_hosts}
    if run.process.returncode != 0 or set(found.values()) != {version}:
        seen.trouble.append(f"deploy.yml ended with {run.process.returncode}, hosts are on {found}: see {run.log}")


def kill_deploy(reached: Callable[[Hosts, str], bool]) -> Callable[[Hosts, Seen], None]:
    """Return what kills deploy.yml at some stage, and runs it again."""

    def inject(hosts: Hosts, seen: Seen) -> None:
        version = hosts.next_release()
        variables = {"celery_app_version": version}
        with hosts.started("deploy", variables) as run:
            wait_until(lambda: run.process.poll() is not None or reached(hosts, version), DEPLOY_SECONDS, 0.2)
            if run.process.poll() is not None:
                raise LabError(f"deploy.yml ended before that stage: see {run.log}")
            run.kill()
        found = {host: hosts.current(host) for host in hosts.fleet.app_hosts}
        seen.notes.append(f"killed with hosts on {found}")
        seen.status += status_says(hosts.status(), hosts.fleet.app_hosts)
        again = hosts.playbook("deploy", **variables)
        if told := re.search(r"Took over the stale lock of another rollout: .*? ago", " ".join(again.output.split())):
            seen.notes.append(f"the second run said: {OWNER.sub('USER@CONTROLLER', told[0])}")
        deployed(hosts, seen, again, version)

    return inject


def deploy_twice(hosts: Hosts, seen: Seen) -> None:
    first, second = hosts.next_release(), hosts.next_release()
    with hosts.started("deploy", {"celery_app_version": first}) as run:
        wait_until(lambda: "locked" in hosts.root(BROKER, f"test ! -e {LOCK} || echo locked"), DEPLOY_SECONDS, 0.2)
        other = hosts.playbook("deploy", celery_app_version=second)
        at_work = run.process.poll() is None
        run.end()
    said = re.search(r"fatal: .* msg: '?(.*?)'? PLAY RECAP", " ".join(other.output.split()))
    told = said[1] if said else other.output[-500:]
    seen.notes.append(f"the other one was told: {OWNER.sub('USER@CONTROLLER', told)}")
    if other.process.returncode == 0 or not at_work:
        seen.trouble.append(f"the other one was not refused while the first was at work: see {other.log}")
    deployed(hosts, seen, run, first)


FAULTS = (
    Fault("child", "a pool's child is killed (`kill -9`) at a task", kill_child),
    Fault("main", "a worker's main process is killed (`kill -9`) while its children are at tasks", kill_main),
    Fault("supervisord", "supervisord is killed (`kill -9`)", kill_supervisord),
    Fault("broker", "the broker's processes are killed (`kill -9`)", kill_broker),
    Fault("broker-host", "the broker's host loses its power and boots", reboot(BROKER)),
    Fault("worker-host", "a worker's host loses its power, and boots 60 s later", cut_off, hold=60, undo=start),
    Fault(
        "stopped",
        "a worker's main process stands still for 90 s (`kill -STOP`)",
        stop_main,
        hold=90,
        undo=continue_main,
    ),
    Fault("partition", "a worker's host can't reach the broker for 60 s (packets dropped)", partition, 60, heal),
    Fault(
        "disk-alarm",
        "RabbitMQ's disk alarm, for 60 s",
        rabbitmq_disk,
        hold=60,
        undo=rabbitmq_disk_back,
        brokers=("rabbitmq",),
    ),
    Fault(
        "memory-alarm",
        "RabbitMQ's memory alarm, for 60 s",
        rabbitmq_memory,
        hold=60,
        undo=rabbitmq_memory_back,
        brokers=("rabbitmq",),
    ),
    Fault(
        "maxmemory", "Redis at `maxmemory`, for 60 s", redis_memory, hold=60, undo=redis_memory_back, brokers=("redis",)
    ),
    *(
        Fault(
            name,
            f"the disk below `{directory}` of a worker's host is full for 60 s",
            fill(directory),
            hold=60,
            undo=empty(directory),
            prepare=small_disk(directory),
            restore=large_disk(directory),
        )
        for name, directory in (("log-disk", "/var/log"), ("state-disk", f"/var/lib/{APP}"))
    ),
    Fault("journald", "journald of a worker's host is stopped for 60 s", stop_journald, hold=60, undo=start_journald),
    Fault("deploy-staging", "`deploy.yml` is killed while it stages, and run again", kill_deploy(staging)),
    Fault("deploy-first", "`deploy.yml` is killed in its first batch, and run again", kill_deploy(activating(VICTIM))),
    Fault(
        "deploy-second",
        "`deploy.yml` is killed in its second batch, and run again",
        kill_deploy(activating("worker2")),
    ),
    Fault("deploy-end", "`deploy.yml` is killed before its end, and run again", kill_deploy(activating(CONTROL))),
    Fault("deploy-twice", "two `deploy.yml` at a time", deploy_twice),
)
