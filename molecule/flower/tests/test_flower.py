"""Flower shows a real worker and its tasks to who knows the password, and nothing to anybody else."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser
from shared.browser import BROWSER_MILLISECONDS, assert_shut_out, chromium
from shared.confidential import assert_nobody_reads
from shared.deployed import wait_until
from shared.playbook import converge_host
from shared.service import assert_confined, assert_sandboxed, kill

TASKS = """
from celery import Celery

app = Celery("tasks")
app.conf.update(task_default_queue="parcels", task_default_exchange="parcels")
app.conf.update(control_queue_exclusive=False, control_queue_durable=True)


@app.task
def weigh(parcel):
    return len(parcel)
"""
GUESSES = 300
EVERYWHERE = "0.0.0.0"  # noqa: S104
DIRECTORY = "/var/tmp/flower-test"  # noqa: S108 - on a host that the test owns
PID_FILE = "/run/flower-test/worker.pid"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def variable(host: Any, name: str) -> str:
    return str(host.ansible.get_variables()[name])


def address(host: Any) -> str:
    return variable(host, "ansible_host")


def get(host: Any, path: str, password: str | None = None, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """Return status and body of one of Flower's pages, as a client on another machine gets them; a body is posted."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address(host)}{path}", data=data)
    if password is not None:
        token = base64.b64encode(f"flower:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answers(host: Any) -> bool:
    return get(host, "/workers", variable(host, "flower_test_password"))[0] == 200


def sockets(host: Any) -> set[str]:
    """Return the addresses that are listened on at the ports of Flower and nginx."""
    addresses = [line.split()[3] for line in host.check_output("ss -Hltn").splitlines()]
    return {local for local in addresses if local.rpartition(":")[2] in ("80", "443", "5555")}


@pytest.fixture
def run(host: Any) -> Callable[[str], str]:
    """Run Python on the host, with Flower's environment and the test's tasks, as nobody."""
    venv = host.check_output("ls -d /opt/flower/*/venv")
    broker = f"amqp://shop:{quote(variable(host, 'flower_test_broker_password'), safe='')}@127.0.0.1:5672/shop"
    host.check_output(f"install -d {DIRECTORY} && printf %s {shlex.quote(TASKS)} >{DIRECTORY}/tasks.py")
    return lambda arguments: str(
        host.check_output(
            f"cd {DIRECTORY} && runuser -u nobody -- env CELERY_BROKER_URL={shlex.quote(broker)} {venv}/bin/{arguments}"
        )
    )


@pytest.fixture
def worker(host: Any, run: Callable[[str], str]) -> Iterator[str]:
    """The name of a real worker. It sends no events until Flower asks it to."""
    name = f"parcels@{host.check_output('hostname')}"
    host.check_output(f"install -d -o nobody {Path(PID_FILE).parent}")
    run(
        f"celery -A tasks worker --pool=solo --queues=parcels --hostname={name} --loglevel=INFO "
        f"--logfile=/dev/null --detach --pidfile={PID_FILE}"
    )
    yield name
    host.check_output(f"kill $(cat {PID_FILE})")
    # The next one has the same name and PID file.
    wait_until(lambda: not host.file(PID_FILE).exists, "the worker does not end")


def test_a_wrong_password_shows_nothing(host: Any, browser: Browser) -> None:
    for password in ("flower", variable(host, "flower_test_password") + "x", ""):
        assert_shut_out(browser, f"http://{address(host)}/workers", "flower", password, "Workers")
    for path in ("/", "/tasks", "/broker", "/api/workers", "/api/tasks"):
        assert get(host, path)[0] == 401, path


def test_a_worker_and_its_task_are_seen_and_survive_a_restart(
    host: Any, browser: Browser, worker: str, run: Callable[[str], str]
) -> None:
    password = variable(host, "flower_test_password")
    wait_until(lambda: worker in get(host, "/api/workers?refresh=1", password)[1], "the worker is not seen")

    def state(task: str) -> str:
        status, body = get(host, f"/api/task/info/{task}", password)
        return str(json.loads(body)["state"]) if status == 200 else ""

    def succeed() -> str:
        """Send a task and return its id if Flower sees it end. It misses those from before it asked for events."""
        sent = run("python -c 'from tasks import weigh; print(weigh.delay(\"a book\").id)'").strip()
        deadline = time.monotonic() + 3
        while state(sent) != "SUCCESS" and time.monotonic() < deadline:
            time.sleep(0.2)
        return sent if state(sent) == "SUCCESS" else ""

    task = wait_until(succeed, "Flower sees no task's success")
    with browser.new_context(http_credentials={"username": "flower", "password": password}) as context:
        page = context.new_page()
        page.set_default_timeout(BROWSER_MILLISECONDS)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"http://{address(host)}/workers")
        row = page.locator("tr", has_text=worker)
        row.wait_for()
        assert "Online" in row.inner_text()
        page.goto(f"http://{address(host)}/tasks")
        row = page.locator("tr", has_text=task)
        row.wait_for()
        assert "tasks.weigh" in row.inner_text()
        assert "SUCCESS" in row.inner_text()
        # Its lengths come from the management API, by the monitoring user.
        page.goto(f"http://{address(host)}/broker")
        page.locator("tr", has_text="parcels").wait_for()
        assert not complaints, "the browser refused something"

        host.check_output("systemctl restart flower")
        wait_until(lambda: answers(host), "Flower does not answer after its restart")
        assert state(task) == "SUCCESS", "Flower forgot the task"


