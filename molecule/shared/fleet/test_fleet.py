"""The whole fleet: what a team would notice on the first day, and in the first bad night."""

from __future__ import annotations

import json
import os
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from shared.deployed import RUN, Shop, call, now, transcode, wait_until
from shared.lab import reboot
from shared.playbook import PLAYBOOKS, run_playbook
from shop.ledger import Tally, count

testinfra_hosts = ["ansible://control1"]
PING = f"{RUN} celery -A shop.celery:app inspect ping --timeout 10"
WORKERS = {"customers": "general", "email": "general", "ticks": "general", "video": "media", "reports": "media"}
BROKER = "redis" if "redis" in os.environ["MOLECULE_SCENARIO_NAME"] else "rabbitmq"
UNITS = {"rabbitmq": "rabbitmq-server", "redis": "redis-server"}
MEASURED = {"{ip}:9100"}
PORTS = {
    "rabbitmq": {"{ip}:5671", "{ip}:15671", "{ip}:15691"} | MEASURED,
    "redis": {"{ip}:6380", "{ip}:8081", "{ip}:9121"} | MEASURED,
}
GROUPS = {"general": {"worker1", "worker2"}, "media": {"worker2"}}
CONSUMERS = {(queue, host) for queue, group in WORKERS.items() if queue != "ticks" for host in GROUPS[group]}
# One of each queue, so that each worker has something to take.
SHORT = [
    call("customers.sync", 1),
    call("email.send_order_confirmation", 1, "a@shop.example"),
    transcode(1, 0.1),
    call("reports.build", "2026-03", 0.1),
]

# Prints the status of pages of the exporter of Redis, without and with a password.
ASK = """
import base64, ssl, sys, urllib.error, urllib.request
exporter = sys.argv[1]
trust = ssl.create_default_context(cafile="/etc/celery-fleet/tls/ca.crt")
password = open("/etc/prometheus/passwords/broker").read().strip()
token = base64.b64encode(f"prometheus:{password}".encode()).decode()
for path in ("/metrics", "/scrape?target=redis://127.0.0.1:6379", "/", "//scrape?target=redis://127.0.0.1:6379"):
    for headers in ({}, {"Authorization": f"Basic {token}"}):
        request = urllib.request.Request(f"https://{exporter}:9121{path}", headers=headers)
        try:
            print(urllib.request.urlopen(request, timeout=60, context=trust).status)
        except urllib.error.HTTPError as error:
            print(error.code)
"""


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="control1", hosts=("worker1", "worker2", "control1"))


def playbook(name: str, *options: str, **variables: Any) -> str:
    """Run one of the playbooks on the scenario's hosts and return what it prints."""
    run = run_playbook(PLAYBOOKS / f"{name}.yml", *options, **variables)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr
    return run.stdout


def broker_process(shop: Shop) -> str:
    """Return the broker's process id; empty if it does not serve."""
    unit = UNITS[BROKER]
    return shop.output(
        f"if systemctl is-active -q {unit}; then systemctl show -p MainPID --value {unit}; fi", "broker1"
    )


@pytest.mark.skipif(BROKER != "redis", reason="RabbitMQ tells its numbers itself")
def test_the_exporter_of_redis_has_one_page_behind_a_password(shop: Shop) -> None:
    address = shop.host("broker1").ansible.get_variables()["ansible_host"]
    statuses = shop.output(f"python3 -c {shlex.quote(ASK)} {address}", "control1").split()
    assert statuses == ["401", "200", *["404"] * 6]


