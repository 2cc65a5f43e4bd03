"""The broker as its users meet it: what it lets in, what it refuses, what it keeps."""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import testinfra
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, ResponseError
from redis.retry import Retry
from shared.deployed import wait_until
from shared.lab import reboot
from shared.playbook import changes, converge, failures
from shared.service import assert_sandboxed, kill, main_pid, new_backup

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
PROJECT = SCENARIO.parents[1]
USERS = {
    "shop": "application",
    "shop-admin": "administrator",
    "shop-flower": "flower",
    "shop-monitor": "monitoring",
    "shop-reader": "reader",
    "shop-replay": "replay",
}
ODD_PASSWORD = '%h p@ss/w:ö\'rd \\ "#" 100%'
# By itself, a client takes a refused password for a broken connection, and tries again, ever later.
CLIENT: dict[str, Any] = {"socket_timeout": 120, "retry": Retry(NoBackoff(), 0)}
# What a worker does before it runs a signed message: only the first one gets OK.
RECORD = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', 60) or redis.call('GET', KEYS[1])"
UNUSED = "by.hand"  # a queue that no worker consumes


@dataclass(frozen=True)
class Server:
    """One of the scenario's servers.

    Attributes:
        host: its testinfra connection.
        flavor: redis or valkey.
        prefix: of the application's keys.
        passwords: by users' names.
    """

    host: Any
    address: str
    flavor: str
    prefix: str
    passwords: dict[str, str]

    def url(self, database: int = 0, user: str = "shop") -> str:
        return f"redis://{user}:{quote(self.passwords[user], safe='')}@{self.address}:6379/{database}"

    def login(self, user: str = "shop", password: str | None = None, database: int = 0) -> Redis:
        """Return a client that logs in with its first command."""
        secret = self.passwords[user] if password is None else password
        return Redis(self.address, username=user, password=secret, db=database, **CLIENT)

    def admin(self, database: int = 0) -> Redis:
        return self.login("shop-admin", database=database)

    def queue(self, client: Redis, name: str = UNUSED) -> list[Any]:
        messages: list[Any] = client.lrange(self.prefix + name, 0, -1)
        return messages

    def fill(self, *messages: str) -> None:
        """Put messages into the queue that no worker consumes."""
        self.login().lpush(self.prefix + UNUSED, *messages)

    def denied(self) -> list[Any]:
        """Return what the server refused to anyone since it was asked to forget."""
        entries: list[Any] = self.admin().acl_log()
        return entries

    def pid(self) -> str:
        return main_pid(self.host, f"{self.flavor}-server")

    @property
    def state(self) -> str:
        """Return the directory of what root keeps of it."""
        return f"/var/lib/celery-fleet/{self.flavor}"

    def runs(self) -> bool:
        return bool(self.host.service(f"{self.flavor}-server").is_running)

    def sums(self) -> str:
        """Return a checksum of each file of the configuration."""
        return str(
            self.host.check_output(f"sha256sum /etc/{self.flavor}/{self.flavor}.conf /etc/{self.flavor}/users.acl")
        )

    def files(self) -> str:
        """Return the names of its data's files."""
        return str(self.host.check_output(f"find /var/lib/{self.flavor}"))


def server_on(host: Any) -> Server:
    variables = host.ansible.get_variables()
    secrets = PROJECT / ".lab" / f"fleet-{SCENARIO.name}" / "secrets"
    passwords = {user: (secrets / f"redis_{file}").read_text().strip() for user, file in USERS.items()}
    return Server(
        host,
        variables["ansible_host"],
        variables.get("redis_flavor", "redis"),
        variables.get("redis_key_prefix", ""),
        passwords,
    )


@pytest.fixture(scope="module")
def server(host: Any) -> Server:
    return server_on(host)


@pytest.fixture(scope="module")
def servers() -> list[Server]:
    """Return all of them: the playbook takes hardly longer for all than for one."""
    return [server_on(host) for host in testinfra.get_hosts(["ansible://all"], sudo=True)]


@contextmanager
def filled(server: Server) -> Iterator[list[Any]]:
    """Put messages into a queue that no worker consumes, until the end of the block."""
    server.admin().delete(server.prefix + UNUSED)
    server.fill("one", "two")
    # As kombu gives a message back.
    with server.login().pipeline(transaction=True) as pipeline:
        pipeline.lpush(server.prefix + UNUSED, "three")
        pipeline.execute()
    yield server.queue(server.admin())
    server.admin().delete(server.prefix + UNUSED)


