"""A broker with three hosts: no accepted task is lost, whichever host fails, is restarted or replaced."""

from __future__ import annotations

import base64
import itertools
import json
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from secrets import token_urlsafe
from typing import Any
from urllib.request import Request, urlopen

import pytest
from shared.deployed import Shop, call, connect, now, wait_until
from shared.lab import PODMAN, container, small_disk, start
from shared.monitor import CA, SECRETS, Monitor
from shared.playbook import PLAYBOOKS, changes, converge, failures, run_playbook
from shared.throughput import compare
from shared.updates import publish_update, updated

BROKERS = ("broker1", "broker2", "broker3")
# Those of the queue with the load: processes, and green threads.
PROGRAMS = {"worker1": "shop-customers", "worker2": "shop-greenlets"}
WORKERS = tuple(PROGRAMS)
ADDRESSES = {name: f"10.90.35.1{number}" for number, name in enumerate(BROKERS, 1)}


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop("control1", WORKERS)


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    return Monitor("10.90.35.31")


def on(broker: str, command: str) -> str:
    """Run a command on one of the broker's hosts, which must succeed, and return its output."""
    return str(connect(broker).check_output(command))


def api(path: str) -> Any:
    """Return what the management API of a node says that answers."""
    password = (SECRETS / "rabbitmq_administrator").read_text(encoding="utf-8").strip()
    headers = {"Authorization": "Basic " + base64.b64encode(f"shop-admin:{password}".encode()).decode()}
    context = ssl.create_default_context(cafile=CA)
    for address in ADDRESSES.values():
        request = Request(f"https://{address}:15671/api/{path}", headers=headers)
        with suppress(OSError), urlopen(request, timeout=20, context=context) as answer:  # noqa: S310 - as above
            return json.load(answer)
    return []


def leader(queue: str) -> str:
    """Return the host with a queue's leader."""
    return next(str(each["leader"]).rpartition("-")[2] for each in api("queues/shop") if each["name"] == queue)


def lacking() -> dict[str, list[str]]:
    """Return the queues that have no member on one of the hosts, or one that is not online.

    Not those of processes, which may have been declared while a host was down.
    """
    return {
        each["name"]: each.get("online", [])
        for each in api("queues/shop")
        if len(each.get("online", [])) != len(BROKERS) and "x-expires" not in each["arguments"]
    }


def complete() -> bool:
    """Return whether all nodes run, and each queue has all of its members."""
    return len([each for each in api("nodes") if each["running"]]) == len(BROKERS) and not lacking()


def seconds(line: dict[str, str], since: str) -> float:
    return (datetime.fromisoformat(line["time"]) - datetime.fromisoformat(since)).total_seconds()


def all_consume(shop: Shop) -> None:
    """Wait until each worker has run a task from now on."""
    since = now()

    def consumed() -> bool:
        return {line["host"] for line in shop.ledger(since=since) if line["event"] == "done"} >= set(WORKERS)

    wait_until(consumed, "not all workers consume")


@contextmanager
def load(shop: Shop, what: str) -> Iterator[Callable[[], str]]:
    """Send tasks during the block, and fail if one is lost. Print how long workers were without tasks after a fault.

    The block calls the function at the moment of the fault.
    """
    wait_until(complete, "the cluster is not complete")
    pids = {host: shop.pids(host) for host in WORKERS}
    moments: list[str] = []

    def fault() -> str:
        moments.append(now())
        return moments[-1]

    with shop.flow(call("customers.noop"), every=0.5) as ids:
        all_consume(shop)
        yield fault
        all_consume(shop)
    done = shop.wait_for(ids)
    again = len(done) - len(ids)
    restarted = [host for host in WORKERS if shop.pids(host) != pids[host]]
    for moment in moments:
        gaps = {}
        for host in WORKERS:
            times = sorted(seconds(line, moment) for line in done if line["host"] == host)
            waits = [b - a for a, b in zip([0.0, *times], times, strict=False) if b > 0]
            gaps[host] = max(waits, default=0.0)
        every = sorted(seconds(line, moment) for line in done)
        fleet = max((b - a for a, b in itertools.pairwise(every) if b > 0), default=0.0)
        print(
            f"{what}: {len(ids)} sent, 0 lost, {again} twice; longest gap of the fleet {fleet:.0f} s, of a worker "
            f"{max(gaps.values()):.0f} s"
        )
    assert not restarted, "a worker ended"


def test_a_second_run_changes_nothing() -> None:
    assert changes(converge()) == {0}


def test_what_would_break_the_cluster_is_refused_before_anything_is_touched() -> None:
    run = converge(celery_tls="off", celery_app_name="billing")
    (told,) = failures(run).values()
    assert "celery_tls: can't be turned off for an existing cluster" in told
    for broker in BROKERS:
        assert f"{broker} is a host of the broker of the fleet shop-lab (celery_app_name shop)" in told
    assert set(re.findall(r"\bchanged=(\d+)", run.stdout)) == {"0"}


