"""Someone who has just run site.yml sees the fleet, and is told when something is wrong and when it is over."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from shared.browser import BROWSER_MILLISECONDS, trusting_chromium
from shared.dashboards import queries
from shared.deployed import RUN, Shop, call, transcode, wait_until
from shared.monitor import CA, SECRETS, Monitor

testinfra_hosts = ["ansible://control1"]
BROKER = "redis" if "redis" in os.environ["MOLECULE_SCENARIO_NAME"] else "rabbitmq"
HOSTS = ("broker1", "control1", "worker1", "worker2")
WORKERS = ("worker1", "worker2")
# What the depth of a queue is made from.
DEPTH_OF_VIDEO = {
    "redis": 'redis_script_values{key="depth:video"}',
    "rabbitmq": 'rabbitmq_detailed_queue_messages_ready{vhost="shop",queue="video"}',
}[BROKER]
# Redis gives the length and the head of a list at once, however long it is; RabbitMQ counts.
BACKLOG = {"rabbitmq": 20_000, "redis": 2_000}[BROKER]
# So many kills, at most, until an alert tells of a worker that does not stay up.
KILLS = 20
# What alerts there were. The last test sees that they are over: windows take their time, and so it is spent once.
FIRED: set[str] = set()
whatever_the_broker = pytest.mark.skipif(BROKER == "redis", reason="the broker makes no difference: tried on RabbitMQ")
# Many at once, by one connection.
SEND_MANY = """
import sys
from shop.celery import app
app.loader.import_default_modules()
task = app.tasks["customers.noop"]
with app.producer_or_acquire() as producer:
    for number in range(int(sys.argv[1])):
        task.apply_async(producer=producer)
"""
# So many connections.
CONNECT = """
import signal, sys
from shop.celery import app
connections = [app.connection_for_write().connect() for _ in range(int(sys.argv[1]))]
signal.pause()
"""
# Whoever is paged, in place of a pager: each message is a line.
PAGER = """
import http.server, pathlib, sys
class Pager(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with pathlib.Path("/run/pager").open("ab") as file:
            file.write(body)
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 9099), Pager).serve_forever()
"""


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="control1", hosts=("worker1", "worker2", "control1"))


@pytest.fixture(scope="module")
def monitor(shop: Shop) -> Monitor:
    return Monitor(shop.host("control1").ansible.get_variables()["ansible_host"])


@pytest.fixture(scope="module", autouse=True)
def pager(shop: Shop) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Return what somebody was told."""
    shop.output(f"systemd-run --unit pager --collect python3 -c {shlex.quote(PAGER)}")

    def told() -> list[dict[str, Any]]:
        lines = shop.output("cat /run/pager 2>/dev/null || true").splitlines()
        return [alert for line in lines for alert in json.loads(line)["alerts"]]

    yield told
    shop.output("systemctl stop pager; rm -f /run/pager")


def counted(monitor: Monitor, what: str, task: str) -> float:
    return monitor.value(f'sum(celery_task_{what}{{task="{task}"}})') or 0


def test_everything_is_asked_and_answers(monitor: Monitor) -> None:
    jobs = {"hosts": set(HOSTS), "broker": {"broker1"}, "prometheus": {"control1"}, "alertmanager": {"control1"}}
    if BROKER == "rabbitmq":
        jobs["queues"] = {"broker1"}
    expected = {(job, host) for job, hosts in jobs.items() for host in hosts}

    def up() -> bool:
        return {
            (of["job"], of["instance"]) for of, value in monitor.query('up{job!~".*certificates"}') if value
        } == expected

    wait_until(up, "not all is up")


@pytest.mark.parametrize("program", ["prometheus", "alertmanager"])
def test_nobody_looks_without_a_password(monitor: Monitor, program: str) -> None:
    assert [monitor.page(program, "/", password=word)[0] for word in ("", "prometheus")] == [401, 401]


