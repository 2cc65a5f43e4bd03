"""A fleet moves to TLS while tasks flow. Then its network shows nothing, and clients refuse wrong certificates."""

from __future__ import annotations

import re
import shlex
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import pytest
from cryptography.x509 import load_pem_x509_certificate
from shared.browser import BROWSER_MILLISECONDS, trusting_chromium
from shared.capture import captured
from shared.certificates import signed_certificate
from shared.deployed import RUN, Shop, call, connect, wait_until
from shared.lab import cut_off, start
from shared.monitor import CA, SECRETS, Monitor
from shared.playbook import PLAYBOOKS, changes, converge, failures, run_playbook
from shared.service import main_pid

ADDRESSES = {"broker1": "10.90.32.11", "worker1": "10.90.32.21", "control1": "10.90.32.31"}
MARK = "MARK-of-the-argument"
GATEWAY = "10.90.32.1"
FILES = "/etc/celery-fleet/tls"
REDIS = (
    "REDISCLI_AUTH=$(cat /var/lib/celery-fleet/redis/administrator.password) "
    "redis-cli -s /run/redis/redis.sock --user shop-admin"
)
# Sends tasks like a program that knows nothing of the fleet, without TLS, from one connection.
SEND_PLAIN = """
import os, sys, time
from pathlib import Path
from urllib.parse import urlsplit
del os.environ["CELERY_LOADER"]
from celery import Celery
from kombu import Exchange, Queue
parts = urlsplit(os.environ["CELERY_BROKER_URL"])
login, _, host = parts.netloc.rpartition("@")
app = Celery(broker=f"amqp://{login}@{host.rpartition(':')[0]}:5672{parts.path}")
app.conf.broker_transport_options = {"confirm_publish": True}
app.conf.task_publish_retry_policy = {"max_retries": 200, "interval_max": 2}
exchange = Exchange("shop", type="topic", no_declare=True)
app.conf.task_queues = [Queue("customers", exchange, routing_key="customers", no_declare=True)]
app.conf.task_default_queue = app.conf.task_default_routing_key = "customers"
with app.producer_pool.acquire() as producer:
    while not Path(sys.argv[1]).exists():
        print(app.send_task("customers.noop", producer=producer).id)
        Path(f"{sys.argv[1]}.sent").touch()
        time.sleep(0.2)
"""
# Prints why Celery's client can't connect.
CONNECT = """
from shop.celery import app
try:
    app.connection_for_write().ensure_connection(max_retries=1, timeout=20)
except Exception as error:
    print(error)
"""
secured = partial(converge, celery_tls="only")


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop("worker1", ("worker1",))


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    return Monitor(ADDRESSES["control1"])


@contextmanager
def plain_sender(shop: Shop) -> Iterator[list[str]]:
    """Send tasks without TLS during the block. The list has their ids at its end."""
    ids: list[str] = []
    stop = shop.output("mktemp --dry-run").strip()
    with ThreadPoolExecutor(1) as pool:
        # A connection of its own, beside those that the block uses.
        sending = pool.submit(Shop("worker1", ()).output, f"{RUN} python -c {shlex.quote(SEND_PLAIN)} {stop}")
        try:
            wait_until(lambda: shop.output(f"ls {stop}.sent 2>&- || true"), "the sender sends nothing")
            yield ids
        finally:
            shop.output(f"touch {stop}")
            ids += sending.result().split()


def works(shop: Shop, monitor: Monitor) -> None:
    """Fail unless a task is done, and all targets are scraped."""
    shop.run(call("customers.noop"))
    wait_until(lambda: monitor.value("min(up)") == 1, "a target is not scraped")


def connections(shop: Shop) -> set[str]:
    """Return the connections to RabbitMQ, and whether each is encrypted."""
    return set(shop.output("rabbitmqctl --silent list_connections pid connected_at ssl", "broker1").splitlines())


def unencrypted(found: set[str]) -> set[str]:
    return {connection for connection in found if connection.endswith("false")}