def test_nodes_are_joined_by_tls_and_closed_to_others(shop: Shop) -> None:
    assert complete()
    for broker in BROKERS:
        assert "-proto_dist inet_tls" in on(broker, "ps -o args= -C beam.smp")
        assert on(broker, "stat -c '%U %a' /var/lib/rabbitmq/.erlang.cookie").strip() == "rabbitmq 400"
        sockets = on(broker, "ss -tlnH")
        assert f"{ADDRESSES[broker]}:25672" in sockets
        assert "0.0.0.0:25672" not in sockets
    cookies = {on(broker, "sha256sum </var/lib/rabbitmq/.erlang.cookie") for broker in BROKERS}
    assert len(cookies) == 1
    for port in (4369, 25672):
        shut = f"timeout 5 bash -c '</dev/tcp/{ADDRESSES['broker1']}/{port}'"
        assert shop.host("worker1").run(shut).rc != 0
        assert connect("broker2").run(shut).rc == 0


def test_a_node_that_starts_asks_the_others_whether_they_know_of_its_end() -> None:
    """Until then, it waits. Without that, it hung in two of seven starts after a reset of its host."""
    nodes = " ".join(f"rabbit@rabbitmq-node-{name}" for name in BROKERS[1:])
    asked = on("broker1", f"cd / && runuser -u rabbitmq -- /usr/local/sbin/rabbitmq-await-peers rabbit@nobody {nodes}")
    assert asked == "", "a node did not answer"
    assert f"rabbitmq-await-peers rabbit@rabbitmq-node-broker1 {nodes}" in on(
        "broker1", "systemctl cat rabbitmq-server"
    )


def test_all_queues_have_a_member_on_each_host() -> None:
    assert {"customers", "shop.dead", "celery_delayed_0"} <= {each["name"] for each in api("queues/shop")}
    assert lacking() == {}


def test_clients_find_all_hosts_by_one_name(shop: Shop) -> None:
    for host in (*WORKERS, "control1"):
        found = shop.output("getent ahostsv4 shop-broker-broker1 | awk '{print $1}' | sort -u", host).split()
        assert found == sorted(ADDRESSES.values())
    lines = {shop.output("grep -m1 ' shop-broker-broker1' /etc/hosts", host) for host in (*WORKERS, "control1")}
    assert len(lines) == len(BROKERS), "all clients try the same host first"


def test_depths_are_counted_once(shop: Shop, monitor: Monitor) -> None:
    for host, program in PROGRAMS.items():
        shop.output(f"supervisorctl stop {program}", host)
    # Beat sends nothing to this queue.
    ids = shop.send(*[call("email.send_order_confirmation", 1, "a@example.com")] * 5)
    depth = 'celery_queue_depth{queue="others"}'
    wait_until(lambda: [value for _, value in monitor.query(depth)] == [len(ids)], "the depth is another one")
    for host, program in PROGRAMS.items():
        shop.output(f"supervisorctl start {program}", host)
    shop.wait_for(ids)


def test_a_killed_node_with_the_leader_costs_no_task(shop: Shop) -> None:
    with load(shop, "node killed") as fault:
        host = leader("customers")
        fault()
        on(host, "systemctl kill --signal=KILL rabbitmq-server")
        wait_until(complete, "the node does not return")


def test_a_host_without_power_costs_no_task_and_a_release_is_possible(shop: Shop, monitor: Monitor) -> None:
    """The first host: its lock, facts and definitions must not be needed."""
    with load(shop, "host without power") as fault:
        # No packet tells the others.
        silence = "table inet silence { chain out { type filter hook output priority -300; policy drop; }; }"
        fault()
        subprocess.run([*PODMAN, "exec", container("broker1"), "nft", silence], check=True, capture_output=True)
        subprocess.run([*PODMAN, "kill", container("broker1")], check=True, capture_output=True)
        wait_until(
            lambda: any(alarm.name == "CeleryBrokerNodeDown" for alarm in monitor.alarms()), "no alert of the host"
        )
        assert not any(alarm.name == "CeleryBrokerDown" for alarm in monitor.alarms())
        told = failures(run_playbook(PLAYBOOKS / "broker_restart.yml", "--limit", "broker2", rabbitmq_stop_timeout=1))
        assert re.search("lose (its|their) majority", " ".join(told.values()))
        shop.run(call("customers.noop"))
    pids = {host: shop.pids(host) for host in WORKERS}
    assert run_playbook(PLAYBOOKS / "deploy.yml", celery_app_version=f"9.{int(time.time())}").returncode == 0
    assert all(shop.pids(host) != pids[host] for host in WORKERS)
    start(connect("broker1"), "broker1")
    wait_until(complete, "the node does not return")