def test_the_rules_say_what_they_should(shop: Shop) -> None:
    """Of what takes days, or can't be brought about on hosts."""
    address = shop.host("broker1").ansible.get_variables()["ansible_host"]
    port = {"rabbitmq": 5671, "redis": 6380}[BROKER]
    tests = Path(__file__).with_name("rules.yml").read_text(encoding="utf-8").replace("DEPTH_OF_VIDEO", DEPTH_OF_VIDEO)
    tests = tests.replace("BROKER", f"{address}:{port}")
    command = f"printf %s {shlex.quote(tests)} >/run/rules.yml && promtool test rules /run/rules.yml"
    told = shop.host("control1").run(command)
    assert told.rc == 0, told.stdout + told.stderr


def test_each_task_is_counted_where_it_belongs(shop: Shop, monitor: Monitor) -> None:
    kinds = {"started_total": 4, "succeeded_total": 2, "failed_total": 0, "retried_total": 2, "wait_seconds_count": 4}
    before = {what: counted(monitor, what, "customers.sync") for what in kinds}
    # Heartbeats, which the same worker does, are never sent again.
    by_worker = 'sum(celery_worker_tasks_retried_total{program="shop-customers", app="shop", release="1.0.0"})'
    retried = monitor.value(by_worker)
    # From the start, also where nothing was.
    assert retried is not None
    shop.run(call("customers.sync", 1), call("customers.sync", 2, kwargs={"transient_errors": 2}))

    def rise() -> dict[str, float]:
        return {what: counted(monitor, what, "customers.sync") - before[what] for what in kinds}

    wait_until(lambda: rise() == kinds, "it is not counted as it was")
    labels = [of for of, _ in monitor.query('celery_task_started_total{task="customers.sync"}')]
    assert {(of["queue"], of["app"], of["release"]) for of in labels} == {("customers", "shop", "1.0.0")}
    assert monitor.value(by_worker) == retried + kinds["retried_total"]
    assert {of["instance"] for of in labels} <= {"worker1", "worker2"}
    slowest = monitor.value('max(celery_task_wait_seconds_max{task="customers.sync"})')
    assert slowest is not None
    assert 0 <= slowest < 60


def test_a_long_queue_is_seen_as_it_is(shop: Shop, monitor: Monitor) -> None:
    """No part of it is missed, and what waited is told with its queue: which is when one looks."""
    before = counted(monitor, "wait_seconds_count", "customers.noop")
    with ExitStack() as stack:
        for host in WORKERS:
            command = "supervisorctl {} shop-customers"
            stack.enter_context(shop.altered(host, command.format("stop"), command.format("start")))
        sent_from = float(shop.output("date +%s.%N"))
        shop.output(f"{RUN} python -c {shlex.quote(SEND_MANY)} {BACKLOG}")
        depth = 'celery_queue_depth{queue="customers"}'
        wait_until(lambda: monitor.value(depth) == BACKLOG, f"the depth is not {BACKLOG}")
        # An upper bound is later by what passes between two looks.
        waited = float(shop.output("date +%s.%N")) - sent_from
        age = monitor.value('celery_queue_age_seconds{queue="customers", method!="empty"}')
        assert age is not None
        assert waited - 20 < age < waited + 20
    wait_until(lambda: monitor.value(depth) == 0, "it does not get empty", interval=2)
    expected = before + BACKLOG
    wait_until(
        lambda: counted(monitor, "wait_seconds_count", "customers.noop") == expected,
        f"not all of {expected} waits are known",
    )
    assert monitor.value('celery_queue_age_seconds{queue="customers"}') == 0
    assert not monitor.query('celery_task_wait_seconds_count{task="customers.noop", queue!="customers"}')
    # The shop's own account of so many would be read again and again by the tests that follow.
    for host in shop.hosts:
        shop.output("find /var/lib/shop/ledger -name '*.jsonl' -exec truncate --size 0 {} +", host)


