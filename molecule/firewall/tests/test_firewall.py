"""From each host, only the ports that the plan names are open, and the controller can't shut itself out."""

from __future__ import annotations

import os
import shlex
import ssl
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from shared.deployed import Shop, call, connect, wait_until
from shared.lab import reboot
from shared.monitor import CA, Monitor
from shared.playbook import changed, converge, failures, run_playbook

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
ADDRESSES = {"broker1": "10.90.31.11", "worker1": "10.90.31.21", "control1": "10.90.31.31"}
SSH, OWN_TO_ONE, OWN = 22, 8001, 8002
# Prints the ports of an address that accept a connection.
SCAN = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(20)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""
# A user's own rules.
OWN_TABLE = """flush ruleset
table ip own {
  chain input {
    type filter hook input priority 10;
    tcp dport 9 drop
  }
}"""
# Listens on all addresses, like a service that the fleet does not know.
SERVE = "systemd-run --quiet --unit serve-{0} python3 -m http.server {0} --directory /srv"


@pytest.fixture
def shop() -> Shop:
    return Shop("worker1", ("worker1",))


def open_from(source: str, target: str) -> set[int]:
    """Return the ports of a host that are open for another one."""
    command = f"python3 -c {shlex.quote(SCAN)} {ADDRESSES[target]}"
    return {int(port) for port in connect(source).check_output(command).split()}


def works(shop: Shop) -> None:
    """Fail unless a task is done, and all targets are scraped."""
    shop.run(call("customers.noop"))
    monitor = Monitor(ADDRESSES["control1"])
    wait_until(lambda: monitor.value("min(up)") == 1, "a target is not scraped")


def test_a_stranger_reaches_ssh_and_what_is_open_for_everyone() -> None:
    connect("worker1").check_output(SERVE.format(OWN_TO_ONE))
    connect("control1").check_output(SERVE.format(OWN))
    assert open_from("stranger1", "broker1") == {SSH}
    assert open_from("stranger1", "worker1") == {SSH}
    assert open_from("stranger1", "control1") == {SSH, OWN}


def test_hosts_reach_what_they_need(shop: Shop) -> None:
    assert open_from("worker1", "broker1") == {SSH, 5671}
    assert open_from("control1", "broker1") == {SSH, 5671, 9100, 15671, 15691}
    assert open_from("control1", "worker1") == {SSH, 9100}
    assert open_from("worker1", "control1") == {SSH, OWN}
    works(shop)


@pytest.mark.parametrize("url", ["https://10.90.31.31:9090/", "https://10.90.31.31/", "https://10.90.31.11:15671/"])
def test_people_reach_the_pages(url: str) -> None:
    try:
        with urlopen(url, timeout=60, context=ssl.create_default_context(cafile=CA)) as page:  # noqa: S310 - https
            assert page.status == 200
    except HTTPError as error:
        assert error.code == 401


def test_a_run_with_limit_keeps_the_rules_of_a_host_whose_clients_it_does_not_know() -> None:
    before = connect("broker1").check_output("nft list table inet celery_fleet")
    run = converge("--limit", "broker1", "--tags", "firewall")
    assert changed(run) == 0
    assert "the addresses of worker1, control1 are not known" in " ".join(run.stdout.split())
    assert connect("broker1").check_output("nft list table inet celery_fleet") == before


def test_rules_that_shut_the_controller_out_are_reverted() -> None:
    # The connection of this test is established, so it stays.
    host = connect("worker1")
    before = host.check_output("nft list table inet celery_fleet")
    run = run_playbook(SCENARIO / "shut_out.yml")
    assert run.returncode != 0
    assert "Wait for a new connection" in run.stdout
    wait_until(lambda: host.check_output("nft list table inet celery_fleet") == before, "the rules stay")
    assert not host.file("/etc/celery-fleet/firewall.candidate.nft").exists
    assert changed(converge("--limit", "worker1", "--tags", "firewall")) == 0


def test_the_rules_outlive_a_reboot_and_what_others_do_with_theirs(shop: Shop) -> None:
    host = connect("worker1")
    host.check_output("printf '%%s\n' %s > /etc/nftables.conf", OWN_TABLE)
    host.check_output("systemctl enable nftables")
    reboot(host, "worker1")
    for command in ("true", "systemctl reload nftables", "systemctl restart nftables"):
        host.check_output(command)
        wait_until(lambda: "celery_fleet" in host.check_output("nft list tables"), f"no firewall after {command}")
        assert "table ip own" in host.check_output("nft list tables")
        assert 9100 not in open_from("stranger1", "worker1")
    assert open_from("stranger1", "worker1") == {SSH}
    assert changed(converge("--limit", "worker1", "--tags", "firewall")) == 0
    works(shop)


def test_a_service_that_would_be_closed_stops_the_run() -> None:
    assert changed(converge("--tags", "firewall", celery_firewall=False)) > 0
    host = connect("broker1")
    assert "celery_fleet" not in host.check_output("nft list tables")
    assert 5671 in open_from("stranger1", "broker1")
    host.check_output(SERVE.format(8003))
    told = failures(converge("--tags", "firewall"))
    assert "would close 8003/tcp (python3)" in told["broker1"]
    for name in ADDRESSES:
        assert "celery_fleet" not in connect(name).run("nft list tables").stdout, "a host was touched"
    assert changed(converge("--tags", "firewall", celery_firewall_closed_ports=[8003])) > 0
    assert open_from("stranger1", "broker1") == {SSH}


def test_redis_is_as_closed(shop: Shop) -> None:
    assert changed(converge(celery_broker="redis"))
    # RabbitMQ still runs there, for nobody.
    assert open_from("stranger1", "broker1") == {SSH}
    assert open_from("worker1", "broker1") == {SSH, 6380}
    assert open_from("control1", "broker1") == {SSH, 6380, 9100, 9121}
    works(shop)
