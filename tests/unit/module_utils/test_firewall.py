"""The firewall's rules, and which services they would close."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._firewall import closed_services, refused_clients, ruleset

CONNECTION = "192.0.2.7 50022 10.0.0.11 22"


def listener(service: str, port: int, *addresses: str, **given: Any) -> dict[str, Any]:
    rest = {"protocol": "tcp", "hosts": [], "networks": [], "everyone": False}
    return {"service": service, "port": port, "addresses": list(addresses), **rest, **given}


def rules(*listeners: dict[str, Any], connection: str = CONNECTION) -> list[str]:
    """Return the lines of the rules for listeners."""
    lines = [line.strip() for line in ruleset(listeners, connection).splitlines()]
    return [line for line in lines if "comment" in line]


def test_a_port_is_open_for_those_who_need_it() -> None:
    assert rules(listener("Redis", 6379, "10.0.0.2", "fd00::2", networks=["10.1.0.0/16"])) == [
        'ip saddr { 10.0.0.2, 10.1.0.0/16 } tcp dport { 6379 } accept comment "Redis"',
        'ip6 saddr { fd00::2 } tcp dport { 6379 } accept comment "Redis"',
    ]


def test_overlapping_sources_are_joined() -> None:
    (rule,) = rules(listener("Redis", 6379, "10.0.0.2", "10.0.0.2", networks=["10.0.0.0/24"]))
    assert "saddr { 10.0.0.0/24 } " in rule


def test_a_port_for_everyone_has_no_sources() -> None:
    assert rules(listener("your own", 53, protocol="udp", everyone=True)) == [
        'udp dport { 53 } accept comment "your own"'
    ]


def test_nobody_reaches_a_port_without_sources() -> None:
    assert rules(listener("Redis", 6379)) == []


def test_the_controller_reaches_the_port_that_it_came_through() -> None:
    ssh = listener("SSH", 2222, networks=["10.9.0.0/24"])
    (rule,) = rules(ssh)
    assert rule.startswith("ip saddr { 10.9.0.0/24, 192.0.2.7 } tcp dport { 22, 2222 } ")
    (rule,) = rules(ssh, connection="fe80::1%eth0 5 fe80::2%eth0 22")[1:]
    assert rule.startswith("ip6 saddr { fe80::1 } ")
    assert "192.0.2.7" not in "".join(rules(ssh, connection=""))


def test_only_bridges_of_the_host_are_trusted() -> None:
    def trusted(routes: str) -> str:
        return next(line.strip() for line in ruleset([], "", routes).splitlines() if "br-*" in line)

    assert trusted("default via 10.0.0.1 dev eth0 proto static\n") == 'iifname "br-*" accept'
    by_bridge = "default via 10.0.0.1 dev br-lan proto static\ndefault via fe80::1 dev br-lan\n"
    assert trusted(by_bridge) == 'iifname != { "br-lan" } iifname "br-*" accept'


SOCKETS = """\
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3))
tcp LISTEN 0 511 *:80 *:* users:(("nginx",pid=2,fd=3),("nginx",pid=3,fd=3))
tcp LISTEN 0 128 127.0.0.1:25 0.0.0.0:* users:(("exim4",pid=4,fd=3))
tcp LISTEN 0 128 [::1]:25 [::]:* users:(("exim4",pid=4,fd=4))
tcp LISTEN 0 128 [::ffff:127.0.0.1]:26 *:*
tcp LISTEN 0 128 10.0.0.11:5672 0.0.0.0:* users:(("beam.smp",pid=5,fd=3))
udp UNCONN 0 0 0.0.0.0:51820 0.0.0.0:*
udp UNCONN 0 0 0.0.0.0:1194 0.0.0.0:*
udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=6,fd=3))
udp UNCONN 0 0 10.0.0.11%eth0:68 0.0.0.0:* users:(("dhclient",pid=7,fd=3))
"""


@pytest.mark.parametrize(
    ("accepted", "closed"),
    [
        ((), ["80/tcp (nginx)", "1194/udp (unknown program)"]),
        ((80, 1194), []),
    ],
)
def test_services_that_would_be_closed_are_named(accepted: tuple[int, ...], closed: list[str]) -> None:
    planned = [listener("SSH", 22), listener("RabbitMQ", 5672)]
    assert closed_services(SOCKETS, planned, accepted) == closed


def test_published_ports_of_containers_are_not_closed() -> None:
    held = """\
