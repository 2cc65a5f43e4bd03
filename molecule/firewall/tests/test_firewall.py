"""From each host, only the ports that the plan names are open, and the controller can't shut itself out."""

from __future__ import annotations

import os
import shlex
import ssl
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from shared.deployed import Shop, call, connect, wait_until
from shared.lab import SCAN, SERVE, reboot
from shared.monitor import CA, Monitor
from shared.playbook import changed, converge, failures, run_playbook

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
# The addresses of a host end with its number.
V4, V6 = "10.90.31.", "fd00:10:90:31::"
NUMBERS = {"broker1": 11, "worker1": 21, "control1": 31, "stranger1": 41}
SSH, OWN_TO_ONE, OWN, PUBLISHED = 22, 8001, 8002, 8080
# A user's own rules.
OWN_TABLE = """flush ruleset
table ip own {
  chain input {
    type filter hook input priority 10;
    tcp dport 9 drop
  }
}"""
BACKGROUND = "systemd-run --quiet --unit {} python3 -c {}"
HOLD = f"import socket, time; held = socket.create_connection(('{V4}{NUMBERS['worker1']}', 9100)); time.sleep(3600)"
SEND_LATE = """
import pathlib, socket, time
connection, _ = socket.create_server(("", 8004)).accept()
while not pathlib.Path("/run/send").exists():
    time.sleep(0.2)
connection.sendall(b"late")
"""
RECEIVE = f"""
import pathlib, socket
received = socket.create_connection(("{V4}{NUMBERS["stranger1"]}", 8004)).recv(100)
pathlib.Path("/run/received").write_bytes(received)
"""
# A container that publishes a port. Its host is a container, too, so /proc/sys is read-only, and it can neither stack
# overlays nor set limits.
CONTAINER = f"""
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq --yes install --no-install-recommends podman netavark iptables busybox-static
mount -o remount,bind,rw /proc/sys
cat > /etc/containers/storage.conf << END
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
END
mkdir -p /srv/image/bin /srv/image/www
cp /bin/busybox /srv/image/bin/
echo of the container > /srv/image/www/index.html
tar -C /srv/image -c . | podman import - web
podman run --detach --name web --cgroups disabled --publish {PUBLISHED}:80 web /bin/busybox httpd -f -h /www
"""


@pytest.fixture
def shop() -> Shop:
    return Shop("worker1", ("worker1",))


def open_from(source: str, target: str) -> tuple[set[int], set[int]]:
    """Return the ports of a host that are open for another one by IPv4 and by IPv6."""
    host = connect(source)
    v4, v6 = (
        {int(port) for port in host.check_output(f"python3 -c {shlex.quote(SCAN)} {prefix}{NUMBERS[target]}").split()}
        for prefix in (V4, V6)
    )
    return v4, v6


def works(shop: Shop) -> None:
    """Fail unless a task is done, and all targets are scraped."""
    shop.run(call("customers.noop"))
    monitor = Monitor("10.90.31.31")
    # Without targets that are not scraped any more, whose last values stay for five minutes.
    up = "min(up and time() - timestamp(up) < 30)"
    wait_until(lambda: monitor.value(up) == 1, "a target is not scraped")


def test_a_stranger_reaches_ssh_and_what_is_open_for_everyone() -> None:
    for port in (OWN_TO_ONE, OWN):
        connect("control1").check_output(SERVE.format(port))
    assert open_from("stranger1", "broker1") == ({SSH}, {SSH})
    assert open_from("stranger1", "worker1") == ({SSH}, {SSH})
    assert open_from("stranger1", "control1") == ({SSH, OWN}, {SSH, OWN})


def test_hosts_reach_what_they_need(shop: Shop) -> None:
    assert open_from("worker1", "broker1") == ({SSH, 5671}, {SSH, 5671})
    assert open_from("control1", "broker1") == ({SSH, 5671, 9100, 15671, 15691}, {SSH, 5671})
    assert open_from("control1", "worker1") == ({SSH, 9100}, {SSH})
    assert open_from("worker1", "control1") == ({SSH, OWN_TO_ONE, OWN}, {SSH, OWN_TO_ONE, OWN})
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
    assert open_from("stranger1", "worker1") == ({SSH}, {SSH})
    assert changed(converge("--limit", "worker1", "--tags", "firewall")) == 0
    works(shop)


