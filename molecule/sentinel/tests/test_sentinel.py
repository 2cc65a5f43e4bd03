"""A fleet whose broker has three hosts loses no task when one of them fails, and consumes again by itself."""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any
from urllib.request import Request, urlopen

import pytest
from shared.attacks import attack, install_attacker, recorded, refusing
from shared.deployed import Shop, call, connect, now, wait_until
from shared.lab import cut_off, small_disk, start
from shared.monitor import CA, SECRETS, Monitor
from shared.playbook import PLAYBOOKS, changes, converge, run_playbook
from shared.throughput import compare
from shared.updates import publish_update, updated

BROKERS = {"broker1": "10.90.36.11", "broker2": "10.90.36.12", "broker3": "10.90.36.13"}
HOSTS = ("worker1", "worker2")
CLI = (
    "REDISCLI_AUTH=$(cat /var/lib/celery-fleet/valkey/administrator.password) "
    "valkey-cli -e --no-auth-warning --user shop-admin -s "
)
SERVER, SENTINEL = f"{CLI} /run/valkey/valkey.sock", f"{CLI} /var/lib/valkey/sentinel/sentinel.sock"


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop("worker1", HOSTS)


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    return Monitor("10.90.36.31")


def replication(host: str) -> dict[str, str]:
    """Return what a server says of its role; empty if it does not answer."""
    try:
        text = connect(host).run(f"{SERVER} info replication").stdout
    except RuntimeError:  # its host is off
        return {}
    return dict(re.findall(r"(?m)^(\w+):(.*?)\r?$", text))


def primaries() -> list[str]:
    return [host for host in BROKERS if replication(host).get("role") == "master"]


def whole() -> bool:
    """Return whether one server is the primary, and all others have its data."""
    states = {host: replication(host) for host in BROKERS}
    links = [state.get("master_link_status") for state in states.values()]
    return sorted(map(str, links)) == ["None", "up", "up"] and all(states.values()) and len(primaries()) == 1


def primary() -> str:
    wait_until(whole, "the broker's servers are not one primary and two replicas")
    return primaries()[0]


def drop(host: str, rule: str) -> None:
    """Drop packets that a host would send, until restore."""
    chain = "{ type filter hook output priority -200; }"
    connect(host).check_output(f"nft 'add table ip cut; add chain ip cut out {chain}; add rule ip cut out {rule} drop'")


def restore(host: str) -> None:
    connect(host).check_output("nft delete table ip cut")


@contextmanager
def survived(shop: Shop, what: str, *, window: float = 0) -> Iterator[None]:
    """Fail if a task is lost that is sent before, during and after the block, or a worker does not go on after it.

    Args:
        window: seconds after the beginning of the block whose tasks may be lost.
    """
    primary()
    tasks = {"customers.noop": (), "email.send_order_confirmation": (1, "a@example.com")}
    missing = {(host, task) for host in HOSTS for task in tasks}
    since = now()
    with shop.flow(*(call(task, *args) for task, args in tasks.items())) as ids:
        # What the fault meets is under way.
        wait_until(lambda: shop.ledger(since=since), "no task runs", interval=0.2)
        began, fault = time.monotonic(), now()
        yield
        after, seconds = now(), []

        def going_on() -> bool:
            lines = shop.ledger(since=after)
            new = {line["id"] for line in lines if line["event"] == "sent"}
            there = {(line["host"], line["task"]) for line in lines if line["event"] == "started" and line["id"] in new}
            if there & missing:
                missing.difference_update(there)
                seconds.append(time.monotonic() - began)
            return not missing

        wait_until(going_on, "not all workers consume", interval=0.5)
    sent = {line["id"]: datetime.fromisoformat(line["time"]) for line in shop.events(ids, "sent", since)}
    start = datetime.fromisoformat(fault)
    # Those of the moment before, too: they may be in the queue yet.
    risked = {task for task, at in sent.items() if window and -2 < (at - start).total_seconds() < window}
    kept = set(ids) - risked
    again = len(shop.wait_for(kept)) - len(kept)
    print(
        f"\n{what}: the fleet consumes after {seconds[0]:.0f} s, the slowest worker after {seconds[-1]:.0f} s; "
        f"{len(kept)} tasks, 0 lost, {again} ran again"
    )


