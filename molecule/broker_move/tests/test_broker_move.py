"""A move from one host with Debian 12 to a cluster of three with Debian 13, while tasks flow: none is lost."""

from __future__ import annotations

import itertools
import re
import shlex
import time
from datetime import datetime

import pytest
from shared.deployed import RUN, Shop, call, connect, now, wait_until
from shared.playbook import PLAYBOOKS, changes, converge, failures, run_playbook

WORKERS = ("worker1", "worker2")
BROKERS = ("broker1", "broker2", "broker3")
#: The inventory of the move: the new hosts are the broker, the old one is in the group of the previous broker.
MOVED = {"celery_broker_group": "second", "celery_broker_previous_group": "first"}
#: The retired host becomes one of Redis, to which the fleet moves, and which it leaves again.
TO_REDIS = {
    "celery_broker": "redis",
    "celery_broker_group": "first",
    "celery_broker_previous": "rabbitmq",
    "celery_broker_previous_group": "second",
}
FROM_REDIS = {**MOVED, "celery_broker_previous": "redis"}
RETIRE = PLAYBOOKS / "broker_retire.yml"
# Some of them are due during the move, the others after it.
COUNTDOWNS = range(30, 240, 20)
# The settings of a sender that is not restarted.
OLD_SETTINGS = "/var/lib/shop/old-environment"
SEND_LATER = f"""
from pathlib import Path
from shop.celery import app
settings = dict(line.split("=", 1) for line in Path("{OLD_SETTINGS}").read_text().splitlines() if "=" in line)
app.loader.import_default_modules()
with app.connection_for_write(settings["CELERY_BROKER_URL"]) as connection:
    print(app.signature("customers.noop", app=app).apply_async(countdown=120, connection=connection).id)
"""


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop("worker1", WORKERS)


def on(host: str, command: str) -> str:
    """Run a command on a host, which must succeed, and return its output."""
    return str(connect(host).check_output(command))


