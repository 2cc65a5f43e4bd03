"""The page shows a queue and its length to who knows the password, changes nothing, and shows nobody else anything."""

from __future__ import annotations

import base64
import json
import re
import shlex
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser
from shared.browser import BROWSER_MILLISECONDS, assert_shut_out, chromium
from shared.confidential import assert_nobody_reads
from shared.deployed import wait_until
from shared.lab import reboot
from shared.playbook import converge_host
from shared.service import assert_confined, kill, main_pid

EVERYWHERE = "0.0.0.0"  # noqa: S104
BROKER = "R:127.0.0.1:6379:0"
RESULTS = "R:127.0.0.1:6379:1"
TASKS = 137
REDIS_CA = "/etc/ssl/redis-ca.crt"
CERTIFICATES = f"""
cd /etc/redis
for name in ca other; do
  openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=$name -days 2 -keyout $name.key -out $name.crt
done
openssl req -newkey rsa:2048 -nodes -subj /CN=redis -keyout redis.key -out redis.csr
echo subjectAltName=IP:127.0.0.1 >redis.ext
openssl x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile redis.ext -out redis.crt
chown redis redis.key
cp ca.crt {REDIS_CA}
"""
# Addresses of the pages that are on TLS at the moment, with a certificate that nobody knows.
ON_TLS: set[str] = set()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(autouse=True)
def queue(host: Any) -> None:
    """A queue of known length, and a result in the other database."""
    fill = f"for i = 1, {TASKS} do redis.call('LPUSH', KEYS[1], i) end"
    redis(host, "del parcels")
    redis(host, f"eval {shlex.quote(fill)} 1 parcels")
    redis(host, "-n 1 set celery-task-meta-1 {}")


def redis(host: Any, command: str) -> str:
    """Run a command of Redis as its administrator."""
    return str(host.check_output(f"REDISCLI_AUTH=admin redis-cli --user admin {command}")).strip()


def variable(host: Any, name: str) -> str:
    return str(host.ansible.get_variables()[name])


def site(host: Any) -> str:
    return f"{variable(host, 'ansible_host')}:8081"


def fetch(
    host: Any, path: str, password: str | None = None, data: dict[str, str] | None = None, **headers: str
) -> tuple[int, str]:
    """Return status and body of one of the UI's pages, as a client on another machine gets them."""
    body = urllib.parse.urlencode(data).encode() if data is not None else None
    scheme = "https" if site(host) in ON_TLS else "http"
    request = urllib.request.Request(f"{scheme}://{site(host)}{path}", data=body, headers=headers)  # noqa: S310
    if password is not None:
        token = base64.b64encode(f"redis:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=120, context=ssl._create_unverified_context()) as response:  # noqa: S310, S323
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def execute(host: Any, command: str, **headers: str) -> tuple[int, str]:
    """Run a command of Redis through the UI, as its command line does."""
    return fetch(host, f"/apiv1/exec/{BROKER}", variable(host, "redis_ui_test_password"), {"cmd": command}, **headers)


def shows_the_queue(host: Any) -> bool:
    """Return whether the UI answers and has Redis behind it."""
    status, body = fetch(host, f"/apiv2/key/{BROKER}/parcels", variable(host, "redis_ui_test_password"))
    return status == 200 and json.loads(body)["length"] == TASKS


def sockets(host: Any) -> set[str]:
    """Return the addresses that are listened on, without SSH's and Redis's."""
    addresses = {line.split()[3] for line in host.check_output("ss -Hltn").splitlines()}
    return {local for local in addresses if local.rpartition(":")[2] not in ("22", "6379")}


def test_a_wrong_password_shows_nothing(host: Any, browser: Browser) -> None:
    for password in ("redis", variable(host, "redis_ui_test_password") + "x", ""):
        assert_shut_out(browser, f"http://{site(host)}/", "redis", password, "Redis Commander")
    for path in ("/", "/connections", "/healthcheck", f"/apiv2/keystree/{BROKER}", "/tools/forms/export"):
        assert fetch(host, path)[0] == 401, path


def test_a_queue_and_its_length_are_seen(host: Any, browser: Browser) -> None:
    password = variable(host, "redis_ui_test_password")
    with browser.new_context(http_credentials={"username": "redis", "password": password}) as context:
        page = context.new_page()
        page.set_default_timeout(BROWSER_MILLISECONDS)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"http://{site(host)}/")
        tree = page.locator("#keyTree")
        tree.get_by_text("results (127.0.0.1:6379:1)").wait_for()
        assert "broker (127.0.0.1:6379:0)" in tree.inner_text()
        # The first database is open already.
        queue = tree.get_by_text(f"parcels ({TASKS})")
        queue.click()
        page.locator("#itemData", has_text=f"List ({TASKS} Items)").wait_for()
        assert page.get_by_text("Add New Value").count() == 0
        assert page.get_by_text("Delete Key").count() == 0
        # The other one opens by its arrow.
        tree.locator("li", has_text="results").locator("i.jstree-ocl").first.click()
        tree.get_by_text("celery-task-meta-1").wait_for()
        # Its command line says so, too.
        page.locator("#commandLine").click()
        page.keyboard.type("lpush parcels x\n")
        page.locator("#commandLineOutput", has_text="Command not read-only").wait_for()
        assert not complaints, "the browser refused something"
    assert redis(host, "llen parcels") == str(TASKS)