def test_a_fleet_moves_to_tls_without_losing_a_task(shop: Shop, monitor: Monitor) -> None:
    with captured(GATEWAY) as packets:
        shop.run(call("reports.build", MARK, 0.1))
    assert MARK.encode() in packets(), "without TLS it is readable"
    with plain_sender(shop) as ids:
        # Both at once would break the sender's connection, and the workers' ones.
        told = failures(secured())["broker1"]
        assert re.search(r"these clients use it: .*shop from worker1 \(\d+ connections\)", told), told
        server, before = main_pid(connect("broker1"), "rabbitmq-server"), connections(shop)
        assert changes(converge(celery_tls="both"))
        works(shop, monitor)
        told = failures(secured())["broker1"]
        assert "these clients use it: shop from worker1 (1 connection)" in told, told
        assert (left := unencrypted(connections(shop)))
        assert left <= before, "the sender lost its connection"
    before = connections(shop)
    assert changes(secured())
    works(shop, monitor)
    assert before - unencrypted(before) <= connections(shop), "a connection was lost"
    assert main_pid(connect("broker1"), "rabbitmq-server") == server, "the broker was restarted"
    assert len(ids) > 100
    assert len(shop.wait_for(ids)) == len(ids), "a task ran twice"
    assert changes(secured()) == {0}


def listeners(name: str) -> set[int]:
    """Return the ports on which a host accepts connections from others, without SSH."""
    sockets = [line.split()[3] for line in connect(name).check_output("ss -Hltn").splitlines()]
    local = ("127.", "[::1]")
    return {int(each.rpartition(":")[2]) for each in sockets if not each.startswith(local)} - {22}


def speaks_tls_only(name: str) -> set[int]:
    """Return the ports that others reach. Fail if one has no TLS, or a certificate that clients don't trust."""
    ports = listeners(name)
    for port in ports:
        served = ssl.get_server_certificate((ADDRESSES[name], port), ca_certs=str(CA), timeout=60)
        assert "BEGIN CERTIFICATE" in served
        with pytest.raises((OSError, HTTPException)), urlopen(f"http://{ADDRESSES[name]}:{port}/", timeout=60) as page:
            assert page.status == 400, "nginx says that this is a port of https"
            raise HTTPException
    return ports


def test_every_port_speaks_tls_and_nothing_else() -> None:
    assert speaks_tls_only("broker1") == {5671, 15671, 15691, 9100}
    assert speaks_tls_only("worker1") == {9100}
    assert speaks_tls_only("control1") == {443, 9090, 9093}


def test_nothing_is_readable_on_the_network(shop: Shop, monitor: Monitor) -> None:
    secrets = [path.read_bytes().strip() for path in SECRETS.glob("[a-z]*") if path.is_file()]
    assert len(secrets) > 5
    with captured(GATEWAY) as packets:
        shop.run(call("reports.build", MARK, 0.1))
        shop.output(f"{RUN} celery -A shop.celery:app inspect ping --timeout 30")
        assert run_playbook(PLAYBOOKS / "doctor.yml", celery_tls="only", celery_doctor_min_disk_free=0).returncode == 0
        works(shop, monitor)
    content = packets()
    assert ADDRESSES["broker1"] in addresses_in(content)
    assert not [
        secret[:4] for secret in [*secrets, MARK.encode(), b"reports.build", b"celery.pidbox"] if secret in content
    ]


def addresses_in(packets: bytes) -> set[str]:
    """Return the fleet's addresses that packets contain."""
    return {address for address in ADDRESSES.values() if bytes(map(int, address.split("."))) in packets}


def serve(name: str, certificate: tuple[str, str], reload: str) -> None:
    """Make a service use another certificate."""
    text, key = map(shlex.quote, certificate)
    connect(name).check_output(f"printf %s {text} > {FILES}/host.crt && printf %s {key} > {FILES}/host.key && {reload}")


def refused(shop: Shop) -> str:
    """Return why a client of the application refuses the broker; empty if it does not."""
    return shop.output(f"{RUN} python -c {shlex.quote(CONNECT)}").strip()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (partial(signed_certificate, CA.parent, "10.90.32.99"), "IP address mismatch"),
        (partial(signed_certificate, CA.parent, ADDRESSES["broker1"], days=-1), "certificate has expired"),
        (partial(signed_certificate, None, ADDRESSES["broker1"]), "certificate verify failed"),
    ],
    ids=["of another host", "expired", "of a stranger"],
)
def test_no_client_takes_a_wrong_certificate(
    shop: Shop, monitor: Monitor, make: Callable[[], tuple[str, str]], reason: str
) -> None:
    serve("broker1", make(), "rabbitmqctl eval 'ssl:clear_pem_cache().'")
    assert reason in refused(shop)
    doctor = run_playbook(PLAYBOOKS / "doctor.yml", celery_tls="only")
    told = " ".join(doctor.stdout.split())
    assert doctor.returncode != 0
    assert reason in told
    assert "Clients refuse the broker's certificate. Run playbooks/renew.yml" in told
    # A rollout needs the queues' depths before it restarts a worker.
    restart = failures(run_playbook(PLAYBOOKS / "restart.yml", celery_tls="only"))
    assert any(reason in text for text in restart.values()), restart
    alert = f'ALERTS{{alertname="CeleryCertificateRefused", instance="{ADDRESSES["broker1"]}:5671"}}'
    wait_until(lambda: monitor.query(alert), "no alert names the certificate")
    assert changes(run_playbook(PLAYBOOKS / "renew.yml", celery_tls="only"))
    assert refused(shop) == ""


