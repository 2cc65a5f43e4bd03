"""What the users of an application, of a broker and of nobody try on a host; none of it may work."""

from __future__ import annotations

import pytest
from shared.application import play
from shared.deployed import Shop

testinfra_hosts = ["ansible://vm1"]


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="vm1", hosts=("vm1",))


def test_root_does_not_wait_for_what_the_application_leaves(shop: Shop) -> None:
    pipes = [f"/var/lib/shop/counts/shop-quick{name}" for name in ("@9.9.9.0.counts", ".ending")]
    shop.output(f"runuser -u shop -- mkfifo {' '.join(pipes)}")
    play("doctor")
    play("status")
    shop.output(f"rm {' '.join(pipes)}")


def test_brokers_and_monitors_write_no_file_that_root_reads(shop: Shop) -> None:
    for user, path in {
        "rabbitmq": "/etc/rabbitmq/rabbitmq-env.conf",
        "prometheus": "/var/lib/celery-fleet/metrics/x.prom",
    }.items():
        assert "Permission denied" in shop.host("vm1").run(f"runuser -u {user} -- ln -sf /etc/shadow {path}").stderr


def test_nobody_holds_up_a_rollout(shop: Shop) -> None:
    play("restart")
    held = shop.host("vm1").run("runuser -u nobody -- flock /run/celery-fleet/shop.lock.mutex true")
    assert "Permission denied" in held.stderr