def test_a_load_on_every_queue_is_done_once_where_it_belongs(shop: Shop) -> None:
    since = now()
    sent = json.loads(shop.output(f"{RUN} django-admin send_load --count 150"))
    ids = [task for queue in sent["queues"].values() for task in queue]
    shop.wait_for(ids, "done", "failed")
    for queue in set(sent["queues"]) - {"ticks"}:
        lines = shop.events(sent["queues"][queue], "done")
        assert {line["queue"] for line in lines} == {queue}
        assert {line["host"] for line in lines} <= GROUPS[WORKERS[queue]]
        assert {line["user"] for line in lines} == {"shop"}
        assert {line["release"] for line in lines} == {"1.0.0"}

    def settled() -> Tally | None:
        total = count(map(json.dumps, shop.ledger(since=since)), ids).total
        return total if total.lost == 0 else None

    total: Tally = wait_until(settled, "tasks are lost")
    assert total.repeated == 0
    failed = [line for line in shop.ledger(since=since) if line["event"] == "failed"]
    assert {line["task"] for line in failed} == {"customers.fail"}, shop.logs_of(line["id"] for line in failed)
    assert (total.sent, total.done) == (sent["total"], sent["total"] - sent["failures"])
    assert total.retried > 0, "no task was retried, though the load provokes it"


def test_both_hosts_of_a_group_take_part(shop: Shop) -> None:
    lines = shop.run(*[call("email.send_order_confirmation", number, "a@shop.example") for number in range(80)])
    assert {line["host"] for line in lines} == GROUPS["general"]


def test_tasks_for_later_do_not_hold_up_those_for_now(shop: Shop) -> None:
    calls = [transcode(number, 0.1, countdown=20) for number in range(6)]
    ids = shop.send(*calls, *[transcode(number, 0.1) for number in range(3)])
    later, now = ids[:6], ids[6:]
    done = max(line["time"] for line in shop.wait_for(now))
    started = min(line["time"] for line in shop.wait_for(later, "started"))
    sent = min(line["time"] for line in shop.events(later, "sent"))
    assert done < started
    assert datetime.fromisoformat(started) - datetime.fromisoformat(sent) > timedelta(seconds=19)
    assert len(shop.wait_for(later)) == 6


def test_a_stop_ends_running_tasks_and_hands_back_the_others(shop: Shop) -> None:
    ids = shop.send(*[call("reports.build", "2026-01", 6) for _ in range(6)])
    wait_until(lambda: len(shop.events(ids, "started")) >= 2, "no report is begun")
    shop.output("supervisorctl stop shop-reports-a", "worker2")
    ended = {line["id"] for line in shop.events(ids, "done")}
    assert ended == {line["id"] for line in shop.events(ids, "started")}, "a running task was not ended"
    assert len(ended) < 6
    shop.output("supervisorctl start shop-reports-a", "worker2")
    assert len(shop.wait_for(ids)) == 6, "a task ran twice"


def test_a_restart_of_the_host_waits_for_its_tasks(shop: Shop) -> None:
    ids = shop.send(*[call("reports.build", "2026-02", 8) for _ in range(4)])
    wait_until(lambda: len(shop.events(ids, "started")) >= 2, "no report is begun")
    reboot(shop.host("worker2"), "worker2")
    assert len(shop.wait_for(ids)) == 4, "a task ran twice"
    assert len(shop.events(ids, "started")) == 4, "a task was broken off and begun again"


def takers(shop: Shop, since: str) -> set[tuple[str, str]]:
    """Return the queues of which a task was begun since then, each with the host."""
    return {(line["queue"], line["host"]) for line in shop.ledger(since=since) if line["event"] == "started"}


def restart_broker(shop: Shop, command: str) -> str:
    """Restart the broker by a command of systemd, and return the time at which it serves again."""
    before = broker_process(shop)
    shop.output(command.format(UNITS[BROKER]), "broker1")
    wait_until(lambda: broker_process(shop) not in ("", before), "the broker does not come back")
    return now()


