"""Attacks on signed messages by someone who has the broker's password, and what workers refuse."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.deployed import RUN, Shop, call, wait_until

ATTACKER = "/var/tmp/attacker.py"  # noqa: S108 - on a host that the test owns
RECORDED = "/var/lib/shop/recorded.json"


def install_attacker(shop: Shop) -> None:
    """Copy the attacker's program to the host that sends tasks."""
    text = Path(__file__).with_name("attacker.py").read_text(encoding="utf-8")
    shop.output(f"printf %s {shlex.quote(text)} > {ATTACKER}")


def attack(shop: Shop, name: str) -> str:
    """Run an attack with the password of the application, and none of its keys."""
    return shop.output(f"{RUN} env -u CELERY_LOADER python {ATTACKER} {name} {RECORDED}")


def refusals(shop: Shop) -> Counter[str]:
    """Return the number of messages that all workers have refused, by reason."""
    total: Counter[str] = Counter()
    for host in shop.hosts:
        for line in shop.output("grep -h '' /var/lib/shop/counts/*.refused || true", host).splitlines():
            total.update(json.loads(line))
    return +total


@contextmanager
def refusing(shop: Shop, *reasons: str) -> Iterator[None]:
    """Fail unless workers refuse so many messages because of the block, for these reasons, and no more."""
    before = refusals(shop)
    yield
    wait_until(lambda: refusals(shop) - before == Counter(reasons), f"{reasons} are not refused")


@contextmanager
def stopped_workers(shop: Shop) -> Iterator[None]:
    """Have no worker consume the queue customers during the block."""
    for host in shop.hosts:
        shop.output("supervisorctl stop shop-customers", host)
    yield
    for host in shop.hosts:
        shop.output("supervisorctl start shop-customers", host)


def recorded(shop: Shop) -> str:
    """Record a task, which runs, and return its ID."""
    with stopped_workers(shop):
        (task,) = shop.send(call("customers.noop"))
        attack(shop, "record")
    shop.wait_for([task])
    return task