def test_there_is_a_page_of_the_fleet(monitor: Monitor) -> None:
    status, page = monitor.page("prometheus", "/consoles/fleet.html")
    assert status == 200, page
    for name in ("customers", "email", "video", "reports", "ticks", "shop-customers", "shop-beat", "worker2", "1.0.0"):
        assert f">{name}" in page, name
    assert "error" not in page.partition("<script>")[0].lower()
    assert {of["queue"] for of, _ in monitor.query("celery_queue_depth")} == {
        "customers", "email", "video", "reports", "ticks"
    }  # fmt: skip


@whatever_the_broker
def test_the_page_plots_the_history_of_each_queue(monitor: Monitor, tmp_path: Path) -> None:
    with (
        trusting_chromium(CA, tmp_path) as browser,
        browser.new_context(http_credentials=monitor.credentials("prometheus")) as context,
    ):
        page = context.new_page()
        page.set_default_timeout(BROWSER_MILLISECONDS)
        page.goto(f"{monitor.url('prometheus')}/consoles/fleet.html")
        page.get_by_role("img", name=re.compile(f"^depth of customers: now .*, highest {BACKLOG:,}")).wait_for()
        for queue in ("customers", "email", "video", "reports", "ticks"):
            for what in ("depth", "oldest task", "started per second"):
                assert page.get_by_role("img", name=re.compile(f"^{what} of {queue}: now")).count() == 1, (what, queue)
        assert page.get_by_role("img", name=re.compile("^failed per hour of customers: now")).count() == 1
        # The tables are brought up to date in place.
        page.evaluate("document.querySelector('#now h2').textContent = 'old'")
        page.get_by_role("heading", name="Alerts").wait_for()


def test_each_dashboard_has_something_to_show(monitor: Monitor) -> None:
    asked = list(queries(BROKER, window="5m"))
    assert asked
    # A question that has no answer now must be a question still.
    empty = [f"{query}" for query in asked if not monitor.query(query.expr) and not query.may_be_empty]
    assert not empty, "\n".join(empty)


def test_the_one_failed_task_is_found_where_it_ran(shop: Shop) -> None:
    (task,) = shop.send(call("customers.fail", "no such customer"))
    (line,) = shop.wait_for([task], "failed")
    search = "journalctl --namespace=shop CELERY_TASK=customers.fail CELERY_STATE=FAILURE --since=-5min -o cat"

    def told() -> list[dict[str, Any]]:
        lines = [json.loads(text) for text in shop.output(search, line["host"]).splitlines()]
        return [end for end in lines if end["id"] == task]

    (end,) = wait_until(told, "its end is not told")
    assert (end["queue"], end["program"], end["release"]) == ("customers", "shop-customers", "1.0.0")
    assert end["exception"] == "RuntimeError: no such customer"
    assert end["wait"] >= 0
    assert end["run"] >= 0
    assert "no such customer" not in end.get("arguments", "")


def expect(monitor: Monitor, *alarms: tuple[str, dict[str, str]]) -> None:
    """Wait until Alertmanager was told each of these; one may be over before another begins."""
    FIRED.update(name for name, _ in alarms)
    missing = list(alarms)

    def all_told() -> bool:
        found = monitor.alarms()
        missing[:] = [each for each in missing if not any(one.name == each[0] and one.of(**each[1]) for one in found)]
        return not missing

    try:
        wait_until(all_told, "it was not told of all", interval=1)
    except AssertionError as error:
        raise AssertionError(f"{error}: {missing}") from error


def cleared(monitor: Monitor, names: set[str]) -> None:
    """Wait until Alertmanager has none of these."""
    left: set[str] = set()

    def over() -> bool:
        left.clear()
        left.update(names & {one.name for one in monitor.alarms()})
        return not left

    try:
        wait_until(over, "it is told still")
    except AssertionError as error:
        raise AssertionError(f"{error} of {left}") from error