@pytest.mark.parametrize("command", ["lpush parcels x", "del parcels", "flushall", "select 5", "config get *"])
def test_read_only_refuses_what_changes_something(host: Any, command: str) -> None:
    assert execute(host, command) == (200, '{"data":"ERROR: Command not read-only"}')
    assert execute(host, "llen parcels") == (200, f'{{"data":{TASKS}}}')


def test_read_only_refuses_what_its_pages_no_longer_offer(host: Any) -> None:
    password = variable(host, "redis_ui_test_password")
    value = {"connectionId": BROKER, "key": "parcels", "value": "x", "type": "rpush"}
    assert fetch(host, "/apiv2/list/value", password, value)[0] == 403
    assert fetch(host, "/apiv1/listvalue/", password, value)[0] == 403
    assert fetch(host, f"/apiv2/key/{BROKER}/parcels?action=delete", password, {})[0] == 403
    assert fetch(host, "/tools/import", password, {"connection": BROKER, "data": "SET a b"})[0] == 403
    assert redis(host, "llen parcels") == str(TASKS)


@pytest.mark.parametrize(
    "path", ["/login", "/LOGIN/", "//login", "/x/../%6cogin", "/login/detectDb", f"/logout/{BROKER}"]
)
def test_no_other_server_is_reached(host: Any, path: str) -> None:
    target = {"label": "x", "hostname": "127.0.0.1", "port": "22", "dbIndex": "0"}
    assert fetch(host, path, variable(host, "redis_ui_test_password"), target)[0] == 403
    connections = json.loads(fetch(host, "/connections", variable(host, "redis_ui_test_password"))[1])["connections"]
    assert {connection["conId"] for connection in connections} == {BROKER, RESULTS}


def test_a_page_of_another_site_can_do_nothing(host: Any) -> None:
    assert execute(host, "llen parcels", Origin=f"http://{site(host)}")[0] == 200
    for foreign in ("http://evil.example", "null", f"http://{site(host)}.evil.example", f"http://x{site(host)}"):
        assert execute(host, "llen parcels", Origin=foreign)[0] == 403, foreign


def test_it_comes_back_when_killed(host: Any) -> None:
    kill(host, "redis-ui")
    wait_until(lambda: shows_the_queue(host), "the UI does not answer")


def test_it_finds_redis_again(host: Any) -> None:
    host.check_output("systemctl restart redis-server")
    wait_until(lambda: shows_the_queue(host), "the UI does not find Redis again")