def test_a_port_without_tls_is_no_broker(shop: Shop) -> None:
    listen = "systemd-run --quiet --unit plain python3 -m http.server 5999"
    with shop.altered("broker1", listen, "systemctl stop plain"):
        code = (
            "import os; os.environ['CELERY_BROKER_URL'] = os.environ['CELERY_BROKER_URL'].replace(':5671', ':5999')\n"
        )
        assert "wrong version number" in shop.output(f"{RUN} python -c {shlex.quote(code + CONNECT)}").lower()


def serial(port: int, host: str) -> int:
    """Return the number of the certificate that a port serves."""
    served = ssl.get_server_certificate((ADDRESSES[host], port), timeout=60)
    return load_pem_x509_certificate(served.encode()).serial_number


def test_a_certificate_is_renewed_without_a_lost_connection(shop: Shop) -> None:
    listed = "rabbitmqctl --silent list_connections pid connected_at | sort"
    before = {port: serial(port, "broker1") for port in (5671, 15671, 15691, 9100)}
    page = serial(443, "control1")
    with shop.flow(call("customers.noop")) as ids:
        connections = set(shop.output(listed, "broker1").splitlines())
        renewed = run_playbook(PLAYBOOKS / "renew.yml", celery_tls="only", celery_host_names=["another.example.com"])
        assert changes(renewed)
        assert not set(before.values()) & {serial(port, "broker1") for port in before}
        assert serial(443, "control1") != page
        assert connections <= set(shop.output(listed, "broker1").splitlines()), "a connection was lost"
    assert len(shop.wait_for(ids)) == len(ids), "a task ran twice"


def test_a_host_that_is_down_keeps_no_other_from_its_certificate() -> None:
    before = serial(5671, "broker1")
    cut_off("worker1")
    try:
        options = {"celery_tls": "only", "celery_host_names": ["yet-another.example.com"]}
        renewed = run_playbook(PLAYBOOKS / "renew.yml", "--limit", "broker1,worker1", **options)
        assert renewed.returncode != 0
        assert "worker1: not reached, so the certificate there was not checked" in " ".join(renewed.stdout.split())
        assert serial(5671, "broker1") != before
    finally:
        start(connect("worker1"), "worker1")


def test_the_authority_is_replaced_without_a_lost_connection(shop: Shop, monitor: Monitor) -> None:
    before = CA.read_text(encoding="utf-8")
    with shop.flow(call("customers.noop")) as ids:
        replaced = run_playbook(PLAYBOOKS / "renew_ca.yml", celery_tls="only")
        assert changes(replaced)
    assert len(shop.wait_for(ids)) == len(ids), "a task ran twice"
    after = CA.read_text(encoding="utf-8")
    assert after.count("BEGIN") == 1
    assert after not in before
    for name in ADDRESSES:
        assert connect(name).file(f"{FILES}/ca.crt").content_string == after
        speaks_tls_only(name)
    works(shop, monitor)


def recorded(key: str, value: str) -> str:
    """Return the answer of the replay cache to a record of a message, or why it refuses it."""
    script = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', 600) or redis.call('GET', KEYS[1])"
    password = (SECRETS / "redis_replay").read_text(encoding="utf-8").strip()
    cli = ["redis-cli", "-h", ADDRESSES["broker1"], "-p", "6380", "--tls", "--cacert", f"{FILES}/ca.crt"]
    command = shlex.join([*cli, "--no-auth-warning", "--user", "shop-replay", "eval", script, "1", key, value])
    return str(connect("broker1").check_output(f"REDISCLI_AUTH={password} {command} 2>&1").strip())