def test_a_queue_that_nobody_consumes_is_told_and_forgotten(shop: Shop, monitor: Monitor) -> None:
    video = {"queue": "video"}
    alarms = ("CeleryQueueDeep", "CeleryQueueOld", "CeleryQueueWithoutConsumer")
    with shop.altered("worker2", "supervisorctl stop shop-video", "supervisorctl start shop-video"):
        shop.send(*[transcode(number, 0.1) for number in range(30)])
        expect(monitor, *[(name, video) for name in alarms])


@whatever_the_broker
def test_workers_that_are_gone_are_told_and_forgotten(
    shop: Shop, monitor: Monitor, pager: Callable[[], list[dict[str, Any]]]
) -> None:
    exporter = "prometheus-node-exporter"
    with ExitStack() as stack:
        stack.enter_context(shop.altered("worker2", "supervisorctl stop shop-video", "supervisorctl start shop-video"))
        stack.enter_context(shop.altered("control1", "supervisorctl stop shop-beat", "supervisorctl start shop-beat"))
        stack.enter_context(shop.altered("worker1", f"systemctl stop {exporter}", f"systemctl start {exporter}"))
        with shop.altered("worker2", "systemctl stop shop-exporter", "systemctl start shop-exporter"):
            expect(
                monitor,
                ("CeleryExporterDown", {"instance": "worker1"}),
                ("CeleryExporterDown", {"instance": "worker2"}),
                ("CeleryBeatSilent", {}),
                ("CeleryWorkerGone", {"program": "shop-beat", "instance": "control1"}),
            )
        expect(monitor, ("CeleryWorkerGone", {"program": "shop-video", "instance": "worker2"}))

    # What is over within the wait for others nobody is told of.
    wait_until(lambda: "CeleryWorkerGone" in told(pager(), "firing"), "nobody is told")


def told(alerts: list[dict[str, Any]], status: str) -> set[str]:
    return {alert["labels"]["alertname"] for alert in alerts if alert["status"] == status}


@whatever_the_broker
def test_a_drained_host_is_no_alarm(shop: Shop, monitor: Monitor) -> None:
    """Its workers are gone on purpose."""
    with ExitStack() as stack:
        marker = "/srv/shop/drained"
        stack.enter_context(shop.altered("worker1", f"touch {marker}", f"rm {marker}"))
        stack.enter_context(
            shop.altered("worker1", "supervisorctl stop shop-customers", "supervisorctl start shop-customers")
        )
        gone = 'celery_worker_up{program="shop-customers", instance="worker1"}'
        wait_until(lambda: monitor.value(gone) == 0, "it is not seen to be gone")
        wait_until(
            lambda: monitor.value('celery_host_drained{instance="worker1"}') == 1, "it is not seen to be drained"
        )
        pending = monitor.query('ALERTS{alertname="CeleryWorkerGone", instance="worker1"}')
    assert not pending


def kill_and_see_it_start(shop: Shop, monitor: Monitor, host: str, program: str) -> None:
    """Kill a worker, and return once Prometheus has seen the one that Supervisor starts in its place."""
    started = f'max(celery_worker_start_time_seconds{{program="{program}", instance="{host}"}})'
    before = monitor.value(started)
    pid = shop.pid(host, program)
    shop.output(f"kill -KILL {pid} $(pgrep --parent {pid})", host)
    wait_until(lambda: monitor.value(started) not in (None, before), "its start is not seen")