def test_it_comes_back_after_a_reboot(host: Any) -> None:
    redis(host, "save")
    reboot(host, host.backend.host)
    wait_until(lambda: shows_the_queue(host), "the UI does not answer")


def test_nothing_listens_wider_than_told_and_other_sites_stay(host: Any) -> None:
    address = variable(host, "ansible_host")
    assert sockets(host) == {f"{address}:80", f"{address}:8081"}
    with urllib.request.urlopen(f"http://{address}/", timeout=120) as response:
        assert response.read() == b"Flower"
    # Past nginx there is no way for a user of the host.
    past = "curl -s --unix-socket /run/redis-ui.sock http://localhost/connections"
    assert BROKER in host.check_output(past)
    assert host.run(f"runuser -u nobody -- {past}").stdout == ""


def test_secrets_are_nowhere_that_others_can_read(host: Any) -> None:
    secrets = [variable(host, name) for name in ("redis_ui_test_password", "redis_ui_test_redis_password")]
    # As they are, and as JSON and URLs have them.
    texts = {*secrets, *(json.dumps(text)[1:-1] for text in secrets), *(urllib.parse.quote(text) for text in secrets)}
    # Everybody may ask for these.
    shown = "ps -ewwo args | grep -v '^sudo '; systemctl show redis-ui; systemctl cat redis-ui"
    assert "redis-commander.js" in host.check_output(shown)
    assert_nobody_reads(host, texts, shown)
    for path in ("/etc/redis-ui/local.json", "/etc/nginx/redis-ui.htpasswd"):
        assert host.run(f"runuser -u nobody -- cat {path}").rc != 0
    # nginx's own user has no need of Redis's password.
    assert host.run("runuser -u www-data -- cat /etc/redis-ui/local.json").rc != 0


def test_it_is_confined_and_owns_nothing(host: Any) -> None:
    assert_confined(host, "redis-ui", 512 * 1024**2)
    assert host.check_output("ps -o user= -p %s", main_pid(host, "redis-ui")).strip() == "redis-ui"
    assert not host.check_output("find /opt/redis-ui /etc/redis-ui ! -user root")
    assert not host.check_output("find /opt/redis-ui -perm /022")
    assert host.run("which npm").rc != 0


def test_a_site_that_nginx_refuses_changes_nothing(host: Any) -> None:
    before = host.file("/etc/nginx/conf.d/redis-ui.conf").content
    result = converge_host(host, redis_ui_server_name="a b; oops")
    assert result.returncode != 0
    assert 'unknown directive "oops"' in result.stdout
    assert host.file("/etc/nginx/conf.d/redis-ui.conf").content == before
    assert shows_the_queue(host)


def test_what_cant_work_is_refused_before_anything_changes(host: Any) -> None:
    databases = [{"name": "a", "db": 1}, {"name": "b", "db": 1}]
    result = converge_host(
        host,
        redis_ui_tls_key="/etc/ssl/key.pem",
        redis_ui_basic_auth_password="é",
        redis_ui_databases=databases,
    )
    assert result.returncode != 0
    assert "Set both or none" in result.stdout
    assert "printable ASCII" in result.stdout
    assert "a database twice" in result.stdout
    assert "changed=0" in result.stdout


def test_a_wrong_password_of_redis_is_noticed_and_not_logged(host: Any) -> None:
    result = converge_host(host, redis_ui_redis_password="not the password of Redis")
    assert result.returncode != 0
    assert "Wait for the Redis UI to log in to Redis" in result.stdout
    assert "not the password of Redis" not in host.check_output("journalctl --no-pager -u redis-ui")


@pytest.fixture
def redis_with_tls(host: Any) -> Iterator[None]:
    """A second port of Redis, with TLS, and the page connected to it; in the end as it was."""
    host.check_output(CERTIFICATES)
    files = "tls-cert-file /etc/redis/redis.crt tls-key-file /etc/redis/redis.key tls-ca-cert-file /etc/redis/ca.crt"
    redis(host, f"config set {files} tls-auth-clients no tls-port 6380")
    result = converge_host(host, redis_ui_redis_port=6380, redis_ui_redis_ca=REDIS_CA)
    assert result.returncode == 0, result.stdout + result.stderr
    yield
    redis(host, "config set tls-port 0")
    result = converge_host(host)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.usefixtures("redis_with_tls")
