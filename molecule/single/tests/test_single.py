"""Everything on one VM, as inventories/single declares it, with a password that no URL takes as it is."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from shared.deployed import RUN, Shop, call, wait_until
from shared.lab import SERVE, open_to_foreigner
from shared.playbook import changed, run_playbook
from shared.service import main_pid

testinfra_hosts = ["ansible://vm1"]
# Prometheus listens on the host's loopback alone. What it asks itself by is there.
ASK = """
import base64, pathlib, sys, urllib.request
password = pathlib.Path("/etc/prometheus/passwords/prometheus").read_text()
request = urllib.request.Request("http://127.0.0.1:9090" + sys.argv[1])
request.add_header("Authorization", "Basic " + base64.b64encode(f"prometheus:{password}".encode()).decode())
print(urllib.request.urlopen(request).read().decode())
"""
GRAFANA = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "grafana.yml"


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="vm1", hosts=("vm1",))


def test_a_load_on_every_queue_is_done(shop: Shop) -> None:
    sent = json.loads(shop.output(f"{RUN} django-admin send_load --count 60"))
    ids = {task for queue in sent["queues"].values() for task in queue}
    shop.wait_for(ids, "done", "failed")


def test_beat_ticks(shop: Shop) -> None:
    wait_until(lambda: any(line["task"] == "ticks.heartbeat" for line in shop.ledger()), "no tick")


def test_the_host_is_measured_by_itself(shop: Shop) -> None:
    def page(path: str) -> str:
        return shop.output(f"python3 -c {shlex.quote(ASK)} {shlex.quote(path)}")

    def up() -> dict[str, str]:
        found = json.loads(page("/api/v1/query?query=up"))["data"]["result"]
        return {series["metric"]["job"]: series["value"][1] for series in found}

    jobs = ("hosts", "prometheus", "alertmanager", "broker", "queues")
    wait_until(lambda: up() == dict.fromkeys(jobs, "1"), "not all that is to be asked answers")
    assert ">shop-quick<" in page("/consoles/fleet.html")


def test_dashboards_come_to_grafana(shop: Shop) -> None:
    """To something in its place that runs as it would and reads nothing: Grafana is in no Debian release."""
    unit = "[Service]\nExecStart=/usr/bin/sleep infinity\n"
    shop.output(f"groupadd --system grafana && printf {shlex.quote(unit)} >/etc/systemd/system/grafana-server.service")
    shop.output("systemctl daemon-reload && systemctl start grafana-server")

    def pid() -> str:
        return main_pid(shop.host("vm1"), "grafana-server")

    before = pid()
    assert changed(run_playbook(GRAFANA)) > 0
    restarted = pid()
    assert restarted not in (before, "0")
    found = shop.output("ls /var/lib/grafana/dashboards/celery-fleet").split()
    assert found == ["fleet.json", "queue.json", "rabbitmq.json", "release.json", "worker.json"]
    source = "/etc/grafana/provisioning/datasources/celery-fleet.yaml"
    assert shop.output(f"stat --format '%a %U %G' {source}").strip() == "640 root grafana"
    assert shop.output("cat /etc/prometheus/passwords/prometheus").strip() in shop.output(f"cat {source}")
    assert changed(run_playbook(GRAFANA)) == 0
    assert pid() == restarted
    # One that is stopped reads it when it is started.
    shop.output("systemctl stop grafana-server")
    assert changed(run_playbook(GRAFANA, grafana_dashboards_scrape_interval="20s")) == 1
    assert pid() == "0"


def test_nothing_listens_but_ssh(shop: Shop) -> None:
    sockets = {line.split()[3] for line in shop.output("ss -tlnH").splitlines()}
    assert {socket for socket in sockets if not re.match(r"(127\.|\[::1\])", socket)} <= {"0.0.0.0:22", "[::]:22"}


def test_a_foreign_host_reaches_what_the_plan_names(shop: Shop) -> None:
    for port in (8001, 8002):
        shop.output(SERVE.format(port))
    for address in ("10.90.14.11", "fd00:10:90:14::11"):
        assert open_to_foreigner("vm1", address) == {22, 8002}


def test_workers_are_up_again_after_a_restart_of_the_broker(shop: Shop) -> None:
    shop.output("systemctl restart rabbitmq-server")
    shop.run(call("customers.noop"))