def fails_over(
    shop: Shop, what: str, fault: Callable[[str], object], repair: Callable[[str], object], *, repaired: bool = False
) -> None:
    """Fail if a fault of the primary loses a task, or the fleet does not go on with another one.

    Args:
        repaired: whether clients may need the repair to go on, and what the former primary accepts may be lost.
    """
    former = primary()
    others = [host for host in BROKERS if host != former]
    # Replicas count for redis_min_replicas_max_lag seconds after the last that the primary has heard of them.
    with survived(shop, what, window=7 if repaired else 0):
        fault(former)
        wait_until(lambda: any(replication(host).get("role") == "master" for host in others), "no other takes over")
        if repaired:
            repair(former)
    if not repaired:
        repair(former)
    assert primary() != former
    assert changes(converge("--tags", "broker")) == {0}
    assert primary() != former, "site.yml changed the primary"


def test_a_second_run_changes_nothing() -> None:
    assert changes(converge()) == {0}


def test_each_server_has_the_data_and_each_sentinel_a_quorum() -> None:
    primary()
    for host in BROKERS:
        assert "Quorum and failover authorization can be reached" in connect(host).check_output(
            f"{SENTINEL} sentinel ckquorum shop"
        )


def test_nothing_listens_without_tls_and_strangers_are_refused() -> None:
    for host, address in BROKERS.items():
        listening = connect(host).check_output("ss -tlnH")
        assert f"{address}:6380" in listening
        assert f"{address}:26379" in listening
        assert ":6379 " not in listening
        for port in (6380, 26379):
            told = connect("worker1").run(
                f"echo | openssl s_client -connect {address}:{port} -CAfile /etc/celery-fleet/tls/ca.crt "
                f"-verify_ip {address} -verify_return_error"
            )
            assert "Verify return code: 0 (ok)" in told.stdout
        assert "NOAUTH" in connect(host).run("valkey-cli -s /var/lib/valkey/sentinel/sentinel.sock ping").stdout


def test_tasks_results_and_remote_control_work(shop: Shop) -> None:
    shop.run(
        call("customers.noop"),
        call("customers.noop", countdown=2),
        call("customers.sync", 1, kwargs={"transient_errors": 1}),
        call("customers.fan_out", 1),
        call("reports.build", "2026-01", 0.1),
    )
    assert shop.inspect("ping", "customers@worker1")


def test_flower_sees_the_workers() -> None:
    password = (SECRETS / "flower_basic_auth").read_text(encoding="utf-8").strip()
    request = Request(
        "https://10.90.36.31/api/workers?refresh=true",
        headers={"Authorization": "Basic " + base64.b64encode(f"flower:{password}".encode()).decode()},
    )

    def workers() -> bool:
        with urlopen(request, timeout=60, context=ssl.create_default_context(cafile=CA)) as answer:  # noqa: S310 - https
            return any(worker.get("stats") for worker in json.load(answer).values())

    wait_until(workers, "no worker replies to Flower")


def replayed(shop: Shop) -> None:
    """Fail unless a recorded message that has run is refused."""
    with refusing(shop, "replayed"):
        attack(shop, "replay")


def test_a_recorded_message_does_not_run_again(shop: Shop) -> None:
    install_attacker(shop)
    recorded(shop)
    replayed(shop)


def test_a_killed_primary(shop: Shop) -> None:
    service = "valkey-server"
    fails_over(
        shop,
        "a killed primary",
        lambda host: connect(host).check_output(f"systemctl kill --signal SIGKILL {service}; systemctl stop {service}"),
        lambda host: connect(host).check_output(f"systemctl start {service}"),
    )
    replayed(shop)