@pytest.mark.benchmark
def test_a_cut_off_node_returns_by_itself(shop: Shop) -> None:
    peers = ", ".join(ADDRESSES.values())
    rule = f"type filter hook input priority -300; ip saddr {{ {peers} }} drop;"
    cut = f"nft 'table inet cut {{ chain inbound {{ {rule} }}; }}'"
    with load(shop, "node cut off") as fault:
        on("broker3", cut)
        fault()
        # It stops itself, so that it takes no message that the others don't have.
        wait_until(lambda: not on("broker3", "ss -tlnH 'sport = :5671'"), "it goes on")
        on("broker3", "nft delete table inet cut")
        wait_until(complete, "the node does not return")


def test_a_node_whose_application_stays_stopped_is_restarted(shop: Shop) -> None:
    """RabbitMQ 3.10 may leave it so after a partition."""
    with load(shop, "application stopped") as fault:
        fault()
        on("broker3", "cd / && rabbitmqctl stop_app")
        # Not before the next start of its timer.
        on("broker3", "systemctl start rabbitmq-resume")
        wait_until(complete, "the node does not return")


def test_a_rolling_restart_costs_no_task(shop: Shop) -> None:
    before = {broker: on(broker, "systemctl show --property MainPID --value rabbitmq-server") for broker in BROKERS}
    with load(shop, "rolling restart") as fault:
        fault()
        assert run_playbook(PLAYBOOKS / "broker_restart.yml").returncode == 0
    assert all(
        before[name] != on(name, "systemctl show --property MainPID --value rabbitmq-server") for name in BROKERS
    )


@pytest.mark.benchmark
def test_a_rolling_upgrade_of_debian_costs_no_task(shop: Shop) -> None:
    for broker in BROKERS:
        publish_update(connect(broker), "rabbitmq-server")
    began = time.monotonic()
    with load(shop, "rolling upgrade") as fault:
        fault()
        run = run_playbook(PLAYBOOKS / "broker_restart.yml", celery_broker_install_updates=True)
        assert run.returncode == 0, run.stdout[-3000:]
    print(f"three hosts upgraded in {time.monotonic() - began:.0f} s")
    assert all(updated(connect(broker), "rabbitmq-server") for broker in BROKERS)
    assert changes(converge("--tags", "broker")) == {0}


@pytest.mark.benchmark
def test_a_node_whose_disk_is_full_costs_no_task(shop: Shop, monitor: Monitor) -> None:
    limit = "/etc/rabbitmq/conf.d/99-small-disk.conf"
    wait_until(complete, "the cluster is not complete")
    with (
        shop.altered("broker2", f"echo disk_free_limit.absolute = 50MB >{limit}", f"rm {limit}"),
        small_disk("broker2", "/var/lib/rabbitmq", "rabbitmq-server"),
        load(shop, "disk full") as fault,
    ):
        fault()
        on("broker2", "head -c 1G /dev/zero >/var/lib/rabbitmq/full 2>/dev/null || true")
        wait_until(lambda: any(alarm.name == "CeleryBrokerDisk" for alarm in monitor.alarms()), "no alert of the disk")
        on("broker2", "rm /var/lib/rabbitmq/full")
        wait_until(complete, "the node does not return")


@pytest.mark.benchmark
def test_a_reinstalled_host_is_replaced(shop: Shop) -> None:
    wait_until(complete, "the cluster is not complete")
    on("broker3", "systemctl stop rabbitmq-server && rm -rf /var/lib/rabbitmq/mnesia")
    told = failures(converge("--tags", "broker"))
    assert "has lost its data, and is still a member" in " ".join(told.values())
    began = time.monotonic()
    with shop.flow(call("customers.noop"), every=0.5) as ids:
        result = run_playbook(PLAYBOOKS / "broker_replace.yml", celery_broker_replaced="broker3")
        assert result.returncode == 0, result.stdout[-3000:]
    print(f"host replaced in {time.monotonic() - began:.0f} s")
    shop.wait_for(ids)
    test_all_queues_have_a_member_on_each_host()


@pytest.mark.benchmark
def test_the_throughput_of_three_members(shop: Shop) -> None:
    password, control = token_urlsafe(24), "rabbitmqctl --quiet"

    def queue(members: int) -> dict[str, Any]:
        arguments = {"x-queue-type": "quorum", "x-quorum-initial-group-size": members}
        return {
            "url": f"amqps://bench:{password}@shop-broker-broker1:5671/bench",
            "queue": f"of{members}",
            "arguments": arguments,
        }

    with (
        shop.altered("broker1", f"{control} add_vhost bench", f"{control} delete_vhost bench"),
        shop.altered("broker1", f"echo {password} | {control} add_user bench", f"{control} delete_user bench"),
    ):
        on("broker1", f"{control} set_permissions -p bench bench '.*' '.*' '.*'")
        compare(shop, lambda: queue(1), lambda: queue(3))
