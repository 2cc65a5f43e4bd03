"""A fleet begins to sign messages. Then its workers run what the fleet has sent, once, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import ssl
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.request import Request, urlopen

import pytest
from shared.attacks import attack, install_attacker, recorded, refusals, refusing, stopped_workers
from shared.deployed import RUN, Shop, call, connect, wait_until
from shared.monitor import CA, SECRETS, Monitor
from shared.playbook import PLAYBOOKS, changes, converge, failures, run_playbook

HOSTS = ("worker1", "worker2")
KEYS = "/etc/shop/signing"
# As root, who alone has the key that signs commands.
INSPECT = "/srv/shop/bin/celery_operator celery -A shop.celery:app inspect ping --json --timeout 30"
signed = partial(converge, celery_signed_messages="only")


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop("worker1", HOSTS)


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    return Monitor("10.90.34.31")


@pytest.fixture(scope="module", autouse=True)
def attacker(shop: Shop) -> None:
    install_attacker(shop)


def works(shop: Shop) -> None:
    """Fail unless tasks of all forms run, and none is refused."""
    with refusing(shop):
        shop.run(
            call("customers.noop"),
            call("customers.noop", countdown=2),
            call("customers.noop", compression="zlib"),
            call("customers.sync", 1, kwargs={"transient_errors": 1}),
            call("customers.fan_out", 1),
            call("reports.build", "2026-01", 0.1),
            call("email.send_order_confirmation", 1, "a@example.com"),
        )


def test_a_running_fleet_begins_to_sign_without_losing_a_task(shop: Shop) -> None:
    told = " ".join(failures(signed()).values())
    assert "celery_signed_messages: only has workers refuse unsigned messages" in told
    assert "No host was touched" in told
    told = " ".join(failures(converge("--limit", "worker2", celery_signed_messages="both")).values())
    assert "worker2 has no key yet that signs messages, and all workers must trust it first" in told
    for change in (partial(converge, celery_signed_messages="both"), signed):
        # A process that sends tasks signs them once it has restarted.
        with shop.flow(call("customers.noop")) as ids:
            assert changes(change())
        assert len(ids) > 50
        assert len(shop.wait_for(ids)) == len(ids), "a task ran twice"
    assert refusals(shop) == Counter()
    assert changes(signed()) == {0}
    works(shop)


def test_keys_and_the_cache_are_closed_to_others(shop: Shop) -> None:
    listed = shop.output(f"stat --format '%n %U %G %a' {KEYS} {KEYS}/*")
    assert listed.splitlines() == [
        f"{KEYS} root shop 750",
        f"{KEYS}/operator.key root root 600",
        f"{KEYS}/replay_cache.json root shop 640",
        f"{KEYS}/sender.key root shop 640",
        f"{KEYS}/trusted.json root shop 640",
    ]
    keys = {shop.output(f"cat {KEYS}/{name}.key", host) for host in HOSTS for name in ("sender", "operator")}
    assert len(keys) == 4
    assert not [key for key in keys for host in HOSTS if key[40:80] in shop.output("cat /etc/shop/*.py", host)]


REPLAYS = {
    "replay": "replayed",
    "renamed": "replayed",
    "delayed": "replayed",
    "stripped": "unsigned",
    "rewritten": "wrong_signature",
    "restated": "wrong_signature",
    "moved": "wrong_destination",
    "own_task": "unsigned",
}


def attacked(shop: Shop) -> None:
    """Fail if any attack has an effect."""
    task = recorded(shop)
    since = shop.ledger([task])[-1]["time"]
    # Several, so that the other host meets some.
    with refusing(shop, *REPLAYS.values(), *["replayed"] * 6):
        for name in [*REPLAYS, *["replay"] * 6]:
            attack(shop, name)
    assert len(shop.events([task], "done")) == 1
    names = {line["task"] for line in shop.ledger(since=since)}
    assert "customers.fail" not in names, "a forged task ran"
    # Of a message and its changed copy, one runs, as it was sent.
    with refusing(shop, "replayed"):
        with stopped_workers(shop):
            (task,) = shop.send(call("customers.noop"))
            attack(shop, "record")
            attack(shop, "renamed")
        shop.wait_for([task])
    assert [line["task"] for line in shop.events([task], "done")] == ["customers.noop"]


def test_recorded_and_forged_tasks_are_refused(shop: Shop) -> None:
    attacked(shop)


# Sends a task as a web server does, with the settings of producers and Flower's packages.
PYTHON = "$(sed -n 's/^ExecStart=\\(.*\\)celery flower .*/\\1python/p' /etc/systemd/system/flower.service)"
PRODUCE = f"set -a; . /etc/shop-producer/environment; exec {PYTHON} -c {{}}"
SEND = "print(app.send_task('customers.noop').id)"
# Without its signature.
SEND_UNSIGNED = f"""
import celery_fleet_settings
from kombu.messaging import Producer
Producer._publish = Producer._publish.__wrapped__
{SEND}"""
# As if the key was that of another sender.
SEND_AS = f"""
from celery_fleet_runtime import signing
signing.key_id = lambda public: {{!r}}
{SEND}"""


def produce(code: str) -> str:
    """Run code as the user of a producer's web server, and return its output."""
    program = f"from celery import Celery\napp = Celery('web')\n{code}"
    run = f"runuser -u www-data -- sh -c {shlex.quote(PRODUCE.format(shlex.quote(program)))}"
    output: str = connect("control1").check_output(run)
    return output.strip()