def seconds(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def gap(times: list[str]) -> float:
    """Return the longest time between two of these moments, in seconds."""
    return max((seconds(b, a) for a, b in itertools.pairwise(sorted(times))), default=0.0)


def messages(queue: str) -> int:
    """Return the number of messages in a queue of the old broker."""
    rows = (line.split("\t") for line in on("old1", "rabbitmqctl -q -p shop list_queues name messages").splitlines())
    return next(int(row[1]) for row in rows if row[0] == queue)


def test_a_part_of_the_fleet_is_not_moved() -> None:
    told = failures(converge("--limit", "worker1", **MOVED))
    assert "Run it without --limit, --tags and --skip-tags. No host was touched" in " ".join(told.values())


def test_a_move_loses_nothing(shop: Shop) -> None:
    pids = {host: shop.pids(host) for host in WORKERS}
    shop.output(f"install -o shop -m 600 /etc/shop/environment {OLD_SETTINGS}")
    sent = now()
    later = shop.send(*[call("customers.noop", countdown=countdown) for countdown in COUNTDOWNS])
    backlog = shop.send(*[call("email.send_order_confirmation", 1, "a@example.com", 1) for _ in range(300)])
    wait_until(lambda: messages("others") > 100, "there is no backlog")
    with shop.flow(call("customers.noop"), every=0.5) as ids:
        began = time.monotonic()
        moved = converge(**MOVED)
        took = time.monotonic() - began
        assert moved.returncode == 0, moved.stdout[-3000:] + moved.stderr
        assert all(shop.pids(host)[name] != pid for host in WORKERS for name, pid in pids[host].items())
        assert "shop-broker-broker1:5671/" in shop.output("cat /etc/shop/environment")
        connections = on("old1", "rabbitmqctl -q list_connections user ssl").splitlines()
        assert {line for line in connections if line.startswith("shop-admin")} == {"shop-admin\ttrue"}

        # The sender of this block still sends to the old broker, which gets a delayed task, too.
        later_still = shop.output(f"{RUN} python -c {shlex.quote(SEND_LATER)}").split()
        told = " ".join(failures(run_playbook(RETIRE, **MOVED)).values())
        assert "shop from worker1" in told
        assert "celery_delayed_" in told
        assert changes(converge(**MOVED)) == {0}
        emptied = " ".join(failures(converge(celery_broker_group="second")).values())
        assert "still moves messages from a previous broker. No host was touched" in emptied
        assert messages("others") == 0
    new = shop.send(call("customers.noop"))
    done = shop.wait_for([*ids, *later, *backlog, *later_still, *new])
    flowed = [line for line in done if line["id"] in ids]
    due = dict(zip(later, COUNTDOWNS, strict=True))
    late = [seconds(line["time"], sent) - due[line["id"]] for line in done if line["id"] in due]
    assert min(late) > -1
    of_workers = [[line["time"] for line in flowed if line["host"] == host] for host in WORKERS]
    total = len(ids) + len(later) + len(backlog) + len(later_still) + len(new)
    print(
        f"moved in {took:.0f} s: {total} sent, 0 lost, {len(done) - total} twice; longest gap of the fleet "
        f"{gap([line['time'] for line in flowed]):.0f} s, of a worker {max(map(gap, of_workers)):.0f} s; delayed tasks "
        f"at most {max(late):.0f} s late"
    )


def test_the_empty_broker_is_retired() -> None:
    retired = run_playbook(RETIRE, **MOVED)
    assert retired.returncode == 0, retired.stdout[-3000:]
    assert "and 0 are left in its 32 queues" in " ".join(retired.stdout.split())
    assert connect("old1").run("systemctl is-active rabbitmq-server").stdout.strip() == "inactive"
    assert connect("old1").run("systemctl is-enabled rabbitmq-server").stdout.strip() == "disabled"
    for broker in BROKERS:
        assert "shovel" not in on(broker, "cat /etc/rabbitmq/enabled_plugins")
        assert "shovel" not in on(broker, "rabbitmqctl -q list_parameters -p shop")


@pytest.mark.parametrize("to", [TO_REDIS, FROM_REDIS], ids=["to_redis", "from_redis"])
def test_a_move_to_another_kind_of_broker_loses_nothing(shop: Shop, to: dict[str, str]) -> None:
    sent = now()
    # On Redis, workers hold them. They return, and wait in RabbitMQ.
    later = shop.send(*[call("customers.noop", countdown=countdown) for countdown in COUNTDOWNS[:6]])
    backlog = shop.send(*[call("email.send_order_confirmation", 1, "a@example.com", 1) for _ in range(300)])
    with shop.flow(call("customers.noop"), every=0.5) as ids:
        began = time.monotonic()
        moved = converge(**to)
        took = time.monotonic() - began
        assert moved.returncode == 0, moved.stdout[-3000:] + moved.stderr
        told = " ".join(failures(run_playbook(RETIRE, **to)).values())
        assert "shop from worker1" in told
        assert changes(converge(**to)) == {0}
    new = shop.send(call("customers.noop"))
    done = shop.wait_for([*ids, *later, *backlog, *new])
    flowed = [line["time"] for line in done if line["id"] in ids]
    due = dict(zip(later, COUNTDOWNS[:6], strict=True))
    late = [seconds(line["time"], sent) - due[line["id"]] for line in done if line["id"] in due]
    assert min(late) > -1
    total = len(ids) + len(later) + len(backlog) + len(new)
    print(
        f"moved in {took:.0f} s: {total} sent, 0 lost, {len(done) - total} twice; longest gap of the fleet "
        f"{gap(flowed):.0f} s; delayed tasks at most {max(late):.0f} s late"
    )


def test_the_empty_redis_is_retired() -> None:
    retired = run_playbook(RETIRE, **FROM_REDIS)
    assert retired.returncode == 0, retired.stdout[-3000:]
    told = " ".join(retired.stdout.split())
    assert "and 0 are left in its 5 queues" in told
    assert re.search(r"is stopped: [1-9]\d* messages moved since the forwarder connected", told)
    old = connect("old1")
    assert old.run("systemctl is-active redis-server redis-ui").stdout.split() == ["inactive", "inactive"]
    assert old.run("systemctl is-enabled redis-server").stdout.strip() == "disabled"
    assert not connect("broker1").file("/etc/celery-fleet/forwarder/shop.json").exists
    alone = converge(**{**MOVED, "celery_broker_previous_group": "none"})
    assert alone.returncode == 0, alone.stdout[-3000:]