@whatever_the_broker
def test_what_goes_wrong_with_tasks_is_told_and_forgotten(shop: Shop, monitor: Monitor) -> None:
    # A counter that is new has not risen yet, and each host has its own.
    def one_is_counted_everywhere() -> bool:
        shop.wait_for(shop.send(*[call("customers.fail") for _ in range(4)]), "failed")
        found = monitor.query('celery_task_failed_total{task="customers.fail"}')
        return {labels["instance"] for labels, _ in found} == {"worker1", "worker2"}

    wait_until(one_is_counted_everywhere, "one is not counted on each host")
    shop.send(*[call("customers.fail") for _ in range(15)])
    shop.send(*[call("customers.sync", number, kwargs={"transient_errors": 1}) for number in range(15)])
    # Slower than they come.
    shop.send(*[transcode(number, 1) for number in range(25)])
    shop.send(*[call("reports.build", "2026-10", 30) for _ in range(2)])
    busy = 'celery_worker_tasks_running{program="shop-reports", instance="worker2"}'
    wait_until(lambda: monitor.value(busy) == 2, "it is not seen at its tasks")
    parent = shop.pid("worker2", "shop-reports-a")
    shop.output(f"kill -KILL $(pgrep --parent {parent})", "worker2")
    expect(
        monitor,
        ("CeleryTasksFail", {"task": "customers.fail"}),
        ("CeleryTasksRetried", {"task": "customers.sync"}),
        ("CeleryTasksKilled", {"program": "shop-reports", "instance": "worker2"}),
        ("CeleryQueueSlow", {"queue": "video"}),
    )
    flapping = ("CeleryWorkerFlapping", {"program": "shop-customers", "instance": "worker1"})
    for _ in range(KILLS):
        kill_and_see_it_start(shop, monitor, "worker1", "shop-customers")
        if any(one.name == flapping[0] and one.of(**flapping[1]) for one in monitor.alarms()):
            break
    expect(monitor, flapping)
    current = shop.output("readlink /srv/shop/current", "worker1").strip()
    releases = "/srv/shop/releases"
    with ExitStack() as stack:
        stack.enter_context(
            shop.altered("worker1", f"cp -rl {releases}/1.0.0 {releases}/9.9.9", f"rm -r {releases}/9.9.9")
        )
        point = "ln -sfn {} /srv/shop/current"
        stack.enter_context(shop.altered("worker1", point.format("releases/9.9.9"), point.format(current)))
        expect(monitor, ("CeleryReleaseMixed", {}))


def troubles(shop: Shop) -> dict[str, tuple[str, str, str]]:
    """Return what the broker is short of, with the host and the commands that make it so and end it."""
    if BROKER == "rabbitmq":
        limits = shop.output("cat /etc/rabbitmq/conf.d/50-limits.conf", "broker1")
        memory, disk = (re.search(rf"{name}[.]absolute = (\S+)", limits) for name in ("watermark", "disk_free_limit"))
        assert memory
        assert disk
        return {
            "CeleryBrokerConnections": (
                "control1",
                f"systemd-run --unit connections --collect {RUN} python -c {shlex.quote(CONNECT)} 700",
                "systemctl stop connections",
            ),
            "CeleryBrokerMemory": (
                "broker1",
                "rabbitmqctl set_vm_memory_high_watermark absolute 1MiB",
                f"rabbitmqctl set_vm_memory_high_watermark absolute {memory[1]}",
            ),
            "CeleryBrokerDisk": (
                "broker1",
                "rabbitmqctl set_disk_free_limit mem_relative 1000",
                f"rabbitmqctl set_disk_free_limit {disk[1]}",
            ),
        }
    password = (SECRETS / "redis_administrator").read_text(encoding="utf-8").strip()
    redis = f"REDISCLI_AUTH={password} redis-cli -s /run/redis/redis.sock --user shop-admin"
    most, clients = (
        shop.output(f"{redis} config get {name}", "broker1").split()[-1] for name in ("maxmemory", "maxclients")
    )
    info = dict(
        re.findall(r"^(connected_clients|used_memory):(\d+)", shop.output(f"{redis} info", "broker1"), re.MULTILINE)
    )
    # Above the threshold of the alert, and below what Redis refuses tasks at.
    little = int(info["used_memory"]) * 105 // 100
    directory = "/var/lib/redis/appendonlydir"
    return {
        "CeleryBrokerMemory": (
            "broker1",
            f"{redis} config set maxmemory {little}",
            f"{redis} config set maxmemory {most}",
        ),
        "CeleryBrokerDisk": (
            "broker1",
            f"chmod u-w {directory} && {redis} bgrewriteaof",
            f"chmod u+w {directory} && {redis} bgrewriteaof",
        ),
        "CeleryBrokerConnections": (
            "broker1",
            f"{redis} config set maxclients {int(info['connected_clients']) + 5}",
            f"{redis} config set maxclients {clients}",
        ),
    }