def test_redis_is_verified_with_the_authority_of_the_moment(host: Any) -> None:
    def connected() -> bool:
        status, body = fetch(host, "/apiv2/server/info", variable(host, "redis_ui_test_password"))
        return status == 200 and not any(one.get("disabled") for one in json.loads(body)["data"])

    def refused() -> bool:
        log = host.check_output("journalctl --no-pager --unit redis-ui --since -10s")
        return "certificate in certificate chain" in log and not connected()

    path = f"/apiv2/key/{BROKER.replace('6379', '6380')}/parcels"
    status, body = fetch(host, path, variable(host, "redis_ui_test_password"))
    assert (status, json.loads(body)["length"]) == (200, TASKS)
    # The system's authorities are no matter, and a new one needs no restart.
    pid = main_pid(host, "redis-ui")
    host.check_output(
        "cp /etc/redis/ca.crt /usr/local/share/ca-certificates && update-ca-certificates"
        f" && cp /etc/redis/other.crt {REDIS_CA}"
    )
    redis(host, "client kill user ui")
    wait_until(refused, "the UI takes a certificate of another authority")
    host.check_output(f"cp /etc/redis/ca.crt {REDIS_CA}")
    wait_until(connected, "the UI does not find Redis again")
    assert main_pid(host, "redis-ui") == pid


@pytest.fixture(scope="module")
def writable_with_tls(host: Any) -> Iterator[None]:
    """The page with TLS, on all addresses, and not read-only; in the end as it was."""
    host.check_output(
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=redis -days 2"
        " -keyout /etc/ssl/private/t.key -out /etc/ssl/t.pem"
    )
    result = converge_host(
        host,
        redis_ui_listen_address=EVERYWHERE,
        redis_ui_tls_certificate="/etc/ssl/t.pem",
        redis_ui_tls_key="/etc/ssl/private/t.key",
        redis_ui_read_only=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    ON_TLS.add(site(host))
    yield
    ON_TLS.remove(site(host))
    redis(host, "acl load")
    result = converge_host(host)
    assert result.returncode == 0, result.stdout + result.stderr
    address = variable(host, "ansible_host")
    assert sockets(host) == {f"{address}:80", f"{address}:8081"}
    assert "not read-only" in execute(host, "lpush parcels x")[1]


@pytest.mark.usefixtures("writable_with_tls")
def test_tls_on_all_addresses(host: Any) -> None:
    assert sockets(host) == {f"{variable(host, 'ansible_host')}:80", "0.0.0.0:8081"}
    reply = subprocess.run(
        ["curl", "-ksI", "-X", "GET", f"https://{site(host)}/"], capture_output=True, text=True, check=True
    ).stdout
    assert re.match(r"HTTP/\S+ 401 ", reply)
    assert "Strict-Transport-Security" in reply


@pytest.mark.usefixtures("writable_with_tls")
def test_redis_itself_refuses_what_read_only_does_not(host: Any) -> None:
    password = variable(host, "redis_ui_test_password")
    for command in ("lpush parcels x", "del parcels", "flushall", "config get *", "keys *"):
        assert "no permissions" in execute(host, command)[1], command
    value = {"connectionId": BROKER, "key": "parcels", "value": "x", "type": "rpush"}
    assert fetch(host, "/apiv2/list/value", password, value)[0] == 500
    assert redis(host, "llen parcels") == str(TASKS)
    # The page does write where the user may.
    redis(host, "acl setuser ui +lpush %W~parcels")
    assert execute(host, "lpush parcels x") == (200, f'{{"data":{TASKS + 1}}}')
