"""The broker as its users meet it: what it lets in, what it refuses, what it keeps."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import testinfra
from amqp.exceptions import AccessRefused, MessageNacked, NotAllowed, PreconditionFailed
from kombu.connection import Connection
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from shared.browser import BROWSER_MILLISECONDS, chromium
from shared.deployed import wait_until
from shared.playbook import changes, converge, failures
from shared.service import assert_sandboxed, main_pid, new_backup

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
PROJECT = SCENARIO.parents[1]
USERS = {
    "shop": "application",
    "shop-admin": "administrator",
    "shop-flower": "flower",
    "shop-monitor": "monitoring",
}
MAX_QUEUES, MAX_CONNECTIONS = 60, 80
CONFIG = "/etc/rabbitmq/rabbitmq.conf"
UUID = "00000000-0000-4000-8000-000000000000"
ODD_PASSWORD = '%h p@ss/w:ö\'rd \\ "#" 100%'


@dataclass(frozen=True)
class Broker:
    """One of the scenario's brokers.

    Attributes:
        host: its testinfra connection.
        passwords: by users' names.
    """

    host: Any
    address: str
    passwords: dict[str, str]

    def url(self, password: str = "", vhost: str = "shop", user: str = "shop") -> str:
        secret = quote(password or self.passwords[user], safe="")
        return f"amqp://{user}:{secret}@{self.address}:5672/{quote(vhost, safe='')}"

    def connect(self, **values: str) -> Connection:
        """Return an open connection.

        Raises:
            AccessRefused: the broker does not take the password.
            NotAllowed: the user has no right to the vhost.
        """
        connection = Connection(self.url(**values), connect_timeout=60)
        connection.connect()
        return connection

    def api(self, user: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Return the status and answer of the management API; a body is put."""
        request = urllib.request.Request(
            f"http://{self.address}:15672/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method="GET" if body is None else "PUT",
            headers={
                "Authorization": "Basic " + b64encode(f"{user}:{self.passwords[user]}".encode()).decode(),
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return error.code, None

    def ctl(self, *arguments: str) -> str:
        result = self.host.run("rabbitmqctl --silent " + " ".join("%s" for _ in arguments), *arguments)
        assert result.rc == 0, result.stderr
        return str(result.stdout).strip()

    def messages(self, queue: str) -> int:
        rows = [line.split() for line in self.ctl("list_queues", "-p", "shop", "name", "messages").splitlines()]
        return next((int(row[1]) for row in rows if row[0] == queue), 0)

    def full(self) -> bool:
        """Return whether it refuses another connection."""
        try:
            self.connect().close()
        except NotAllowed:
            return True
        return False

    def pid(self) -> str:
        return main_pid(self.host, "rabbitmq-server")


def broker_on(host: Any) -> Broker:
    variables = host.ansible.get_variables()
    secrets = PROJECT / ".lab" / f"fleet-{SCENARIO.name}" / "secrets"
    passwords = {user: (secrets / f"rabbitmq_{file}").read_text().strip() for user, file in USERS.items()}
    return Broker(host, variables["ansible_host"], passwords)


@pytest.fixture(scope="module")
def broker(host: Any) -> Broker:
    return broker_on(host)


@pytest.fixture(scope="module")
def brokers() -> list[Broker]:
    """Return all of them: the playbook takes hardly longer for all than for one."""
    return [broker_on(host) for host in testinfra.get_hosts(["ansible://all"], sudo=True)]


def probe_environment(broker: Broker) -> dict[str, str]:
    return os.environ | {
        "BROKER_URL": broker.url(),
        "FLOWER_URL": broker.url(user="shop-flower"),
        "PYTHONPATH": ":".join(
            f"{PROJECT}/{directory}"
            for directory in ("molecule", ".ansible/collections", "plugins/module_utils", "molecule/rabbitmq/tests")
        ),
    }


@pytest.fixture(scope="module")
def worker(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a worker with the application's user; what it logs is in the file."""
    log = tmp_path_factory.mktemp("worker") / "log"
    arguments = ["-n", "probe@%h", "-c", "2", "-Q", "shop.default,customers,ticks", "-l", "INFO", "-E"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "rabbitmq.tests.probe_app", "worker", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=probe_environment(broker),
        )
        try:
            wait_until(lambda: " ready." in log.read_text(), "the worker is not ready")
            yield log
        finally:
            process.terminate()
            process.wait(timeout=600)


def send(broker: Broker, task: str) -> None:
    program = f"from rabbitmq.tests.probe_app import app; app.send_task({task!r}, queue='customers')"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=probe_environment(broker))


def test_it_listens_only_where_told(broker: Broker) -> None:
    expected = {
        f"{broker.address}:5672",
        f"{broker.address}:15672",
        "127.0.0.1:15692",
        "127.0.0.1:25672",
        "127.0.0.1:4369",
    }
    sockets = {line.split()[3] for line in broker.host.check_output("ss -tlnH").splitlines()}
    assert sockets - {"0.0.0.0:22", "[::]:22"} == expected


def test_rabbitmqctl_listens_on_loopback_only(broker: Broker) -> None:
    broker.host.check_output("systemd-run --unit=probe-ctl rabbitmqctl eval 'timer:sleep(600000).'")
    line = wait_until(lambda: broker.host.run("ss -tlnH | grep :356").stdout, "rabbitmqctl does not listen at all")
    assert line.split()[3].startswith("127.0.0.1:")
    broker.host.check_output("systemctl stop probe-ctl")


@pytest.fixture
def page(broker: Broker) -> Iterator[Page]:
    with chromium() as browser:
        # RabbitMQ 3.10 answers a wrong password with the browser's own dialog too: there guest tries again.
        page = browser.new_page(http_credentials={"username": "guest", "password": "guest"})
        page.set_default_timeout(BROWSER_MILLISECONDS)
        form = page.locator("input[name=username]")

        def opened() -> bool:
            page.goto(f"http://{broker.address}:15672/")
            # On a busy machine, the page of RabbitMQ 3.10 may stay blank. A user loads it again.
            with suppress(PlaywrightTimeout):
                form.wait_for(timeout=BROWSER_MILLISECONDS / 5)
            return form.is_visible()

        wait_until(opened, "the page has no form to log in")
        yield page


def log_in(page: Page, user: str, password: str) -> None:
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", password)
    page.click("input[type=submit]")


def test_the_administrator_logs_in_with_the_generated_password(broker: Broker, page: Page) -> None:
    log_in(page, "shop-admin", broker.passwords["shop-admin"])
    page.wait_for_selector("h1:has-text('Overview')")
    page.goto(f"http://{broker.address}:15672/#/queues")
    page.wait_for_selector("table.list td:has-text('shop.dead')")


def test_guest_can_not_log_in(page: Page) -> None:
    log_in(page, "guest", "guest")
    page.wait_for_selector("text=/login failed/i")
    assert page.query_selector("h1:has-text('Overview')") is None


def test_the_application_can_not_log_in_to_the_page(broker: Broker, page: Page) -> None:
    log_in(page, "shop", broker.passwords["shop"])
    page.wait_for_selector("text=/not.*(management|authori[sz]ed)|login failed/i")
    assert page.query_selector("h1:has-text('Overview')") is None


def test_guest_is_gone_from_amqp_too(broker: Broker) -> None:
    assert "guest" not in broker.ctl("list_users")
    with pytest.raises(AccessRefused):
        broker.connect(user="guest", password="guest", vhost="/")


def test_nobody_logs_in_without_a_password(broker: Broker) -> None:
    offered = broker.ctl(
        "eval", "rabbit_data_coercion:to_list(element(2, application:get_env(rabbit, auth_mechanisms)))."
    )
    assert "ANONYMOUS" not in offered
    assert "PLAIN" in offered


def test_prometheus_answers_on_the_host(broker: Broker) -> None:
    read = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:15692/metrics', timeout=120).read().decode())"
    assert "rabbitmq_identity_info" in broker.host.check_output("python3 -c %s", read)


def test_monitoring_sees_and_changes_nothing(broker: Broker) -> None:
    status, queues = broker.api("shop-monitor", "queues/shop")
    assert status == 200
    assert "shop.dead" in {queue["name"] for queue in queues}
    assert broker.api("shop-monitor", "nodes")[0] == 200
    durable = {"durable": True, "auto_delete": False, "arguments": {}}
    assert broker.api("shop-monitor", "queues/shop/made-by-monitor", durable)[0] in (401, 403)
    assert broker.api("shop-monitor", "users/intruder", {"password": "x", "tags": "administrator"})[0] in (401, 403)
    with broker.connect(user="shop-monitor") as connection, pytest.raises(AccessRefused):
        connection.default_channel.basic_get("shop.dead")


@pytest.mark.parametrize("probe", ["probe_features", "probe_flower"])
def test_all_that_celery_and_flower_do_works(broker: Broker, worker: Path, probe: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", f"rabbitmq.tests.{probe}"],
        capture_output=True,
        text=True,
        check=False,
        env=probe_environment(broker),
        timeout=1800,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) > 2, run.stderr
    assert {line["feature"]: line["result"] for line in lines} == {line["feature"]: line["expected"] for line in lines}
    assert "AccessRefused" not in worker.read_text()
    assert "ACCESS_REFUSED" not in worker.read_text()


@pytest.mark.parametrize("task", ["nobody.knows", "refused", "put_back"])
def test_what_no_worker_takes_goes_to_the_dead_letters(broker: Broker, worker: Path, task: str) -> None:
    before = broker.messages("shop.dead")
    send(broker, task)
    wait_until(lambda: broker.messages("shop.dead") == before + 1, f"{task} is not among the dead letters")
    # Until the dead letter is confirmed, the message is in both queues.
    wait_until(lambda: broker.messages("customers") == 0, f"{task} is in its queue still")
    if task == "put_back":
        assert worker.read_text().count("Task put_back[") >= 5


QUORUM = {"x-queue-type": "quorum"}
REFUSED: dict[str, Callable[[Any], Any]] = {
    "delete a queue of tasks": lambda channel: channel.queue_delete("customers"),
    "declare a queue of tasks": lambda channel: channel.queue_declare("customers", durable=True, arguments=QUORUM),
    "stop tasks on their way to a queue": lambda channel: channel.queue_unbind("customers", "shop", "customers"),
    "delete the exchange of tasks": lambda channel: channel.exchange_delete("shop"),
    "delete the exchange of events": lambda channel: channel.exchange_delete("celeryev"),
    "delete delayed tasks": lambda channel: channel.queue_delete("celery_delayed_3"),
    "empty delayed tasks": lambda channel: channel.queue_purge("celery_delayed_3"),
    "read delayed tasks": lambda channel: channel.basic_get("celery_delayed_3"),
    "delete the exchange of delayed tasks": lambda channel: channel.exchange_delete("celery_delayed_27"),
    "declare another queue": lambda channel: channel.queue_declare("another", durable=True),
    "declare a queue with a similar name": lambda channel: channel.queue_declare("customersX", durable=True),
    "declare a queue as if a dot were any character": lambda channel: channel.queue_declare("shopXdefault"),
    "delete the dead letters": lambda channel: channel.queue_delete("shop.dead"),
    "empty the dead letters": lambda channel: channel.queue_purge("shop.dead"),
    "read the dead letters": lambda channel: channel.basic_get("shop.dead"),
    "delete the dead-letter exchange": lambda channel: channel.exchange_delete("shop.dead"),
    "bind a queue to the dead-letter exchange": lambda channel: channel.queue_bind("customers", "shop.dead"),
    "declare another exchange": lambda channel: channel.exchange_declare("another", "fanout"),
    "listen to the broker's own log": lambda channel: channel.queue_bind("customers", "amq.rabbitmq.trace"),
    "take the name of a queue of replies": lambda channel: channel.queue_declare("x.reply.celery.pidbox"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.usefixtures("worker")  # has declared the queues
def test_the_application_may_not(broker: Broker, what: str) -> None:
    with broker.connect() as connection, pytest.raises(AccessRefused):
        REFUSED[what](connection.default_channel)


FLOWER_REFUSED = REFUSED | {
    "read a task": lambda channel: channel.basic_get("customers"),
    "empty a queue of tasks": lambda channel: channel.queue_purge("customers"),
    "take the queue of a worker's commands": lambda channel: channel.basic_get("probe@host.celery.pidbox"),
    "receive tasks": lambda channel: channel.queue_bind(f"celeryev.{UUID}", "shop", "#"),
}


@pytest.mark.parametrize("what", FLOWER_REFUSED)
@pytest.mark.usefixtures("worker")
def test_flower_may_not(broker: Broker, what: str) -> None:
    with broker.connect(user="shop-flower") as connection, pytest.raises(AccessRefused):
        FLOWER_REFUSED[what](connection.default_channel)


def publish(broker: Broker, user: str, exchange: str, key: str) -> None:
    """Publish a message, and wait for the broker's answer."""
    with broker.connect(user=user) as connection:
        connection.Producer(serializer="json").publish({}, exchange=exchange, routing_key=key)
        connection.default_channel.queue_declare("customers", passive=True)


@pytest.mark.parametrize("exchange", ["shop", "celery_delayed_27", "", "celeryev"])
@pytest.mark.usefixtures("worker")
def test_flower_may_not_send(broker: Broker, exchange: str) -> None:
    with pytest.raises(AccessRefused):
        publish(broker, "shop-flower", exchange, "customers")


def test_flower_sends_tasks_only_where_it_is_allowed_to(brokers: list[Broker]) -> None:
    assert changes(converge(rabbitmq_flower_control=True)) == {1}
    for broker in brokers:
        publish(broker, "shop-flower", "shop", "customers")
        broker.ctl("purge_queue", "-p", "shop", "customers")
    assert changes(converge()) == {1}
    for broker in brokers:
        with pytest.raises(AccessRefused):
            publish(broker, "shop-flower", "shop", "customers")


def test_a_flood_of_queues_is_refused(broker: Broker) -> None:
    names = [str(uuid4()) for _ in range(MAX_QUEUES)]
    with broker.connect() as connection, pytest.raises(PreconditionFailed, match="limit"):
        for name in names:
            connection.default_channel.queue_declare(name, durable=True, auto_delete=False)
    with broker.connect() as connection:
        for name in names:
            connection.default_channel.queue_delete(name)


@pytest.mark.parametrize(("queue", "size"), [("bulk", 1), ("videos", 200_000)])
def test_a_flood_of_tasks_is_refused_and_stops_no_other_queue(broker: Broker, queue: str, size: int) -> None:
    with Connection(broker.url(), connect_timeout=60, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer(serializer="json")
        taken = 0
        with pytest.raises(MessageNacked):
            while taken < 100:
                producer.publish("x" * size, exchange="shop", routing_key=queue)
                taken += 1
        assert taken >= min(20, 2**20 // size)
        producer.publish("x", exchange="shop", routing_key="customers")
    broker.ctl("purge_queue", "-p", "shop", "customers")
    wait_until(lambda: broker.messages(queue) == taken, f"the {taken} tasks that it took are not in {queue}")
    broker.ctl("purge_queue", "-p", "shop", queue)


def test_a_flood_of_connections_is_refused(broker: Broker) -> None:
    with ExitStack() as stack, pytest.raises(NotAllowed, match="limit"):
        for _ in range(MAX_CONNECTIONS + 1):
            stack.enter_context(broker.connect())
    wait_until(lambda: not broker.full(), "the broker keeps closed connections")


def test_workers_keep_what_they_had_until_they_have_restarted(brokers: list[Broker]) -> None:
    for broker in brokers:
        broker.ctl("set_permissions", "-p", "shop", "shop", "^former$", "^former$", "^$")
    for expected in (1, 0):
        assert changes(converge("--diff", rabbitmq_add_permissions=True)) == {expected}
    for broker in brokers:
        with broker.connect() as connection:
            connection.default_channel.queue_declare("former", durable=True)
            connection.default_channel.queue_delete("former")
            connection.default_channel.basic_get("customers")
    assert changes(converge("--diff")) == {1}
    for broker in brokers:
        with broker.connect() as connection, pytest.raises(AccessRefused):
            connection.default_channel.queue_declare("former", durable=True)


def test_the_application_may_not_publish_to_the_dead_letters(broker: Broker) -> None:
    before = broker.messages("shop.dead")
    with broker.connect() as connection:
        connection.Producer(serializer="json").publish({}, exchange="shop.dead", routing_key="")
        with pytest.raises(AccessRefused):
            connection.default_channel.queue_declare("customers", passive=True)
    assert broker.messages("shop.dead") == before


def test_the_application_reaches_no_other_vhost(broker: Broker) -> None:
    broker.ctl("add_vhost", "foreign")
    try:
        for vhost in ("/", "foreign"):
            with pytest.raises(NotAllowed):
                broker.connect(vhost=vhost)
    finally:
        broker.ctl("delete_vhost", "foreign")


def test_a_changed_password_is_the_only_one_and_shows_nowhere(brokers: list[Broker]) -> None:
    watch = "while :; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; sleep 0.05; done > /root/cmdlines"
    for broker in brokers:
        broker.host.check_output("systemd-run --unit=probe-watch sh -c %s", watch)
    run = converge("--diff", "-vvv", rabbitmq_application_password=ODD_PASSWORD)
    for broker in brokers:
        broker.host.check_output("systemctl stop probe-watch")
    assert changes(run) == {1}
    for broker in brokers:
        with broker.connect(password=ODD_PASSWORD), pytest.raises(AccessRefused):
            broker.connect()
    assert changes(converge("--diff", rabbitmq_application_password=ODD_PASSWORD)) == {0}

    for broker in brokers:
        hashes = re.findall(r'"password_hash":"([^"]+)"', broker.ctl("export_definitions", "-"))
        assert len(hashes) == len(USERS)
        assert "rabbitmqctl" in broker.host.check_output("cat /root/cmdlines"), "the watch saw nothing"
        secrets = [ODD_PASSWORD, json.dumps(ODD_PASSWORD)[1:-1], repr(ODD_PASSWORD)[1:-1], *broker.passwords.values()]
        # Read here, not searched for there, where sudo would log what is searched for.
        logs = "find /var/log /etc /run/systemd -type f ! -path '*/journal/*' -exec cat {} +; journalctl --no-pager"
        text = b64decode(broker.host.check_output(f"(cat /root/cmdlines; {logs}) | base64 -w0")).decode(
            errors="replace"
        )
        assert len(text) > 10_000
        for secret in [*secrets, *hashes]:
            assert secret not in run.stdout
            assert secret not in text

    assert changes(converge("--diff")) == {1}
    for broker in brokers:
        broker.connect().close()
        with pytest.raises(AccessRefused):
            broker.connect(password=ODD_PASSWORD)


def test_secrets_are_for_their_owner_only(broker: Broker) -> None:
    secrets = PROJECT / ".lab" / f"fleet-{SCENARIO.name}" / "secrets"
    assert secrets.stat().st_mode & 0o077 == 0
    for file in USERS.values():
        path = secrets / f"rabbitmq_{file}"
        assert path.stat().st_mode & 0o077 == 0
        assert re.fullmatch(r"[A-Za-z0-9]{32}", path.read_text().strip())
    assert len(set(broker.passwords.values())) == len(USERS)


def test_what_was_changed_by_hand_is_put_right(brokers: list[Broker]) -> None:
    for broker in brokers:
        broker.ctl("set_permissions", "-p", "/", "shop", ".*", ".*", ".*")
        broker.ctl("set_permissions", "-p", "shop", "shop", ".*", ".*", ".*")
        broker.ctl("clear_vhost_limits", "-p", "shop")
        broker.ctl("add_user", "guest", "guest")
        broker.ctl("add_user", "somebody", "else")
    assert changes(converge("--diff", "--check")) == {1}
    for broker in brokers:
        assert "guest" in broker.ctl("list_users"), "a check changed something"
    assert changes(converge("--diff")) == {1}
    for broker in brokers:
        users = {line.split()[0] for line in broker.ctl("list_users").splitlines()}
        assert users >= {"somebody", *USERS}
        assert "guest" not in users
        with pytest.raises(NotAllowed):
            broker.connect(vhost="/")
        with broker.connect() as connection, pytest.raises(AccessRefused):
            connection.default_channel.queue_declare("another")
    assert changes(converge("--diff")) == {0}
    for broker in brokers:
        broker.ctl("delete_user", "somebody")


def test_limits_change_while_the_broker_runs(brokers: list[Broker]) -> None:
    pids = [broker.pid() for broker in brokers]
    values = {
        "rabbitmq_consumer_timeout": 7_200_000,
        "rabbitmq_vm_memory_high_watermark": "600MB",
        "rabbitmq_disk_free_limit": "123MB",
    }
    assert changes(converge("--diff", **values)) == {2}  # the file, and the commands
    for broker in brokers:
        assert broker.ctl("eval", "application:get_env(rabbit, consumer_timeout).") == "{ok,7200000}"
        assert broker.ctl("eval", "vm_memory_monitor:get_memory_limit().") == "600000000"
        assert broker.ctl("eval", "rabbit_disk_monitor:get_disk_free_limit().") == "123000000"
    assert changes(converge("--diff")) == {2}
    for broker in brokers:
        assert broker.ctl("eval", "application:get_env(rabbit, consumer_timeout).") == "{ok,1800000}"
        assert broker.ctl("eval", "rabbit_disk_monitor:get_disk_free_limit().") == "1000000000"
    assert [broker.pid() for broker in brokers] == pids, "a broker was restarted"


def test_a_plugin_disabled_by_hand_comes_back_without_a_restart(brokers: list[Broker]) -> None:
    pids = [broker.pid() for broker in brokers]
    for broker in brokers:
        broker.host.check_output("rabbitmq-plugins disable rabbitmq_prometheus")
        assert "127.0.0.1:15692" not in broker.host.check_output("ss -tlnH")
    assert changes(converge("--diff")) == {2}
    for broker in brokers:
        test_prometheus_answers_on_the_host(broker)
    assert changes(converge("--diff")) == {0}
    assert [broker.pid() for broker in brokers] == pids


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"rabbitmq_listen_addresses": ["10.255.255.1"]}, "10.255.255.1 can't be listened on here"),
        ({"rabbitmq_management_listen_address": "everywhere"}, "management.tcp.ip invalid"),
        ({"rabbitmq_port": 99999999}, "99999999 is no port"),
        ({"rabbitmq_vm_memory_high_watermark": "lots"}, "supported formats|is no size"),
        ({"rabbitmq_disk_free_limit": "1QB"}, "supported formats|is no size"),
        ({"rabbitmq_node_name": "rabbit@other"}, "data of rabbit@localhost, which rabbit@other would not see"),
    ],
)
def test_a_bad_configuration_is_refused(brokers: list[Broker], variables: dict[str, Any], reason: str) -> None:
    files = f"{CONFIG} /etc/rabbitmq/conf.d/50-limits.conf /etc/rabbitmq/rabbitmq-env.conf"

    def state() -> list[tuple[str, str]]:
        return [(broker.host.check_output(f"sha256sum {files}"), broker.pid()) for broker in brokers]

    before = state()
    refused = failures(converge("--diff", **variables))
    assert state() == before
    for broker in brokers:
        assert re.search(reason, refused[broker.host.backend.host])
        broker.connect().close()


def test_the_broker_may_open_many_files(broker: Broker) -> None:
    limit = broker.host.check_output("systemctl show --property LimitNOFILE --value rabbitmq-server")
    assert int(limit) == 65536


def test_it_is_sandboxed(broker: Broker) -> None:
    assert_sandboxed(broker.host, "rabbitmq-server", "epmd")


def test_its_data_are_not_filed_under_the_hosts_name(broker: Broker) -> None:
    data = broker.host.check_output("ls /var/lib/rabbitmq/mnesia")
    assert "rabbit@localhost" in data
    assert broker.host.check_output("hostname").strip() not in data


def test_what_the_brokers_user_leaves_in_its_home_does_not_run_as_root(brokers: list[Broker]) -> None:
    home = "/var/lib/rabbitmq"
    code = f'os:cmd("id -un >>{home}/ran").'
    write = f"printf %s {shlex.quote(code)} >{home}/.erlang"
    for broker in brokers:
        broker.host.check_output(f"runuser -u rabbitmq -- sh -c {shlex.quote(write)}")
    assert changes(converge()) == {0}
    # RabbitMQ 4 reads no such file; 3.10 does.
    ran = {user for broker in brokers for user in broker.host.run(f"cat {home}/ran").stdout.split()}
    for broker in brokers:
        broker.host.check_output(f"rm -f {home}/.erlang {home}/ran")
    assert ran == {"rabbitmq"}


def test_what_the_package_gives_to_its_user_is_roots_once_it_starts(broker: Broker) -> None:
    kept = ("/etc/rabbitmq", "/etc/rabbitmq/enabled_plugins")
    broker.host.check_output("dpkg-reconfigure -f noninteractive rabbitmq-server")
    broker.host.check_output("systemctl restart rabbitmq-server")
    assert [broker.host.file(path).user for path in kept] == ["root"] * len(kept)


def test_a_run_that_ended_before_the_broker_was_started_can_be_run_again(brokers: list[Broker]) -> None:
    for broker in brokers:
        broker.host.check_output("systemctl stop rabbitmq-server")
    run = converge(rabbitmq_disk_free_limit="123MB")
    assert run.returncode == 0, run.stdout[-3000:]
    for broker in brokers:
        assert broker.ctl("eval", "rabbit_disk_monitor:get_disk_free_limit().") == "123000000"
    assert changes(converge()) == {2}


def test_a_backup_brings_back_what_was_defined(broker: Broker) -> None:
    broker.ctl("add_vhost", "guests")
    broker.ctl("add_user", "guest-of-the-house", "secret")
    backup = new_backup(broker.host)
    broker.ctl("delete_vhost", "guests")
    broker.ctl("delete_user", "guest-of-the-house")
    broker.host.check_output("celery-fleet-broker-backup restore %s", backup)
    assert "guests" in broker.ctl("list_vhosts", "name")
    assert "guest-of-the-house" in broker.ctl("list_users")
    broker.ctl("delete_vhost", "guests")
    broker.ctl("delete_user", "guest-of-the-house")
    pid = broker.pid()
    refused = broker.host.run("celery-fleet-broker-backup restore /etc/hostname")
    assert (refused.rc, broker.pid()) == (1, pid)
    assert "has no definitions of RabbitMQ" in refused.stderr