def a_producer_sends(shop: Shop) -> None:
    """Fail unless a producer sends tasks, with its own key and no other."""
    with refusing(shop):
        shop.wait_for([produce(SEND)])
    trusted = json.loads(shop.output(f"cat {KEYS}/trusted.json"))
    (public,) = [
        base64.b64decode(each["public"])
        for each in trusted
        if each["sender"] == "worker1" and not each["operator"] and each["until"] is None
    ]
    with refusing(shop, "unsigned", "wrong_signature"):
        refused = [produce(SEND_UNSIGNED), produce(SEND_AS.format(hashlib.sha256(public).hexdigest()[:16]))]
    assert shop.events(refused, "started") == []


def test_a_producer_sends_tasks_with_its_own_key(shop: Shop) -> None:
    a_producer_sends(shop)


def dead_letters() -> Counter[str]:
    """Return the number of dead letters in RabbitMQ, by their reason."""
    password = (SECRETS / "rabbitmq_administrator").read_text(encoding="utf-8").strip()
    request = Request(
        "https://10.90.34.11:15671/api/queues/shop/shop.dead/get",
        data=json.dumps({"count": 100, "ackmode": "ack_requeue_true", "encoding": "auto"}).encode(),
        headers={"Authorization": "Basic " + base64.b64encode(f"shop-admin:{password}".encode()).decode()},
    )
    with urlopen(request, timeout=60, context=ssl.create_default_context(cafile=CA)) as answer:  # noqa: S310 - as above
        found = json.load(answer)
    return Counter(message["properties"]["headers"].get("fleet-refused", "") for message in found)


def test_refused_tasks_are_dead_letters_with_their_reason_and_raise_an_alert(shop: Shop, monitor: Monitor) -> None:
    # The workers' pools keep connections that are closed, to send dead letters.
    connect("broker1").check_output("rabbitmqctl close_all_connections --vhost shop 'by a test'")
    with refusing(shop, "unsigned", "unsigned"):
        attack(shop, "own_task")
        attack(shop, "own_task")
    assert dead_letters() == refusals(shop)
    wait_until(
        lambda: any(
            alarm.name == "CeleryMessagesRefused" and alarm.of(program="shop-customers", reason="unsigned")
            for alarm in monitor.alarms()
        ),
        "no alert",
    )


def nodes(shop: Shop) -> set[str]:
    """Return the workers that reply to root."""
    return set(json.loads(shop.output(INSPECT)))


def test_only_root_and_flower_control_workers(shop: Shop) -> None:
    pids = {host: shop.pids(host) for host in HOSTS}
    assert {node.split("@")[0] for node in nodes(shop)} >= {"customers", "video"}
    # Not the application's user, who can't have root read a module of theirs, nor anyone with the broker's password.
    before = refusals(shop)
    planted = "echo 'raise SystemExit(9)' > /var/lib/shop/json.py"
    with shop.altered("worker1", planted, "rm /var/lib/shop/json.py"):
        assert nodes(shop)
    shop.host("worker1").run(f"{RUN} celery -A shop.celery:app control shutdown")
    attack(shop, "shutdown")
    wait_until(lambda: {"not_operator", "unsigned"} <= set(refusals(shop) - before), "commands are not refused")
    assert {host: shop.pids(host) for host in HOSTS} == pids


def test_a_recorded_command_has_no_effect(shop: Shop) -> None:
    node = next(each for each in nodes(shop) if each.startswith("customers@"))
    host = next(each for each in HOSTS if shop.output("hostname", each).strip() == node.partition("@")[2])
    before = shop.pid(host, "shop-customers")
    with ThreadPoolExecutor(1) as pool:
        # A connection of its own, beside those that the test uses.
        listening = pool.submit(attack, Shop("worker1", ()), "listen")
        bound = "rabbitmqctl --silent --vhost shop list_queues name | grep -q attacker"
        wait_until(lambda: connect("broker1").run(bound).rc == 0, "the attacker does not listen")
        shop.output(f"{INSPECT.replace('inspect ping', 'control shutdown')} -d {node}")
        listening.result()
    wait_until(lambda: shop.pid(host, "shop-customers") not in {0, before}, "the worker did not restart")
    wait_until(lambda: node in nodes(shop), "the worker does not reply")
    after = shop.pid(host, "shop-customers")
    counted = refusals(shop)
    attack(shop, "command")
    # Other workers remember it. The restarted one drops what was sent before its start.
    wait_until(lambda: set(refusals(shop) - counted) == {"replayed"}, "it is not refused")
    works(shop)
    assert shop.pid(host, "shop-customers") == after