def test_signed_messages_have_a_replay_cache_beside_rabbitmq(shop: Shop, monitor: Monitor) -> None:
    signed = partial(secured, celery_signed_messages="both")
    assert changes(signed())
    works(shop, monitor)
    assert speaks_tls_only("broker1") == {5671, 6380, 15671, 15691, 9100}
    message = f"shop:replay:{uuid4()}"
    assert [recorded(message, worker) for worker in ("one", "two")] == ["OK", "one"]
    assert "NOPERM" in recorded("shop:other", "one")
    assert changes(signed()) == {0}
    before = serial(6380, "broker1")
    names = ["one.more.example.com"]
    assert changes(
        run_playbook(PLAYBOOKS / "renew.yml", celery_tls="only", celery_signed_messages="both", celery_host_names=names)
    )
    assert serial(6380, "broker1") != before
    assert recorded(message, "two") == "one"
    # Workers that still verify messages need it until they have restarted.
    assert changes(secured())
    assert 6380 not in listeners("broker1")
    works(shop, monitor)


@pytest.mark.parametrize(
    ("page", "user", "secret", "shown"),
    [
        ("https://10.90.32.31:9090/consoles/fleet.html", "prometheus", "prometheus", "shop"),
        ("https://10.90.32.31:9093/", "prometheus", "alertmanager", "Alertmanager"),
        ("https://10.90.32.31/", "flower", "flower_basic_auth", "Flower"),
        ("https://10.90.32.11:15671/", "", "", "RabbitMQ"),
    ],
)
def test_a_browser_that_trusts_the_authority_opens_the_pages(
    tmp_path: Path, page: str, user: str, secret: str, shown: str
) -> None:
    shows(tmp_path, page, (user, secret), shown)


def shows(home: Path, page: str, login: tuple[str, str], shown: str) -> None:
    """Open a page in a browser that trusts the fleet's authority, until it shows a text.

    Args:
        home: an empty directory.
        login: a user, and the name of the password.
    """
    user, secret = login
    password = (SECRETS / secret).read_text(encoding="utf-8").strip() if secret else ""
    with (
        trusting_chromium(CA, home) as browser,
        browser.new_context(http_credentials={"username": user, "password": password}) as context,
    ):
        tab = context.new_page()
        tab.set_default_timeout(BROWSER_MILLISECONDS)
        tab.goto(page)
        tab.wait_for_function(f"document.title.includes({shown!r}) || document.body?.innerText.includes({shown!r})")


def consumers(shop: Shop) -> set[str]:
    """Return the connections to Redis over which workers wait for tasks."""
    listed = shop.output(f"{REDIS} client list type normal", "broker1")
    return set(re.findall(r"^(id=\d+ addr=\S+) .* cmd=brpop user=shop ", listed, re.M))


def test_redis_has_tls_as_well(shop: Shop, monitor: Monitor, tmp_path: Path) -> None:
    assert changes(secured(celery_broker="redis"))
    works(shop, monitor)
    connect("broker1").check_output("systemctl stop rabbitmq-server")
    assert speaks_tls_only("broker1") == {6380, 8081, 9100, 9121}
    shows(tmp_path, "https://10.90.32.11:8081/", ("redis", "redis_ui_basic_auth"), "tasks")
    server, before = main_pid(connect("broker1"), "redis-server"), consumers(shop)
    for mode in ("both", "only"):
        ran = run_playbook(PLAYBOOKS / "site.yml", "--tags", "broker", celery_broker="redis", celery_tls=mode)
        assert changes(ran)
        assert (6379 in listeners("broker1")) == (mode == "both")
    assert before
    assert before <= consumers(shop), "a connection was lost"
    assert main_pid(connect("broker1"), "redis-server") == server, "Redis was restarted"
    with captured(GATEWAY) as packets:
        shop.run(call("reports.build", MARK, 0.1))
    assert MARK.encode() not in packets()
    serve(
        "broker1",
        signed_certificate(CA.parent, ADDRESSES["broker1"], days=-1),
        f"{REDIS} config set tls-cert-file {FILES}/host.crt tls-key-file {FILES}/host.key",
    )
    assert "certificate has expired" in refused(shop)
    assert changes(run_playbook(PLAYBOOKS / "renew.yml", celery_tls="only", celery_broker="redis"))
    assert refused(shop) == ""
    works(shop, monitor)