@pytest.fixture
def messages(server: Server) -> Iterator[list[Any]]:
    """Return what is in a queue that no worker consumes."""
    with filled(server) as found:
        yield found


@pytest.fixture
def all_messages(servers: list[Server]) -> Iterator[list[tuple[Server, list[Any]]]]:
    """Return what is in the queue of each server that no worker consumes."""
    with ExitStack() as stack:
        yield [(server, stack.enter_context(filled(server))) for server in servers]


def probe_environment(server: Server) -> dict[str, str]:
    paths = [f"{PROJECT}/molecule", f"{PROJECT}/.ansible/collections", os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "BROKER_URL": server.url(),
        "FLOWER_URL": server.url(user="shop-flower"),
        "RESULT_URL": server.url(database=1),
        "KEY_PREFIX": server.prefix,
        "PYTHONPATH": ":".join(filter(None, paths)),
    }


@contextmanager
def worker(server: Server, log: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a worker with the application's user until the end of the block."""
    arguments = ["-n", "probe@%h", "-c", "2", "-Q", "shop.default,customers,notices", "-l", "INFO"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "shared.redis_probe.app", "worker", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env=probe_environment(server) | environment,
            start_new_session=True,
        )
        try:
            wait_until(lambda: " ready." in log.read_text(), "the worker is not ready")
            yield process
        finally:
            process.terminate()
            process.wait(timeout=600)


def run_probe(server: Server, *arguments: str) -> str:
    """Run Python with the application; the program must succeed."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=probe_environment(server),
        timeout=1800,
    ).stdout


def test_it_listens_only_where_told(server: Server) -> None:
    sockets = {line.split()[3] for line in server.host.check_output("ss -tlnH").splitlines()}
    expected = {f"{server.address}:6379", f"{server.address}:9121", "127.0.0.1:9122"}
    assert sockets - {"0.0.0.0:22", "[::]:22"} == expected


def test_it_is_sandboxed(server: Server) -> None:
    assert_sandboxed(server.host, f"{server.flavor}-server", "prometheus-redis-exporter")


def exported(server: Server, path: str, password: str = "") -> tuple[int, str]:
    """Return the status and body of a page at the address of the exporter."""
    request = urllib.request.Request(f"http://{server.address}:9121{path}")
    if password:
        token = b64encode(f"prometheus:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def metrics_password() -> str:
    return (PROJECT / ".lab" / f"fleet-{SCENARIO.name}" / "secrets" / "redis_exporter").read_text().strip()


def test_metrics_are_for_who_has_the_password(server: Server, metrics_password: str) -> None:
    for password in ("", "wrong"):
        status, body = exported(server, "/metrics", password)
        assert (status, "redis_" in body) == (401, False)
    status, body = exported(server, "/metrics", metrics_password)
    assert status == 200
    assert "redis_up 1" in body.splitlines()
    assert 'key="depth:customers"' in body


@pytest.mark.parametrize("path", ["/scrape", "//scrape", "/%73crape", "/metrics/../scrape", "/Scrape", "/metrics"])
def test_the_exporter_connects_to_no_other_server(server: Server, metrics_password: str, path: str) -> None:
    port = 7777
    listen = f"import socket; s = socket.create_server(('{server.address}', {port})); s.accept(); print('called')"
    server.host.check_output("systemd-run --unit=probe-lure python3 -c %s", listen)
    wait_until(lambda: server.host.run(f"ss -tlnH | grep :{port}").stdout, "nothing listens")
    try:
        status, body = exported(server, f"{path}?target=redis://{server.address}:{port}", metrics_password)
        # The one page that is there has no target.
        assert status == (200 if path == "/metrics" else 404)
        assert path != "/metrics" or "redis_up 1" in body.splitlines()
        assert server.host.check_output("systemctl is-active probe-lure").strip() == "active"
    finally:
        server.host.check_output("systemctl stop probe-lure")


@pytest.mark.parametrize("ordered", ["1", "0"])
def test_all_that_celery_does_works(server: Server, tmp_path: Path, ordered: str) -> None:
    server.admin().acl_log_reset()
    with worker(server, tmp_path / "log", CHORD_ORDERED=ordered):
        lines = [json.loads(line) for line in run_probe(server, "-m", "shared.redis_probe.features").splitlines()]
    assert len(lines) > 15
    assert {line["feature"]: line["result"] for line in lines} == {line["feature"]: line["expected"] for line in lines}
    assert server.denied() == []
    assert "NoPermissionError" not in (tmp_path / "log").read_text()


def test_all_that_flower_does_works(server: Server, tmp_path: Path) -> None:
    server.admin().acl_log_reset()
    with worker(server, tmp_path / "log"):
        lines = [json.loads(line) for line in run_probe(server, "-m", "shared.redis_probe.flower").splitlines()]
    assert len(lines) > 3
    assert {line["feature"]: line["result"] for line in lines} == {line["feature"]: line["expected"] for line in lines}
    assert server.denied() == []


def test_what_a_killed_worker_had_goes_to_another(server: Server, tmp_path: Path) -> None:
    server.admin().acl_log_reset()
    send = "from shared.redis_probe.app import add; print(add.apply_async((1, 2), countdown=8).id)"
    with worker(server, tmp_path / "killed") as process:
        task = run_probe(server, "-c", send).strip()
        wait_until(lambda: task in (tmp_path / "killed").read_text(), "the worker did not receive the task")
        os.killpg(process.pid, 9)
    assert server.admin().hlen(f"{server.prefix}unacked") == 1
    with worker(server, tmp_path / "other"):
        read = f"from shared.redis_probe.app import app; print(app.AsyncResult({task!r}).get(timeout=600))"
        assert run_probe(server, "-c", read).strip() == "3"
        wait_until(lambda: server.admin().hlen(f"{server.prefix}unacked") == 0, "the task is not acknowledged")
    assert server.denied() == []


REFUSED = {
    "ACL": ["ACL", "LIST"],
    "BGREWRITEAOF": ["BGREWRITEAOF"],
    "CLIENT KILL": ["CLIENT", "KILL", "TYPE", "normal"],
    "CLIENT LIST": ["CLIENT", "LIST"],
    "CONFIG GET": ["CONFIG", "GET", "*"],
    "CONFIG SET": ["CONFIG", "SET", "maxmemory", "0"],
    "EVAL": ["EVAL", "return 1", "0"],
    "FLUSHALL": ["FLUSHALL"],
    "FLUSHDB": ["FLUSHDB"],
    "FUNCTION": ["FUNCTION", "FLUSH"],
    "INFO": ["INFO"],
    "KEYS": ["KEYS", "*"],
    "MIGRATE": ["MIGRATE", "10.0.0.1", "6379", "", "0", "1000"],
    "MONITOR": ["MONITOR"],
    "REPLICAOF": ["REPLICAOF", "10.0.0.1", "6379"],
    "SAVE": ["SAVE"],
    "SCAN": ["SCAN", "0"],
    "SCRIPT FLUSH": ["SCRIPT", "FLUSH"],
    "SHUTDOWN": ["SHUTDOWN", "NOSAVE"],
    "SWAPDB": ["SWAPDB", "0", "1"],
    "another queue": ["LPUSH", "{prefix}another", "x"],
    "a queue of a similar name": ["LPUSH", "{prefix}shopXdefault", "x"],
    "a queue of a longer name": ["LPUSH", "{prefix}customers2", "x"],
    "a key without the prefix of another": ["GET", "blog:unacked"],
    "publishing elsewhere": ["PUBLISH", "news", "x"],
    "remote control of another database": ["PUBLISH", "{prefix}/1.celery.pidbox", "x"],
    "listening to everything": ["PSUBSCRIBE", "*"],
    "forgetting a message that has run": ["DEL", "{prefix}replay:1"],
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_application_may_not(server: Server, what: str) -> None:
    with pytest.raises(NoPermissionError):
        server.login().execute_command(*(word.format(prefix=server.prefix) for word in REFUSED[what]))


def test_nobody_may_debug(server: Server) -> None:
    for user in ("shop", "shop-admin"):
        with pytest.raises(ResponseError, match=r"DEBUG command not allowed|no permissions"):
            server.login(user).execute_command("DEBUG", "SLEEP", "0")


def test_a_script_may_no_more_than_who_sends_it(server: Server) -> None:
    client = server.login()
    script = client.script_load("return redis.call('KEYS', '*')")
    with pytest.raises(ResponseError, match=r"ACL failure|can't run this command|no permissions|NOPERM"):
        client.evalsha(script, 0)


def test_applications_that_share_a_server_do_not_meet(server: Server) -> None:
    if not server.prefix:
        pytest.skip("one application has this server to itself")
    blog = server.login("blog", "of the blog")
    assert blog.lpush("blog:celery", "x") == 1
    assert blog.rpop("blog:celery") == b"x"
    for key in ("shop:customers", "shop:unacked", "customers", "celery"):
        with pytest.raises(NoPermissionError):
            blog.llen(key)
    with pytest.raises(NoPermissionError):
        blog.publish("shop:/0.celery.pidbox", "x")
    with pytest.raises(NoPermissionError):
        server.login().llen("blog:celery")


def test_monitoring_sees_and_changes_nothing(server: Server, messages: list[Any]) -> None:
    monitor = server.login("shop-monitor")
    assert monitor.llen(server.prefix + UNUSED) == len(messages)
    assert monitor.type(server.prefix + UNUSED) == b"list"
    assert monitor.info()["maxmemory"] == 64 << 20
    assert monitor.dbsize() >= 1
    assert any(client["user"] == "shop-monitor" for client in monitor.client_list())
    monitor.slowlog_get()
    for words in (["LRANGE", UNUSED, 0, -1], ["GET", "x"], ["DEL", UNUSED], ["CONFIG", "GET", "*"], ["SUBSCRIBE", "x"]):
        with pytest.raises(NoPermissionError):
            monitor.execute_command(*words)
    assert server.queue(server.admin()) == messages


FLOWER_REFUSED = {
    "send a task": ["LPUSH", "{prefix}by.hand", "x"],
    "take a task": ["BRPOP", "{prefix}by.hand", "1"],
    "read a task": ["LRANGE", "{prefix}by.hand", "0", "-1"],
    "drop a queue": ["DEL", "{prefix}by.hand"],
    "rename a queue": ["RENAME", "{prefix}by.hand", "{prefix}x.reply.celery.pidbox"],
    "change where tasks go": ["SADD", "{prefix}_kombu.binding.shop", "x"],
    "read what a worker holds": ["HGET", "{prefix}unacked", "x"],
    "read a result": ["GET", "{prefix}celery-task-meta-x"],
    "publish elsewhere": ["PUBLISH", "news", "x"],
}


@pytest.mark.parametrize("what", FLOWER_REFUSED)
def test_flower_may_not(server: Server, messages: list[Any], what: str) -> None:
    with pytest.raises(NoPermissionError):
        flower = server.login("shop-flower")
        flower.execute_command(*(word.format(prefix=server.prefix) for word in FLOWER_REFUSED[what]))
    assert server.queue(server.admin()) == messages


def test_the_reader_reads_and_changes_nothing(server: Server, messages: list[Any]) -> None:
    reader = server.login("shop-reader")
    assert server.queue(reader) == messages
    for words in (["LPUSH", UNUSED, "x"], ["DEL", UNUSED], ["KEYS", "*"], ["CONFIG", "GET", "*"], ["ACL", "LIST"]):
        with pytest.raises(NoPermissionError):
            reader.execute_command(*words)
    assert server.queue(server.admin()) == messages


def test_the_replay_cache_records_a_message_once(server: Server) -> None:
    server.admin().acl_log_reset()
    replay, key = server.login("shop-replay"), f"{server.prefix}replay:1"
    assert [replay.eval(RECORD, 1, key, worker) for worker in ("one", "two")] == [b"OK", b"one"]
    assert replay.exists(key)
    assert replay.delete(key) == 1
    assert server.denied() == []


@pytest.mark.parametrize(
    "words",
    [
        ["GET", "{prefix}unacked"],
        ["SET", "{prefix}replay", "x"],
        ["LPUSH", "{prefix}by.hand", "x"],
        ["KEYS", "{prefix}replay:*"],
        ["SCAN", "0"],
        ["EXPIRE", "{prefix}unacked", "1"],
        ["PUBLISH", "news", "x"],
        ["FLUSHALL"],
    ],
    ids=" ".join,
)
def test_the_user_of_the_replay_cache_may_not(server: Server, words: list[str]) -> None:
    with pytest.raises(NoPermissionError):
        server.login("shop-replay").execute_command(*(word.format(prefix=server.prefix) for word in words))


def test_a_script_of_the_replay_cache_reaches_no_other_key(server: Server) -> None:
    with pytest.raises(ResponseError, match=r"ACL failure|can't access|no permissions|NOPERM"):
        server.login("shop-replay").eval("return redis.call('SET', ARGV[1], '')", 0, f"{server.prefix}{UNUSED}")


@pytest.mark.parametrize(
    ("user", "password"),
    [("shop", "wrong"), ("shop", ""), ("default", ""), ("default", "x"), ("nobody", "x"), ("shop-admin", "wrong")],
)
def test_nobody_logs_in_with_a_wrong_password(server: Server, user: str, password: str) -> None:
    with pytest.raises(AuthenticationError):
        server.login(user, password).ping()


def test_nobody_gets_in_without_a_password(server: Server) -> None:
    with pytest.raises(AuthenticationError):
        Redis(server.address, **CLIENT).ping()


@contextmanager
def watched(server: Server) -> Iterator[str]:
    """Note in files the command lines on a host, and what the server is told there; yield what shows the files."""
    path, log = f"/usr/local/bin/{server.flavor}-cli", "/root/commands"
    program = f'#!/bin/sh\necho "$0 $*" >> {log}\nexec /usr/bin/{server.flavor}-cli "$@"\n'
    server.host.check_output("printf %s %s > %s && chmod 755 %s", "%s", program, path, path)
    watch = "while :; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; sleep 0.05; done > /root/cmdlines"
    server.host.check_output("systemd-run --unit=probe-watch sh -c %s", watch)
    yield f"cat /root/cmdlines {log}"
    server.host.check_output("systemctl stop probe-watch; rm %s %s", path, log)


def test_changed_passwords_are_the_only_ones_and_show_nowhere(
    servers: list[Server], all_messages: list[tuple[Server, list[Any]]]
) -> None:
    pids = [server.pid() for server in servers]
    new = {f"redis_{kind}_password": f"{kind} {ODD_PASSWORD}" for kind in ("application", "administrator")}
    try:
        with ExitStack() as stack:
            commands = [stack.enter_context(watched(server)) for server in servers]
            run = converge("--diff", "-vvv", **new)
            assert changes(run) == {2}  # the file, and the server's users
            for server, messages in all_messages:
                assert server.login("shop", new["redis_application_password"]).ping()
                assert server.login("shop-admin", new["redis_administrator_password"]).ping()
                for user in ("shop", "shop-admin"):
                    with pytest.raises(AuthenticationError):
                        server.login(user).ping()
                assert server.queue(server.login("shop-admin", new["redis_administrator_password"])) == messages
            assert changes(converge("--diff", **new)) == {0}

            for server, shows in zip(servers, commands, strict=True):
                hashes = re.findall(r"#([0-9a-f]{64})", server.host.check_output(f"cat /etc/{server.flavor}/users.acl"))
                assert len(hashes) >= len(USERS)
                assert "ACL LIST" in server.host.check_output(shows), "no command was noted"
                secrets = [
                    ODD_PASSWORD,
                    json.dumps(ODD_PASSWORD)[1:-1],
                    repr(ODD_PASSWORD)[1:-1],
                    *server.passwords.values(),
                ]
                # Read here, not searched for there, where sudo would log what is searched for.
                logs = "find /var/log /run/systemd -type f ! -path '*/journal/*' -exec cat {} +; journalctl --no-pager"
                places = "/etc /var/lib /usr/local /run"
                readable = f"find {places} -type f -perm -004 ! -path '*/journal/*' -exec cat {{}} + 2>/dev/null"
                shown = server.host.check_output(f"({shows}; {logs}; {readable}) | base64 -w0")
                text = b64decode(shown).decode(errors="replace")
                assert len(text) > 10_000
                for secret in [*secrets, *hashes]:
                    assert secret not in run.stdout
                    assert secret not in text
    finally:
        back = converge("--diff")

    assert changes(back) == {2}
    for (server, messages), pid in zip(all_messages, pids, strict=True):
        assert server.login().ping()
        assert server.pid() == pid, "the server was restarted"
        assert server.queue(server.admin()) == messages


def test_secrets_are_for_their_owner_only(server: Server) -> None:
    secrets = PROJECT / ".lab" / f"fleet-{SCENARIO.name}" / "secrets"
    for file in USERS.values():
        path = secrets / f"redis_{file}"
        assert path.stat().st_mode & 0o077 == 0
        assert re.fullmatch(r"[A-Za-z0-9]{32}", path.read_text().strip())
    assert len(set(server.passwords.values())) == len(USERS)
    modes = server.host.check_output(
        f"stat -c '%n %a %U %G' /etc/{server.flavor} /etc/{server.flavor}/users.acl {server.state}"
    )
    assert [line.split() for line in modes.splitlines()] == [
        [f"/etc/{server.flavor}", "750", "root", server.flavor],
        [f"/etc/{server.flavor}/users.acl", "640", "root", server.flavor],
        [server.state, "700", "root", "root"],
    ]


def test_the_servers_user_can_write_no_file_that_root_reads(server: Server) -> None:
    attempt = f"runuser -u {server.flavor} -- ln -sf /etc/shadow"
    for path in (f"/etc/{server.flavor}/users.acl", f"{server.state}/administrator.password"):
        assert "Permission denied" in server.host.run(f"{attempt} {path}").stderr


def test_root_of_the_host_logs_in_without_knowing_the_password(server: Server) -> None:
    cli = f"{server.flavor}-cli -s /run/{server.flavor}/{server.flavor}.sock --user shop-admin"
    command = f"REDISCLI_AUTH=$(cat {server.state}/administrator.password) {cli} ACL WHOAMI"
    assert server.host.check_output(command).strip() == "shop-admin"


def test_what_was_changed_by_hand_is_put_right(servers: list[Server]) -> None:
    for server in servers:
        server.admin().execute_command("ACL", "SETUSER", "shop", "+@all", "~*")
        server.admin().execute_command("ACL", "SETUSER", "intruder", "on", "nopass", "+@all", "~*")
    assert changes(converge("--diff", "--check")) == {1}
    for server in servers:
        assert server.login().keys() is not None, "a check changed something"
    assert changes(converge("--diff")) == {1}
    for server in servers:
        with pytest.raises(NoPermissionError):
            server.login().keys()
        with pytest.raises(AuthenticationError):
            server.login("intruder", "x").ping()
    assert changes(converge("--diff")) == {0}


def test_a_full_server_refuses_new_tasks_and_keeps_the_others(server: Server, messages: list[Any]) -> None:
    sent = 0
    with pytest.raises(OutOfMemoryError):
        for sent in range(200):
            server.fill(f"{sent:03}" + "x" * 1_000_000)
    assert sent > 20
    kept = server.queue(server.admin())
    assert [message[:3] for message in reversed(kept)] == [
        *(message[:3] for message in reversed(messages)),
        *(f"{number:03}".encode() for number in range(sent)),
    ]
    # What makes room is not refused.
    assert server.login().rpop(server.prefix + UNUSED) == messages[-1]


def test_tasks_outlive_a_restart_of_the_host(all_messages: list[tuple[Server, list[Any]]]) -> None:
    for server, messages in all_messages:
        reboot(server.host, server.host.backend.host)
        wait_until(server.runs, "the server is not back")
        log = f"tail -60 /var/log/{server.flavor}/{server.flavor}-server.log; ls -l /var/lib/{server.flavor}/*"
        assert server.queue(server.admin()) == messages, server.host.check_output(log)
    assert changes(converge("--diff")) == {0}


def test_tasks_outlive_a_kill(server: Server, messages: list[Any]) -> None:
    # Where the last fsync still runs, Redis answers first and writes within two seconds (flushAppendOnlyFile in aof.c).
    wait_until(
        lambda: server.admin().info("persistence")["aof_buffer_length"] == 0,
        "it does not write its append-only file",
    )
    kill(server.host, f"{server.flavor}-server")
    wait_until(lambda: server.host.run("ss -tlnH sport = :6379").stdout, "it does not listen again")
    assert server.queue(server.admin()) == messages


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"redis_settings": {"no-such-directive": 1}}, "no-such-directive 1"),
        (
            {
                "redis_flavor": "keydb",
                "redis_maxmemory": "99gb",
                "redis_maxmemory_policy": "volatile-lru",
                "redis_appendfsync": 1,
            },
            "keydb is neither.*volatile-lru a full Redis would drop.*99gb is.*but the host has.*1 is none of everysec",
        ),
    ],
)
def test_a_bad_configuration_is_refused(
    servers: list[Server], all_messages: list[tuple[Server, list[Any]]], variables: dict[str, Any], reason: str
) -> None:
    before = [(server.sums(), server.pid(), server.files()) for server in servers]
    refused = failures(converge("--diff", **variables))
    assert [(server.sums(), server.pid(), server.files()) for server in servers] == before
    for server, messages in all_messages:
        assert re.search(reason, refused[server.host.backend.host])
        assert server.host.check_output(f"pgrep -c {server.flavor}-server") == "1", "the check is still running"
        assert server.queue(server.admin()) == messages


@pytest.mark.parametrize(
    ("directive", "reason"),
    [
        ("hz often", "hz often"),
        ("timeout -1", "timeout -1"),
        ("bind 10.255.255.1", "10.255.255.1 can't be listened on here"),
        ("port 99999999", "port 99999999"),
    ],
)
def test_what_the_servers_own_parser_refuses_is_seen_before(server: Server, directive: str, reason: str) -> None:
    config = f"/etc/{server.flavor}/{server.flavor}.conf"
    without = f"/^{directive.partition(' ')[0]} /d"
    server.host.check_output("sed %s %s > /root/candidate && echo %s >> /root/candidate", without, config, directive)
    run = server.host.run(f"redis-check-config {server.flavor} config /root/candidate")
    server.host.check_output("rm /root/candidate")
    assert run.rc != 0
    assert reason in run.stdout + run.stderr
    assert server.host.run(f"redis-check-config {server.flavor} config {config}").rc == 0


def test_a_setting_of_ones_own_is_in_force(servers: list[Server], all_messages: list[tuple[Server, list[Any]]]) -> None:
    assert changes(converge("--diff", redis_settings={"tcp-keepalive": 60, "activedefrag": False})) == {2}
    for server in servers:
        assert server.admin().config_get("tcp-keepalive") == {"tcp-keepalive": "60"}
    assert changes(converge("--diff")) == {2}
    for server, messages in all_messages:
        assert server.admin().config_get("tcp-keepalive") == {"tcp-keepalive": "300"}
        assert server.queue(server.admin()) == messages


def test_data_of_a_server_without_an_append_only_file_are_not_given_up(server: Server) -> None:
    files = "mkdir -p /root/dump && touch /root/dump/dump.rdb && printf 'dir /root/dump\\n' > /root/dump.conf"
    server.host.check_output(files)
    run = server.host.run(f"redis-check-config {server.flavor} config /root/dump.conf")
    assert run.rc == 1
    assert "/root/dump has a dump and no append-only file" in run.stderr


def test_limits_and_persistence_are_as_described(server: Server) -> None:
    said: dict[str, str] = server.admin().config_get("*")  # type: ignore[assignment]
    expected = {
        "maxmemory": str(64 << 20),
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxclients": "10000",
        "tcp-backlog": "511",
        "disable-thp": "yes",
        "protected-mode": "yes",
    }
    assert {name: said[name] for name in expected} == expected
    limits = server.host.check_output(f"cat /proc/{server.pid()}/limits")
    assert int(re.findall(r"Max open files +(\d+)", limits)[0]) > 10000
    assert "vm.overcommit_memory = 1" in server.host.check_output("cat /etc/sysctl.d/20-celery-fleet-redis.conf")


def test_a_backup_brings_back_the_tasks_that_were_queued(server: Server, messages: list[Any]) -> None:
    backup = new_backup(server.host)
    server.fill("after the backup")
    server.host.check_output("celery-fleet-broker-backup restore %s", backup)
    assert server.queue(server.admin()) == messages
    kill(server.host, f"{server.flavor}-server")
    wait_until(server.runs, "the server is not running")
    assert server.queue(server.admin()) == messages
    assert not server.denied()


def test_what_is_no_backup_is_not_restored(server: Server, messages: list[Any]) -> None:
    pid = server.pid()
    server.host.check_output("echo nothing > /run/nothing.rdb")
    refused = server.host.run("celery-fleet-broker-backup restore /run/nothing.rdb")
    assert refused.rc == 1
    assert "check-rdb failed" in refused.stderr
    assert (server.pid(), server.queue(server.admin())) == (pid, messages)


def test_no_backup_is_made_that_would_fill_the_disk(server: Server) -> None:
    config = "/etc/celery-fleet/broker-backup/config.json"
    # A file system of 64 MB.
    server.host.check_output("sed --in-place=.before 's:/var/backups/celery-fleet:/dev/shm:' %s", config)
    server.admin().setrange("large", 35_000_000, "x")
    try:
        refused = server.host.run("celery-fleet-broker-backup backup")
        assert refused.rc == 1
        assert "less than twice the server's" in refused.stderr
        assert not server.host.check_output("ls /dev/shm")
    finally:
        server.host.check_output("mv %s.before %s", config, config)
        server.admin().delete("large")
