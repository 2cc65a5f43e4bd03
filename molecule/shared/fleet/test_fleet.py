"""The whole fleet: what a team would notice on the first day, and in the first bad night."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from shared.deployed import RUN, Shop, call, wait_until
from shared.lab import reboot
from shop.ledger import Tally, count

testinfra_hosts = ["ansible://control1"]
WORKERS = {"customers": "general", "email": "general", "ticks": "general", "video": "media", "reports": "media"}
BROKER = "redis" if "redis" in os.environ["MOLECULE_SCENARIO_NAME"] else "rabbitmq"
UNITS = {"rabbitmq": "rabbitmq-server", "redis": "redis-server"}
PORTS = {"rabbitmq": {"{ip}:5672", "{ip}:15672"}, "redis": {"{ip}:6379", "{ip}:8081"}}
GROUPS = {"general": {"worker1", "worker2"}, "media": {"worker2"}}


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="control1", hosts=("worker1", "worker2", "control1"))


def test_a_load_on_every_queue_is_done_once_where_it_belongs(shop: Shop) -> None:
    sent = json.loads(shop.output(f"{RUN} django-admin send_load --count 150"))
    ids = [task for queue in sent["queues"].values() for task in queue]
    shop.wait_for(ids, "done", "failed", timeout=180)
    for queue in set(sent["queues"]) - {"ticks"}:
        lines = shop.events(sent["queues"][queue], "done")
        assert {line["queue"] for line in lines} == {queue}
        assert {line["host"] for line in lines} <= GROUPS[WORKERS[queue]]
        assert {line["user"] for line in lines} == {"shop"}
        assert {line["release"] for line in lines} == {"1.0.0"}

    def settled() -> Tally | None:
        total = count(map(json.dumps, shop.ledger()), ids).total
        return total if total.lost == 0 else None

    total: Tally = wait_until(settled, "tasks are lost", timeout=60)
    assert total.repeated == 0
    assert (total.sent, total.done) == (sent["total"], sent["total"] - sent["failures"])
    assert total.retried > 0, "no task was retried, though the load provokes it"


def test_both_hosts_of_a_group_take_part(shop: Shop) -> None:
    lines = shop.run(*[call("email.send_order_confirmation", number, "a@shop.example") for number in range(80)])
    assert {line["host"] for line in lines} == GROUPS["general"]


def test_tasks_for_later_do_not_hold_up_those_for_now(shop: Shop) -> None:
    later = shop.send(*[call("video.transcode", number, 0.1, countdown=25) for number in range(6)])
    shop.run(*[call("video.transcode", number, 0.1) for number in range(3)], timeout=15)
    assert not shop.events(later, "started")
    assert len(shop.wait_for(later, timeout=60)) == 6


def test_a_stop_ends_running_tasks_and_hands_back_the_others(shop: Shop) -> None:
    ids = shop.send(*[call("reports.build", "2026-01", 6) for _ in range(6)])
    wait_until(lambda: len(shop.events(ids, "started")) >= 2, "no report is begun")
    shop.output("supervisorctl stop shop-reports", "worker2")
    ended = {line["id"] for line in shop.events(ids, "done")}
    assert ended == {line["id"] for line in shop.events(ids, "started")}, "a running task was not ended"
    assert len(ended) < 6
    shop.output("supervisorctl start shop-reports", "worker2")
    assert len(shop.wait_for(ids, timeout=60)) == 6, "a task ran twice"


def test_a_restart_of_the_host_waits_for_its_tasks(shop: Shop) -> None:
    ids = shop.send(*[call("reports.build", "2026-02", 8) for _ in range(4)])
    wait_until(lambda: len(shop.events(ids, "started")) >= 2, "no report is begun")
    reboot(shop.host("worker2"), "worker2")
    assert len(shop.wait_for(ids, timeout=90)) == 4, "a task ran twice"
    assert len(shop.events(ids, "started")) == 4, "a task was broken off and begun again"


def test_the_fleet_works_on_after_a_restart_of_the_broker(shop: Shop) -> None:
    before = {name: shop.pids(name) for name in ("worker1", "worker2")}
    shop.output(f"systemctl restart {UNITS[BROKER]}", "broker1")
    calls = [call("customers.sync", 1), call("email.send_order_confirmation", 1, "a@shop.example")]
    calls += [call("video.transcode", 1, 0.1), call("reports.build", "2026-03", 0.1)]
    assert len(shop.run(*calls, timeout=90)) == 4
    assert {name: set(shop.pids(name)) for name in before} == {name: set(pids) for name, pids in before.items()}


def test_a_worker_that_takes_nothing_is_restarted(shop: Shop) -> None:
    before = {name: shop.pid(name, "shop-email") for name in GROUPS["general"]}
    cancel = f"{RUN} celery -A shop.celery:app control --timeout 10 cancel_consumer email"
    shop.output(f"{cancel} -d {','.join(f'email@{name}' for name in before)}")
    lines = shop.run(
        *[call("email.send_order_confirmation", number, "a@shop.example") for number in range(4)], timeout=180
    )
    assert len(lines) == 4
    restarted = [name for name, pid in before.items() if shop.pid(name, "shop-email") != pid]
    assert restarted
    for name in restarted:
        journal = shop.output("journalctl --no-pager --unit shop-watchdog", name)
        assert re.search(r"Restarting shop-email, warm: it has taken no task for \d+ s, while \d+ wait", journal)


def test_remote_control_reaches_each_worker(shop: Shop) -> None:
    answer = json.loads(shop.output(f"{RUN} celery -A shop.celery:app inspect ping --json --timeout 10"))
    expected = {f"{worker}@{host}" for worker in ("customers", "email") for host in GROUPS["general"]}
    assert set(answer) == expected | {"video@worker2", "reports@worker2"}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("broker1", PORTS[BROKER]),
        ("worker1", set()),
        ("worker2", set()),
        ("control1", {"{ip}:80"}),
    ],
)
def test_nothing_listens_wider_than_told(shop: Shop, name: str, allowed: set[str]) -> None:
    address = shop.output("ip -4 -o addr show scope global | awk '{print $4}' | cut -d/ -f1", name).strip()
    sockets = {line.split()[3] for line in shop.output("ss -tlnH", name).splitlines()}
    wide = {socket for socket in sockets if not re.match(r"(127\.|\[::1\])", socket)}
    assert wide - {"0.0.0.0:22", "[::]:22"} == {socket.format(ip=address) for socket in allowed}


def test_an_old_password_is_of_no_use_after_a_change(shop: Shop) -> None:
    old = shop.output("sh -c '. /etc/shop/environment; echo $CELERY_BROKER_URL'", "worker1").strip()
    before = shop.pids("worker1")
    converge = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml"
    password = "%h p@ss/w:ö'rd \"# 100%"
    run = subprocess.run(
        ["ansible-playbook", str(converge), "-e", json.dumps({f"{BROKER}_application_password": password})],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert password not in run.stdout
    new = shop.output("sh -c '. /etc/shop/environment; echo $CELERY_BROKER_URL'", "worker1").strip()
    assert new != old
    after = shop.pids("worker1")
    assert all(after[program] != pid for program, pid in before.items()), "a worker goes on with the old password"
    assert len(shop.run(call("customers.noop"), call("email.send_order_confirmation", 2, "a@shop.example"))) == 2
    attempt = f"import kombu; kombu.Connection({old!r}).connect()"
    refused = shop.host("control1").run(f"{RUN} python -c %s", attempt)
    assert refused.rc != 0
    assert re.search("AccessRefused|AuthenticationError", refused.stderr)