def none_is_lost(shop: Shop, ids: list[str], since: str, again: str) -> None:
    """Wait until all tasks are done.

    Args:
        since: when the first was sent, or before.
        again: when the broker was back.
    """
    # What was on its way to a worker when Redis ended is in no queue any more (docs/brokers.md), one each; all else is.
    on_their_way = len(CONSUMERS) if BROKER == "redis" else 0

    def the_rest_is_done() -> bool:
        sent = {line["id"]: line["time"] for line in shop.events(ids, "sent", since)}
        lost = set(ids) - {line["id"] for line in shop.events(ids, "done", since)}
        begun = shop.events(lost, "started")
        return len(lost) <= on_their_way and all(sent[task] < again for task in lost) and not begun

    wait_until(the_rest_is_done, "tasks are lost")


@pytest.mark.parametrize("restart", ["systemctl restart {}", "systemctl kill --signal KILL {}"])
def test_each_worker_consumes_again_after_the_broker_was_away(shop: Shop, restart: str) -> None:
    since = now()
    with shop.flow(*SHORT) as ids:
        begun = now()
        wait_until(lambda: takers(shop, begun) >= CONSUMERS, "not all workers took tasks before")
        again = restart_broker(shop, restart)
        wait_until(lambda: takers(shop, again) >= CONSUMERS, "not all workers take tasks")
    assert len(ids) > len(SHORT)
    none_is_lost(shop, ids, since, again)


def kill_supervisord(shop: Shop, host: str) -> None:
    """Kill a host's supervisord, and return once another one runs its programs."""
    programs, killed = set(shop.pids(host)), shop.output("cat /run/supervisord.pid", host).strip()
    shop.output(f"kill -KILL {killed}", host)
    wait_until(
        lambda: shop.output("cat /run/supervisord.pid || true", host).strip() not in ("", killed),
        "systemd does not start it again",
    )
    wait_until(lambda: set(shop.pids(host)) == programs, "not all programs run again")


def test_a_fleet_in_which_several_things_break_at_once_is_whole_again_and_loses_nothing(shop: Shop) -> None:
    before = set(shop.pids("worker1"))
    since = now()
    with shop.flow(*SHORT) as ids:
        begun = now()
        wait_until(lambda: takers(shop, begun) >= CONSUMERS, "not all workers took tasks before")
        killed = shop.pid("worker1", "shop-customers")
        shop.output(f"kill -KILL {killed}", "worker1")
        with ThreadPoolExecutor(1) as pool:
            # Connections of its own, beside those that restart the broker.
            other = pool.submit(kill_supervisord, Shop(shop.sender, shop.hosts), "worker2")
            again = restart_broker(shop, "systemctl restart {}")
            other.result()
        wait_until(lambda: set(shop.pids("worker1")) == before, "not all programs run again")
        wait_until(lambda: takers(shop, again) >= CONSUMERS, "not all workers take tasks")
    assert shop.pid("worker1", "shop-customers") != killed
    if BROKER == "redis":
        # What the killed worker had taken is nobody's until then; refused while a worker that was left behind ends.
        wait_until(lambda: run_playbook(PLAYBOOKS / "sweep.yml").returncode == 0, "a sweep is refused still")
    none_is_lost(shop, ids, since, again)


@pytest.mark.skipif(BROKER != "redis", reason="RabbitMQ needs no sweep")
def test_a_sweep_leaves_the_tasks_of_a_worker_that_supervisord_left_behind(shop: Shop) -> None:
    """It ends its tasks beside the new one, and does not answer which they are."""
    report = shop.report("2026-08")
    kill_supervisord(shop, "worker2")
    run = run_playbook(PLAYBOOKS / "sweep.yml")
    assert run.returncode != 0, run.stdout
    ends = r"shop-reports-a on worker2 \(process \d+, of no Supervisor\) ends its tasks"
    assert re.search(ends, " ".join(run.stdout.split())), run.stdout
    report.finish()
    assert len(shop.wait_for([report.id])) == 1
    wait_until(lambda: run_playbook(PLAYBOOKS / "sweep.yml").returncode == 0, "a sweep is refused still")
    assert len(shop.events([report.id], "started")) == 1, "a task that ran was given to another worker"