@pytest.mark.benchmark
def test_a_power_failure_of_the_primary(shop: Shop) -> None:
    def cut(host: str) -> None:
        # No client is told that its connection ends.
        drop(host, "tcp sport { 6380, 26379 }")
        cut_off(host)

    fails_over(shop, "a power failure of the primary", cut, lambda host: start(connect(host), host))


@pytest.mark.benchmark
def test_a_primary_that_is_cut_off_from_its_peers(shop: Shop) -> None:
    def cut(host: str) -> None:
        drop(host, f"ip daddr {{ {', '.join(address for name, address in BROKERS.items() if name != host)} }}")

    # A client that reaches the Sentinel beside it believes that one, and tries the primary again and again.
    fails_over(shop, "a primary cut off from its peers", cut, restore, repaired=True)


def test_a_planned_fail_over(shop: Shop) -> None:
    former = primary()
    with survived(shop, "a planned fail-over"):
        assert run_playbook(PLAYBOOKS / "redis_failover.yml").returncode == 0
    assert primary() != former
    replayed(shop)
    assert changes(converge()) == {0}


@pytest.mark.benchmark
def test_a_rolling_upgrade_of_debian(shop: Shop) -> None:
    for host in BROKERS:
        publish_update(connect(host), "valkey-server")
    former, began = primary(), time.monotonic()
    with survived(shop, "a rolling upgrade"):
        run = run_playbook(PLAYBOOKS / "broker_restart.yml", celery_broker_install_updates=True)
        assert run.returncode == 0, run.stdout[-3000:]
    print(f"three hosts upgraded in {time.monotonic() - began:.0f} s")
    assert primary() != former
    assert all(updated(connect(host), "valkey-server") for host in BROKERS)
    assert changes(converge("--tags", "broker")) == {0}


@pytest.mark.benchmark
def test_a_primary_whose_disk_is_full(shop: Shop) -> None:
    """It answers no ping, so that the Sentinels take it for down."""
    full = "/var/lib/valkey/full"
    with ExitStack() as disks:
        for host in BROKERS:
            primary()
            disks.enter_context(small_disk(host, "/var/lib/valkey", "valkey-sentinel valkey-server"))
        fails_over(
            shop,
            "a full disk of the primary",
            lambda host: connect(host).check_output(f"head -c 1G /dev/zero >{full} 2>/dev/null || true"),
            lambda host: connect(host).check_output(f"rm {full}"),
        )
    primary()


def test_a_replica_that_is_missing_raises_an_alert_and_is_a_finding(monitor: Monitor) -> None:
    former = primary()
    host = next(each for each in BROKERS if each != former)
    assert monitor.value('count(redis_instance_info{role="master"})') == 1
    connect(host).check_output("systemctl stop valkey-server")
    refused = run_playbook(PLAYBOOKS / "redis_failover.yml")
    assert "1 of 2 replicas are online" in refused.stdout
    found = run_playbook(PLAYBOOKS / "doctor.yml").stdout
    assert f"valkey on {former}: has 1 replicas, 1 less than planned" in found
    wait_until(lambda: any(alarm.name == "CeleryRedisReplicas" for alarm in monitor.alarms()), "no alert")
    connect(host).check_output("systemctl start valkey-server")
    assert primary() == former


@pytest.mark.benchmark
def test_the_throughput_with_two_replicas(shop: Shop) -> None:
    wait_until(whole, "the servers are not in sync")
    server = primary()
    replicas = [host for host in BROKERS if host != server]

    def be(state: str, least: int) -> dict[str, Any]:
        connect(server).check_output(f"{SERVER} config set min-replicas-to-write {least}")
        for host in replicas:
            connect(host).check_output(f"systemctl {state} valkey-server")
        if least:
            wait_until(whole, "the servers are not in sync")
        return {"queue": "video"}

    # The application's user has access to its own queues only.
    with shop.altered("worker2", "supervisorctl stop shop-video", "supervisorctl start shop-video"):
        try:
            compare(shop, lambda: be("stop", 0), lambda: be("start", 1))
        finally:
            be("start", 1)