tcp LISTEN 0 4096 0.0.0.0:8080 0.0.0.0:* users:(("conmon",pid=1,fd=5))
tcp LISTEN 0 4096 0.0.0.0:8081 0.0.0.0:* users:(("docker-proxy",pid=2,fd=4))
"""
    assert closed_services(held, [], ()) == []
    # docker-proxy itself accepts their connections by IPv6, and those of rootlesskit by both.
    accepting = """\
tcp LISTEN 0 4096 [::]:8081 [::]:* users:(("docker-proxy",pid=3,fd=4))
tcp LISTEN 0 4096 *:8082 *:* users:(("rootlessport",pid=4,fd=9))
"""
    assert closed_services(accepting, [], ()) == ["8081/tcp (docker-proxy)", "8082/tcp (rootlessport)"]


CONNECTIONS = """\
0 0 10.0.0.11:5671 10.0.0.2:40000
0 0 [::ffff:10.0.0.11]:5671 [::ffff:192.0.2.9]:40000
0 0 10.0.0.11:5671 192.0.2.9:40001
0 0 10.0.0.11:5671 10.0.0.11:40002
0 0 10.0.0.11:5671 172.17.0.5:40003
0 0 [fe80::1]%eth0:5671 [fe80::2]:40004
0 0 127.0.0.1:5671 127.0.0.1:40005
0 0 10.0.0.11:22 192.0.2.9:40006
0 0 10.0.0.11:9100 192.0.2.8:40007
0 0 10.0.0.11:40000 192.0.2.8:5432
"""
INTERFACES = """\
1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever
2: eth0    inet 10.0.0.11/24 brd 10.0.0.255 scope global eth0\\       valid_lft forever preferred_lft forever
2: eth0    inet6 fe80::1/64 scope link \\       valid_lft forever preferred_lft forever
3: docker0    inet 172.17.0.1/16 brd 172.17.255.255 scope global docker0\\       valid_lft forever preferred_lft forever
"""


@pytest.mark.parametrize(
    ("own", "accepted", "refused"),
    [
        ([], [], ["192.0.2.8 at 9100/tcp (host metrics)", "192.0.2.9 at 5671/tcp (RabbitMQ, TLS)"]),
        ([], [5671, 9100], []),
        ([listener("your own", 5671, everyone=True)], [9100], []),
        ([listener("your own", 5671, networks=["192.0.2.9"])], [9100], []),
    ],
)
def test_connected_clients_that_would_be_refused_are_named(
    own: list[dict[str, Any]], accepted: list[int], refused: list[str]
) -> None:
    planned = [
        listener("SSH", 22, networks=["10.9.0.0/24"]),
        listener("RabbitMQ, TLS", 5671, "10.0.0.2", networks=["fe80::/64"]),
        listener("host metrics", 9100, "10.0.0.3"),
    ]
    assert refused_clients(CONNECTIONS, INTERFACES, [*planned, *own], accepted) == refused


def test_a_range_of_ports_is_one_rule() -> None:
    listener = {"service": "rabbitmqctl", "port": 35672, "last_port": 35682, "protocol": "tcp", "everyone": False}
    listener |= {"addresses": ["10.0.0.2"], "networks": []}
    assert "ip saddr { 10.0.0.2 } tcp dport { 35672-35682 } accept" in ruleset([listener], "")
    sockets = 'tcp LISTEN 0 128 10.0.0.1:35675 0.0.0.0:* users:(("beam.smp",pid=1,fd=1))'
    assert closed_services(sockets, [listener], ()) == []