def test_a_worker_that_hangs_is_restarted_and_one_that_was_told_to_leave_its_queue_is_not(shop: Shop) -> None:
    before = {name: shop.pid(name, "shop-email-a") for name in GROUPS["general"]}
    control = f"{RUN} celery -A shop.celery:app control --timeout 10 -d email-a@worker1"
    shop.output(f"{control} cancel_consumer email")
    shop.output(f"kill -STOP {before['worker2']}", "worker2")
    try:
        ids = shop.send(*[call("email.send_order_confirmation", number, "a@shop.example") for number in range(4)])
        wait_until(
            lambda: re.search(
                r"Restarting shop-email-a, warm: it has not answered for \d+ s",
                shop.output("journalctl --no-pager --unit shop-watchdog --since=-5min", "worker2"),
            ),
            "nobody notices",
        )
    finally:
        shop.output(f"kill -CONT {before['worker2']}", "worker2")
    # The first of them may have been on its way to worker1.
    assert "worker2" in {line["host"] for line in shop.wait_for(ids)}
    wait_until(lambda: shop.pid("worker2", "shop-email-a") not in (0, before["worker2"]), "it is not restarted")
    assert shop.pid("worker1", "shop-email-a") == before["worker1"]
    shop.output(f"{control} add_consumer email")


@pytest.mark.skipif(BROKER != "redis", reason="RabbitMQ does it by itself")
def test_a_sweep_gives_the_tasks_of_a_killed_worker_to_others(shop: Shop) -> None:
    (busy,) = shop.send(transcode(1, 25))
    lost = shop.send(*[call("reports.build", "2026-04", 20) for _ in range(2)])
    shop.wait_for([busy, *lost], "started")
    killed = shop.pid("worker2", "shop-reports-a")
    shop.output(f"kill -KILL $(pgrep --parent {killed}) {killed}", "worker2")
    wait_until(lambda: shop.pid("worker2", "shop-reports-a") not in (0, killed), "Supervisor does not start it again")
    wait_until(lambda: shop.host("control1").run(f"{PING} -d reports-a@worker2").rc == 0, "it does not answer")
    # Beside others, whose acknowledgements got lost when the broker was away.
    for options, word in ((["--check"], "would be requeued"), ([], "were requeued")):
        assert len(shop.events(lost, "started")) == 2
        told = playbook("sweep", *options)
        assert word in told
        assert all(task in told for task in lost)
        assert busy not in told
    assert len(shop.wait_for([busy, *lost])) == 3
    told = playbook("sweep")
    assert "0 tasks were requeued" in told, [line for line in shop.ledger() if line["id"] in told] or told
    assert len(shop.events([busy], "started")) == 1, "a task that ran was given to another worker"


def test_remote_control_reaches_each_worker(shop: Shop) -> None:
    answer = json.loads(shop.output(f"{PING} --json"))
    expected = {f"{worker}@{host}" for worker in ("customers", "email-a") for host in GROUPS["general"]}
    assert set(answer) == expected | {"video@worker2", "reports-a@worker2"}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("broker1", PORTS[BROKER]),
        ("worker1", MEASURED),
        ("worker2", MEASURED),
        ("control1", {"{ip}:443", "{ip}:9090", "{ip}:9093"}),
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
    password = "%h p@ss/w:ö'rd \"# 100%"
    told = playbook("site", **{f"{BROKER}_application_password": password})
    assert password not in told
    new = shop.output("sh -c '. /etc/shop/environment; echo $CELERY_BROKER_URL'", "worker1").strip()
    assert new != old
    after = shop.pids("worker1")
    assert all(after[program] != pid for program, pid in before.items()), "a worker goes on with the old password"
    assert len(shop.run(call("customers.noop"), call("email.send_order_confirmation", 2, "a@shop.example"))) == 2
    attempt = f"from shop.celery import app; app.connection_for_write({old!r}).connect()"
    refused = shop.host("control1").run(f"{RUN} python -c %s", attempt)
    assert refused.rc != 0
    assert re.search("AccessRefused|AuthenticationError", refused.stderr)