def page_of_container(host: Any) -> str:
    """Return what a container of worker1 serves, as another host gets it."""
    url = f"http://{V4}{NUMBERS['worker1']}:{PUBLISHED}/"
    page: str = host.check_output(
        f"python3 -c 'import urllib.request as u; print(u.urlopen(\"{url}\").read().decode())'"
    )
    return page.strip()


def test_containers_keep_their_connections() -> None:
    host, stranger = connect("worker1"), connect("stranger1")
    host.check_output(CONTAINER)
    assert page_of_container(stranger) == "of the container"
    assert open_from("stranger1", "worker1") == ({SSH, PUBLISHED}, {SSH})
    assert changed(converge("--limit", "worker1", "--tags", "firewall")) == 0
    # It reaches its host and others.
    for address in ("10.88.0.1", f"{V4}{NUMBERS['stranger1']}"):
        host.check_output(f"podman exec web /bin/busybox nc -w 20 {address} {SSH} < /dev/null | grep SSH")


def test_a_service_or_client_that_would_be_shut_out_stops_the_run() -> None:
    assert changed(converge("--tags", "firewall", celery_firewall=False)) > 0
    broker, worker, stranger = (connect(name) for name in ("broker1", "worker1", "stranger1"))
    assert "celery_fleet" not in broker.check_output("nft list tables")
    assert 5671 in open_from("stranger1", "broker1")[0]
    broker.check_output(SERVE.format(8003))
    stranger.check_output(BACKGROUND.format("hold", shlex.quote(HOLD)))
    wait_until(lambda: worker.check_output("ss -Htn state established sport = 9100 dst 10.90.31.41"), "no connection")
    told = failures(converge())
    assert "would close 8003/tcp (python3) of this host. No rule" in told["broker1"]
    assert "would refuse 10.90.31.41 at 9100/tcp (host metrics), which are connected now" in told["worker1"]
    assert str(PUBLISHED) not in told["worker1"]
    for name in ("broker1", "worker1", "control1"):
        assert "celery_fleet" not in connect(name).run("nft list tables").stdout, "a host was touched"
    stranger.check_output("systemctl stop hold")


def test_connections_outlive_the_start_of_the_firewall(shop: Shop) -> None:
    """Also one on which the other side is the next to send: for the kernel, it is a new connection."""
    worker, stranger = connect("worker1"), connect("stranger1")
    stranger.check_output(BACKGROUND.format("server", shlex.quote(SEND_LATE)))
    wait_until(lambda: stranger.check_output("ss -Htln sport = 8004"), "the server does not listen")
    worker.check_output(BACKGROUND.format("client", shlex.quote(RECEIVE)))
    wait_until(lambda: worker.check_output("ss -Htn dport = 8004"), "the client does not connect")
    to_broker = "ss -Htn state established dport = 5671 | awk '{print $3}'"
    before = set(worker.check_output(to_broker).split())
    assert changed(converge("--tags", "firewall", celery_firewall_closed_ports=[8003])) > 0
    stranger.check_output("touch /run/send")
    wait_until(lambda: worker.run("cat /run/received").stdout == "late", "nothing is received")
    works(shop)
    assert before <= set(worker.check_output(to_broker).split())
    assert open_from("stranger1", "broker1") == ({SSH}, {SSH})
    assert page_of_container(stranger) == "of the container"


def test_redis_is_as_closed(shop: Shop) -> None:
    assert changed(converge(celery_broker="redis"))
    # RabbitMQ still runs there, for nobody.
    assert open_from("stranger1", "broker1") == ({SSH}, {SSH})
    assert open_from("worker1", "broker1") == ({SSH, 6380}, {SSH, 6380})
    assert open_from("control1", "broker1") == ({SSH, 6380, 9100, 9121}, {SSH, 6380})
    works(shop)
