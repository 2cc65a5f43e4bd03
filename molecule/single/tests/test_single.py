"""Everything on one VM, as inventories/single declares it, with a password that no URL takes as it is."""

from __future__ import annotations

import json
import re

import pytest
from shared.deployed import RUN, Shop, call, wait_until

testinfra_hosts = ["ansible://vm1"]


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="vm1", hosts=("vm1",))


def test_a_load_on_every_queue_is_done(shop: Shop) -> None:
    sent = json.loads(shop.output(f"{RUN} django-admin send_load --count 60"))
    ids = {task for queue in sent["queues"].values() for task in queue}
    shop.wait_for(ids, "done", "failed", timeout=180)


def test_beat_ticks(shop: Shop) -> None:
    wait_until(lambda: any(line["task"] == "ticks.heartbeat" for line in shop.ledger()), "no tick", timeout=60)


def test_nothing_listens_but_ssh(shop: Shop) -> None:
    sockets = {line.split()[3] for line in shop.output("ss -tlnH").splitlines()}
    assert {socket for socket in sockets if not re.match(r"(127\.|\[::1\])", socket)} <= {"0.0.0.0:22", "[::]:22"}


def test_workers_are_up_again_after_a_restart_of_the_broker(shop: Shop) -> None:
    shop.output("systemctl restart rabbitmq-server")
    shop.run(call("customers.noop"), timeout=90)