def test_a_broker_in_trouble_is_told_and_forgotten(shop: Shop, monitor: Monitor) -> None:
    short = troubles(shop)
    with ExitStack() as stack:
        for host, begin, end in short.values():
            stack.enter_context(shop.altered(host, begin, end))
        expect(monitor, *[(name, {}) for name in short])
    unit = {"rabbitmq": "rabbitmq-server", "redis": "redis-server"}[BROKER]
    with shop.altered("broker1", f"systemctl stop {unit}", f"systemctl start {unit}"):
        expect(monitor, ("CeleryBrokerDown", {}), ("CeleryMetricsAbsent", {}))


@pytest.mark.skipif(BROKER == "rabbitmq", reason="only the other fleet watches a certificate")
def test_a_certificate_that_runs_out_is_told_and_forgotten(shop: Shop, monitor: Monitor) -> None:
    endpoint = "127.0.0.1:8443"
    certificate = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=shop -keyout /run/key -out /run/crt -days"
    serve = f"openssl s_server -accept {endpoint} -key /run/key -cert /run/crt -www"
    begin = f"{certificate} 3 && systemd-run --unit endpoint --collect {serve}"
    with shop.altered("control1", begin, "systemctl stop endpoint"):
        expect(monitor, ("CeleryCertificateExpires", {"instance": endpoint}))
        shop.output(f"{certificate} 90 && systemctl restart endpoint")
        cleared(monitor, {"CeleryCertificateExpires"})


@whatever_the_broker
def test_a_task_log_that_loses_is_told_and_forgotten(shop: Shop, monitor: Monitor) -> None:
    journal = "systemd-journald@shop"
    stop, start = f"systemctl stop {journal}.socket {journal}.service", f"systemctl start {journal}.socket"
    with shop.altered("worker1", stop, start), shop.flow(call("customers.noop")):
        expect(monitor, ("CeleryTaskLogLoses", {"instance": "worker1"}))


@pytest.mark.skipif(BROKER == "rabbitmq", reason="only the other fleet brings its task log to a file")
def test_a_task_log_that_is_behind_is_told_and_forgotten(shop: Shop, monitor: Monitor) -> None:
    before = shop.output("wc -l </var/log/shop-tasks/tasks.jsonl", "worker1")
    hang, go_on = (f"systemctl kill --signal {signal} shop-task-log" for signal in ("STOP", "CONT"))
    with shop.altered("worker1", hang, go_on):
        ids = shop.send(*[call("customers.noop") for _ in range(20)])
        expect(monitor, ("CeleryTaskLogBehind", {"instance": "worker1"}))
    mine = [line for line in shop.wait_for(ids) if line["host"] == "worker1"]
    expected = int(before) + len(mine)
    wait_until(
        lambda: int(shop.output("wc -l </var/log/shop-tasks/tasks.jsonl", "worker1")) >= expected,
        "not all are in the file",
    )


def test_all_that_is_over_is_forgotten(monitor: Monitor, pager: Callable[[], list[dict[str, Any]]]) -> None:
    if not FIRED:
        pytest.skip("no other test had an alert fire")
    cleared(monitor, FIRED)
    if BROKER == "rabbitmq":
        wait_until(lambda: "CeleryWorkerGone" in told(pager(), "resolved"), "nobody is told that it is over")
        assert all(alert["annotations"]["runbook_url"].startswith("docs/alerts.md#") for alert in pager())
