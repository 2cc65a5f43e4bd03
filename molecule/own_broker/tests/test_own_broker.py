"""A fleet on somebody else's RabbitMQ and Redis, and what is refused before a host of the fleet is changed."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from shared.confidential import assert_nobody_reads
from shared.deployed import Shop, call, connect, wait_until
from shared.playbook import PLAYBOOKS, changes, converge, failures, run_playbook

PASSWORD, ENCODED = "p@ss/word:7%", "p%40ss%2Fword%3A7%25"
HOST = "10.90.37.11"
RABBITMQ = f"amqps://tenant:{ENCODED}@{HOST}:5671/orders"
REDIS = f"rediss://:{ENCODED}@{HOST}:6380/0"
# A valid authority that has not issued the brokers' certificates.
OTHER_CA = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop("worker1", ("worker1",))


def hidden(run: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Return a run of a playbook, whose output must not contain the broker's password."""
    assert not {each for each in (PASSWORD, ENCODED) if each in run.stdout + run.stderr}
    return run


def refused(run: subprocess.CompletedProcess[str]) -> str:
    """Return why a run has failed, which must have changed no host."""
    told = " ".join(failures(hidden(run)).values())
    assert set(re.findall(r"\bchanged=(\d+)", run.stdout)) == {"0"}, run.stdout[-3000:]
    return told


def metrics(port: int) -> str:
    """Return the metrics at a port of the worker's loopback."""
    read = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/metrics').read().decode())"
    return str(connect("worker1").check_output(f"python3 -c {shlex.quote(read)}"))


def rabbitmqctl(command: str) -> str:
    return str(connect("mq1").check_output(f"rabbitmqctl -p orders --silent {command}"))


def test_tasks_run_and_the_queues_have_what_policies_set_elsewhere(shop: Shop) -> None:
    assert shop.run(call("customers.noop"))
    arguments = rabbitmqctl("list_queues name type arguments | grep ^customers")
    for part in ("quorum", '"x-delivery-limit",50', '"x-dead-letter-exchange","shop.dead"', '"reject-publish"'):
        assert part in arguments.replace(" ", "")
    assert rabbitmqctl("list_policies") == ""


def test_a_task_with_a_countdown_waits_in_the_broker(shop: Shop) -> None:
    assert shop.run(call("customers.noop", countdown=2))


def test_a_check_leaves_nothing_behind() -> None:
    run = hidden(run_playbook(PLAYBOOKS / "plan.yml", celery_plan_probe=True))
    assert changes(run) == {0}
    assert "check-" not in rabbitmqctl("list_queues name") + rabbitmqctl("list_exchanges name")


def test_a_release_is_deployed() -> None:
    run = hidden(run_playbook(PLAYBOOKS / "deploy.yml", celery_app_version="1.1.0"))
    assert run.returncode == 0, run.stdout[-3000:]


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        (RABBITMQ.replace(ENCODED, "wrong"), {}, "refuses the login of tenant"),
        (RABBITMQ.replace("tenant", "reader"), {}, "reader lacks a permission: ACCESS_REFUSED"),
        (RABBITMQ, {"celery_broker_ca": OTHER_CA}, f"worker1 refuses the certificate of {HOST}:5671"),
        (REDIS.replace(ENCODED, "wrong"), {}, "refuses the login of default: WRONGPASS"),
    ],
)
def test_what_is_wrong_is_named_before_a_host_is_changed(url: str, variables: dict[str, str], expected: str) -> None:
    assert expected in refused(converge(celery_broker_url=url, **variables))


def test_flower_sees_the_worker() -> None:
    def online() -> bool:
        return 'flower_worker_online{worker="quick@worker1"} 1.0' in metrics(5555)

    wait_until(online, "Flower does not see the worker")


@pytest.fixture
def evicting() -> Iterator[None]:
    """Have Redis delete keys when it is full."""

    def set_policy(policy: str) -> None:
        connect("mq1").check_output(
            f"REDISCLI_AUTH='{PASSWORD}' redis-cli --no-auth-warning -h {HOST} -p 6380 --tls "
            f"--cacert /etc/celery-fleet/tls/ca.crt config set maxmemory-policy {policy}"
        )

    set_policy("volatile-lru")
    yield
    set_policy("noeviction")


@pytest.mark.usefixtures("evicting")
def test_a_redis_that_deletes_keys_when_it_is_full_is_refused() -> None:
    assert "maxmemory-policy is volatile-lru" in refused(converge(celery_broker_url=REDIS))


def test_the_password_is_not_rotated_by_the_fleet() -> None:
    run = run_playbook(PLAYBOOKS / "rotate.yml", celery_rotate=["rabbitmq_application"])
    assert "the password of the broker in celery_broker_url is yours" in refused(run)


def test_the_password_is_readable_by_nobody_else() -> None:
    assert_nobody_reads(connect("worker1"), [PASSWORD, ENCODED], "ps -eo args")


def test_the_fleet_moves_to_redis(shop: Shop) -> None:
    assert hidden(converge(celery_broker_url=REDIS)).returncode == 0
    assert shop.run(call("customers.noop"))
    assert shop.output("grep -c rediss:// /etc/shop/environment").strip() != "0"
    assert changes(hidden(converge(celery_broker_url=REDIS))) == {0}
    assert_nobody_reads(connect("worker1"), [PASSWORD, ENCODED], "ps -eo args")


def test_the_metrics_of_redis_are_scraped_on_the_monitor() -> None:
    page = metrics(9122)
    assert "redis_up 1" in page
    assert "depth:customers" in page