def test_no_message_ends_a_worker(shop: Shop) -> None:
    pids, before = {host: shop.pids(host) for host in HOSTS}, refusals(shop)
    attack(shop, "nonsense")
    # Each worker gets the commands, and one the tasks.
    wait_until(lambda: (refusals(shop) - before).total() >= 9, "nothing is refused")
    works(shop)
    assert {host: shop.pids(host) for host in HOSTS} == pids


def flower_workers() -> dict[str, Any]:
    password = (SECRETS / "flower_basic_auth").read_text(encoding="utf-8").strip()
    request = Request(
        "https://10.90.34.31/api/workers?refresh=true",
        headers={"Authorization": "Basic " + base64.b64encode(f"flower:{password}".encode()).decode()},
    )
    with urlopen(request, timeout=60, context=ssl.create_default_context(cafile=CA)) as answer:  # noqa: S310 - as above
        found: dict[str, Any] = json.load(answer)
    return found


def test_flower_sees_the_workers_and_believes_no_one_else(shop: Shop) -> None:
    wait_until(lambda: any(worker.get("stats") for worker in flower_workers().values()), "no worker replies to Flower")
    attack(shop, "event")
    dropped = "journalctl --unit flower --grep 'Dropped a message of celeryev: it is not signed'"
    wait_until(lambda: connect("control1").run(dropped).rc == 0, "the event is not dropped")
    assert not [name for name in flower_workers() if "forged" in name]


def test_a_task_of_a_killed_worker_runs_again(shop: Shop) -> None:
    with refusing(shop):
        report = shop.report("2026-02")
        worker = shop.pid("worker1", "shop-reports-a")
        shop.output(f"kill -KILL {worker} $(pgrep -P {worker})", "worker1")
        report.finish()
        shop.wait_for([report.id])


def test_tasks_wait_while_the_replay_cache_is_down(shop: Shop) -> None:
    with refusing(shop):
        with shop.altered("broker1", "systemctl stop redis-server", "systemctl start redis-server"):
            (task,) = shop.send(call("customers.noop"))
            log = "grep -q 'waits for the replay cache' /var/log/shop/*.log"
            wait_until(lambda: any(shop.host(host).run(log).rc == 0 for host in HOSTS), "no worker says so")
            assert shop.events([task], "started") == []
        shop.wait_for([task])


def test_the_broker_restarts_and_nothing_is_lost_or_refused(shop: Shop) -> None:
    with refusing(shop):
        with shop.flow(call("customers.noop"), call("email.send_order_confirmation", 1, "a@example.com")) as ids:
            connect("broker1").check_output("systemctl restart rabbitmq-server")
            shop.run(call("customers.noop"))
        shop.wait_for(ids)


def test_keys_and_the_password_of_the_cache_are_replaced_while_tasks_flow(shop: Shop) -> None:
    key, pids = f"cat {KEYS}/sender.key", {host: shop.pids(host) for host in HOSTS}
    before = {host: shop.output(key, host) for host in HOSTS}
    late = shop.send(call("customers.noop", countdown=120))
    with refusing(shop):
        with shop.flow(call("customers.noop")) as ids:
            rotated = run_playbook(
                PLAYBOOKS / "rotate.yml", celery_signed_messages="only", celery_rotate=["signing_keys", "redis_replay"]
            )
            assert changes(rotated)
        assert len(shop.wait_for(ids)) == len(ids), "a task ran twice"
    assert not set(before.values()) & {shop.output(key, host) for host in HOSTS}
    assert {host: shop.pids(host) for host in HOSTS} == pids, "a worker restarted"
    trusted = json.loads(shop.output(f"cat {KEYS}/trusted.json"))
    assert len([each for each in trusted if each["until"] is None]) == 6, (
        "two of each host of the application, Flower's and the producer's"
    )
    assert any(each["until"] for each in trusted)
    shop.wait_for(late)
    works(shop)
    a_producer_sends(shop)


def test_redis_as_the_broker_refuses_the_same(shop: Shop) -> None:
    assert changes(signed(celery_broker="redis"))
    works(shop)
    before = refusals(shop)
    attacked(shop)
    a_producer_sends(shop)
    listed = (
        "REDISCLI_AUTH=$(cat /var/lib/celery-fleet/redis/administrator.password) redis-cli -s /run/redis/redis.sock"
    )
    length = connect("broker1").check_output(f"{listed} --user shop-admin llen shop:shop.dead")
    assert int(length) == (refusals(shop) - before).total()