def test_it_is_refused_to_send_a_task(host: Any, worker: str) -> None:
    password = variable(host, "flower_test_password")
    wait_until(lambda: worker in get(host, "/api/workers?refresh=1", password)[1], "the worker is not seen")
    assert get(host, "/api/task/send-task/tasks.weigh", password, {"args": ["a book"], "queue": "parcels"})[0] == 500
    assert "ACCESS_REFUSED" in host.check_output("journalctl --sync; journalctl --no-pager -u flower")
    wait_until(lambda: worker in get(host, "/api/workers?refresh=1", password)[1], "Flower has lost its connection")


def test_guesses_of_the_password_are_limited(host: Any) -> None:
    rate = int(variable(host, "flower_requests_per_second"))
    began = time.monotonic()
    # All at once: a busy machine answers one after another slower than the limit is.
    with ThreadPoolExecutor(GUESSES) as pool:
        statuses = list(pool.map(lambda _: get(host, "/", "wrong")[0], range(GUESSES)))
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 1 + rate * (10 + time.monotonic() - began)
    wait_until(lambda: answers(host), "Flower stays shut")


def test_it_comes_back_when_killed(host: Any) -> None:
    kill(host, "flower")
    wait_until(lambda: answers(host), "Flower does not answer")


def test_nothing_listens_wider_than_told(host: Any) -> None:
    assert sockets(host) == {f"{address(host)}:80", "127.0.0.1:5555"}
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{address(host)}:5555/", timeout=5)


@pytest.mark.parametrize(
    "path", ["/metrics", "/healthcheck", "//metrics", "/%6detrics", "/healthcheck/", "/x/../metrics"]
)
def test_what_needs_no_password_is_for_the_host_itself(host: Any, path: str) -> None:
    status, body = get(host, path, variable(host, "flower_test_password"))
    assert status == 404
    assert "flower_" not in body
    assert "OK" not in body
    inside = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:5555/metrics').status)"
    assert host.check_output(f'/usr/bin/python3 -c "{inside}"') == "200"


def test_secrets_are_nowhere_that_others_can_read(host: Any) -> None:
    secrets = [variable(host, name) for name in ("flower_test_password", "flower_test_broker_password")]
    texts = [*secrets, *(quote(secret, safe="") for secret in secrets)]
    # Everybody may ask for these.
    shown = "ps -ewwo args | grep -v '^sudo '; systemctl show flower; systemctl cat flower"
    assert "celery flower" in host.check_output(shown)
    assert_nobody_reads(host, texts, shown)
    assert host.run("runuser -u nobody -- cat /etc/flower/flowerconfig.py").rc != 0
    assert host.run("runuser -u nobody -- ls /var/lib/flower").rc != 0


def test_it_is_confined(host: Any) -> None:
    assert_confined(host, "flower", 512 * 1024**2)
    assert_sandboxed(host, "flower")


def test_a_site_that_nginx_refuses_changes_nothing(host: Any) -> None:
    before = host.file("/etc/nginx/conf.d/flower.conf").content
    result = converge_host(host, flower_server_name="a b; oops")
    assert result.returncode != 0
    assert 'unknown directive "oops"' in result.stdout
    assert host.file("/etc/nginx/conf.d/flower.conf").content == before
    assert host.run("nginx -t").rc == 0
    assert answers(host)


def test_settings_that_flower_refuses_change_nothing(host: Any) -> None:
    before = host.file("/etc/flower/flowerconfig.py").content
    # Celery takes names of one kind only.
    result = converge_host(host, flower_celery_settings={"CELERY_TIMEZONE": "UTC"})
    assert result.returncode != 0
    assert "Cannot mix new and old setting keys" in result.stdout
    assert host.file("/etc/flower/flowerconfig.py").content == before
    assert answers(host)


def test_what_cant_work_is_refused_before_anything_changes(host: Any) -> None:
    result = converge_host(host, flower_tls_key="/etc/ssl/key.pem", flower_basic_auth_password="é")
    assert result.returncode != 0
    assert "Set both or none" in result.stdout
    assert "printable ASCII" in result.stdout
    assert "changed=0" in result.stdout


def test_it_moves_to_tls_on_all_addresses_and_back(host: Any) -> None:
    host.check_output(
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=flower -days 2"
        " -keyout /etc/ssl/private/t.key -out /etc/ssl/t.pem"
    )
    try:
        # From one address to all at the same port: a reload of nginx can't do that.
        result = converge_host(host, flower_listen_address=EVERYWHERE)
        assert result.returncode == 0, result.stdout + result.stderr
        assert sockets(host) == {"0.0.0.0:80", "127.0.0.1:5555"}
        tls = {"flower_tls_certificate": "/etc/ssl/t.pem", "flower_tls_key": "/etc/ssl/private/t.key"}
        result = converge_host(host, flower_listen_address=EVERYWHERE, **tls)
        assert result.returncode == 0, result.stdout + result.stderr
        assert sockets(host) == {"0.0.0.0:443", "127.0.0.1:5555"}
        url = f"https://{address(host)}/workers"
        reply = subprocess.run(["curl", "-ksI", "-X", "GET", url], capture_output=True, text=True, check=True).stdout
        assert " 401 " in reply
        assert "Strict-Transport-Security" in reply
    finally:
        result = converge_host(host)
    assert result.returncode == 0, result.stdout + result.stderr
    assert sockets(host) == {f"{address(host)}:80", "127.0.0.1:5555"}
    assert answers(host)
