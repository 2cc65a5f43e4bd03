"""Which hosts and networks reach which port, by the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.fleet.celery.plugins.module_utils._facts import (
    LISTEN_DEFAULTS,
    TLS_LISTEN_DEFAULTS,
    host_facts,
)
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from fleet import declaration

ROOT = Path(__file__).parents[3]
GROUPS = {
    "broker": ["b1"],
    "workers": ["w1", "w2"],
    "beat": ["c1"],
    "flower": ["c1"],
    "monitor": ["m1"],
    "producers": ["web1"],
}
ADDRESS = {"b1": "10.0.0.1", "w1": "10.0.0.2", "w2": "10.0.0.3", "c1": "10.0.0.4", "m1": "10.0.0.5", "web1": "10.0.0.6"}


def facts(**changes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: host_facts(
            {
                "inventory_hostname": name,
                "ansible_facts": {"all_ipv4_addresses": [address], "default_ipv4": {"address": address}},
                **changes.get(name, {}),
            }
        )
        for name, address in ADDRESS.items()
    }


def plan(raw: dict[str, Any] | None = None, **changes: dict[str, Any]) -> Plan:
    workers = [{"name": "main", "group": "workers", "queues": ["default"]}]
    queues = [{"name": "default", "tasks": ["*"]}]
    return make_plan(declaration(workers=workers, queues=queues, **raw or {}), GROUPS, facts(**changes))


def open_ports(made: Plan, host: str) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return the port of each service of a host, and who reaches it."""
    assert not made.problems, made.problems
    return {
        each.service: (each.port, ("everyone",) if each.everyone else (*each.hosts, *each.networks))
        for each in made.fleet.hosts[host].listeners
    }


def test_a_fleet_needs_few_ports() -> None:
    made = plan()
    assert open_ports(made, "b1") == {
        "SSH": (22, ("everyone",)),
        "RabbitMQ, TLS": (5671, ("w1", "w2", "c1", "web1")),
        "RabbitMQ's metrics": (15691, ("m1",)),
        "host metrics": (9100, ("m1",)),
    }
    assert open_ports(made, "w1") == {"SSH": (22, ("everyone",)), "host metrics": (9100, ("m1",))}
    assert open_ports(made, "m1") == {"SSH": (22, ("everyone",))}
    (broker,) = [each for each in made.fleet.hosts["b1"].listeners if each.service == "RabbitMQ, TLS"]
    assert broker.addresses == ("10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.6")


def test_a_broker_may_listen_with_and_without_tls() -> None:
    clients = ("w1", "w2", "c1", "web1")
    found = open_ports(plan({"tls": "both", "broker_port": 1234}), "b1")
    assert (found["RabbitMQ"], found["RabbitMQ, TLS"]) == ((1234, clients), (5671, clients))
    found = open_ports(plan({"tls": "off"}), "b1")
    assert found["RabbitMQ"] == (5672, clients)
    assert found["RabbitMQ's metrics"] == (15692, ("m1",))
    assert "RabbitMQ, TLS" not in found


def test_a_certificate_has_all_names_by_which_clients_reach_its_host() -> None:
    names = {"celery_host_names": ["queue.example.com"]}
    made = plan({"broker_address": "broker.example.org"}, b1=names, w1={"ansible_facts": {"nodename": "vm_1"}})
    local = ("localhost", "127.0.0.1")
    assert made.fleet.hosts["b1"].certificate_names == (
        "b1",
        "10.0.0.1",
        "broker.example.org",
        "queue.example.com",
        *local,
    )
    assert made.fleet.hosts["w1"].certificate_names == ("w1", *local), "vm_1 is not a valid name in a certificate"
    assert {host.certificate_names for host in plan({"tls": "off"}).fleet.hosts.values()} == {()}


def test_a_worker_without_metrics_needs_no_certificate() -> None:
    groups = {name: hosts for name, hosts in GROUPS.items() if name != "monitor"}
    workers = [{"name": "main", "group": "workers", "queues": ["default"]}]
    made = make_plan(declaration(workers=workers, queues=[{"name": "default"}]), groups, facts())
    assert {name for name, host in made.fleet.hosts.items() if host.certificate_names} == {"b1", "c1"}


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1", ""),
        ("10.0.0.1", "https://10.0.0.1:15671/api/"),
        ("0.0.0.0", "https://[fd00::1]:15671/api/"),  # noqa: S104
    ],
)
def test_flower_uses_the_management_api_where_it_reaches_it(listen: str, url: str) -> None:
    at = {"rabbitmq_management_listen_address": listen}
    address = {"celery_host_address": "fd00::1", "ansible_facts": {"all_ipv6_addresses": ["fd00::1"]}}
    assert plan(b1=at | address).fleet.flower_broker_api == url
    assert plan({"broker": "redis"}, b1=at | address).fleet.flower_broker_api == ""


def test_flower_on_the_brokers_host_uses_the_management_api_there() -> None:
    groups = {"broker": ["b1"], "flower": ["b1"], "workers": ["w1"]}
    raw = declaration(
        workers=[{"name": "main", "group": "workers", "queues": ["default"]}], queues=[{"name": "default"}]
    )
    assert make_plan({**raw, "tls": "off"}, groups, facts()).fleet.flower_broker_api == "http://127.0.0.1:15672/api/"


def test_nginx_serves_the_certificate_of_its_host_unless_a_page_has_its_own() -> None:
    listen = {"redis_ui_listen_address": "0.0.0.0"}  # noqa: S104 - what a user sets
    made = plan({"broker": "redis"}, b1=listen, c1={"flower_tls_certificate": "/own.crt"})
    pages = {name: [(page.address, page.port) for page in host.tls_pages] for name, host in made.fleet.hosts.items()}
    assert pages == {"b1": [("127.0.0.1", 8081), ("10.0.0.1", 9121)], "w1": [], "w2": [], "c1": [], "m1": []}
    assert [(page.address, page.port) for page in plan().fleet.hosts["c1"].tls_pages] == [("127.0.0.1", 443)]


def test_the_sources_of_certificates_are_those_of_each_host() -> None:
    own = {"certificate_file": "/b1.crt", "certificate_key_file": "/b1.key", "certificate_ca_file": "/ca.crt"}
    found = plan(b1=own).fleet.certificate_hosts
    assert found["b1"] == {
        "names": ("10.0.0.1",),
        "certificate": "/b1.crt",
        "key": "/b1.key",
        "ca": "/ca.crt",
    }
    assert found["web1"] == {"names": ()}
    assert plan({"tls": "off"}).fleet.certificate_hosts == {}


@pytest.mark.parametrize(("release", "strict"), [(12, False), (13, True)])
def test_clients_on_debian_13_verify_strictly(release: int, strict: bool) -> None:
    system = {"distribution": "Debian", "distribution_major_version": str(release)}
    assert plan(w1={"ansible_facts": system}).fleet.strict_certificates is strict


def test_the_certificates_of_all_endpoints_are_monitored() -> None:
    assert plan({"tls": "off", "certificate_targets": ["https://web"]}).fleet.certificates == ("https://web",)
    exporters = ("10.0.0.1:9100", "10.0.0.2:9100", "10.0.0.3:9100", "10.0.0.4:9100", "127.0.0.1:9100")
    fleet = plan({"broker": "redis"}).fleet
    assert fleet.verified_endpoints == ("10.0.0.1:6380", *exporters)
    assert fleet.certificates == (*fleet.verified_endpoints, "10.0.0.1:9121"), "no page on the loopback of others"
    assert plan({"tls": "off"}).fleet.verified_endpoints == ()
    pages = plan({"broker": "redis"}, c1={"flower_listen_address": "10.0.0.4"}).fleet.certificates
    assert "10.0.0.4:443" in pages


def test_pages_are_open_for_people() -> None:
    raw = {"firewall_page_sources": ["10.9.0.0/24"], "firewall_ssh_sources": ["10.8.0.1"]}
    made = plan(
        raw,
        b1={"rabbitmq_management_listen_address": "10.0.0.1"},
        c1={"flower_listen_address": "10.0.0.4", "flower_tls_certificate": "/cert.pem", "ansible_port": 2222},
        m1={"prometheus_listen_address": "10.0.0.5", "prometheus_port": 9999},
    )
    assert open_ports(made, "b1")["RabbitMQ's pages"] == (15671, ("c1", "10.9.0.0/24"))
    assert open_ports(made, "c1")["Flower"] == (443, ("10.9.0.0/24",))
    assert open_ports(made, "c1")["SSH"] == (2222, ("10.8.0.1",))
    found = open_ports(made, "m1")
    assert found["Prometheus"] == (9999, ("10.9.0.0/24",))
    assert "Alertmanager" not in found, "it listens on loopback"


def test_redis_is_reached_by_its_clients() -> None:
    made = plan({"broker": "redis", "firewall_broker_sources": ["192.0.2.0/24"]})
    found = open_ports(made, "b1")
    assert found["Redis, TLS"] == (6380, ("w1", "w2", "c1", "web1", "192.0.2.0/24"))
    assert found["Redis' metrics"] == (9121, ("m1",))
    assert "Redis' page" not in found


def test_ports_of_ones_own_stay_open() -> None:
    ports = [{"port": 443}, {"port": 53, "protocol": "udp", "sources": ["10.0.0.0/8"]}]
    listeners = plan({"firewall_ports": ports}).fleet.hosts["w1"].listeners
    own = [(each.port, each.protocol, each.networks, each.everyone) for each in listeners if each.service == "your own"]
    assert own == [(53, "udp", ("10.0.0.0/8",), False), (443, "tcp", (), True)]


def test_all_addresses_of_a_client_are_let_in() -> None:
    both = {"ansible_facts": {"all_ipv4_addresses": ["10.0.0.2", "192.168.0.2"], "all_ipv6_addresses": ["fd00::2"]}}
    made = plan(w1=both | {"celery_host_address": "10.0.0.2"})
    (broker,) = [each for each in made.fleet.hosts["b1"].listeners if each.service == "RabbitMQ, TLS"]
    assert broker.addresses[:3] == ("10.0.0.2", "192.168.0.2", "fd00::2")


@pytest.mark.parametrize("address", ["w1.example.org", "10.0.0.2"])
def test_a_client_of_which_there_are_no_facts_is_named(address: str) -> None:
    unknown = {"ansible_facts": {}, "ansible_host": address}
    made = plan({"firewall": True}, w1=unknown)
    assert made.fleet.hosts["b1"].unknown_clients == ("w1",)
    assert made.fleet.hosts["w2"].unknown_clients == ()


@pytest.mark.parametrize(
    ("value", "enabled"),
    [(None, True), ("", True), (True, True), ("true", True), (False, False), ("False", False)],
)
def test_it_is_enabled_unless_a_variable_says_otherwise(value: object, enabled: bool) -> None:
    assert plan({"firewall": value}).fleet.firewall is enabled


def test_variables_that_do_nothing_are_named() -> None:
    off = {"firewall": False, "firewall_ports": [{"port": 80}]}
    assert any("celery_firewall is false" in text for text in plan(off).warnings)
    for raw in ({}, {"firewall": False}):
        assert not any("firewall" in text for text in plan(raw).warnings)


def test_a_single_host_needs_nothing_but_ssh() -> None:
    groups = {name: ["b1"] for name in ("broker", "workers", "beat", "flower", "monitor")}
    raw = declaration(
        workers=[{"name": "main", "group": "workers", "queues": ["default"]}], queues=[{"name": "default"}]
    )
    made = make_plan({**raw, "broker_address": "127.0.0.1"}, groups, facts())
    assert open_ports(made, "b1") == {"SSH": (22, ("everyone",))}
    page = {"flower_listen_address": "10.0.0.1"}
    made = make_plan({**raw, "firewall_page_sources": ["192.0.2.0/24"]}, groups, facts(b1=page))
    assert open_ports(made, "b1") == {"SSH": (22, ("everyone",)), "Flower": (80, ("192.0.2.0/24",))}


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"firewall_page_sources": ["10.0.0.1/24"]}, "celery_firewall_page_sources: '10.0.0.1/24' is not a network"),
        ({"firewall_ssh_sources": "10.0.0.0/24"}, "celery_firewall_ssh_sources: '10.0.0.0/24' is not a list"),
        ({"firewall_ports": [{"port": 0}]}, "celery_firewall_ports[0].port: 0 is not a port"),
        ({"firewall_ports": [{"protocol": "tcp"}]}, "celery_firewall_ports[0].port: is missing"),
        ({"firewall_ports": [{"port": 1, "protocol": "icmp"}]}, "'icmp' is not a valid value"),
        ({"firewall_ports": [{"port": 1, "source": "x"}]}, "did you mean 'sources'?"),
        ({"firewall_closed_ports": 80}, "celery_firewall_closed_ports: 80 is not a list"),
        ({"firewall_closed_ports": [70000]}, "70000 is not a port"),
        ({"tls": True}, "celery_tls: True is not a valid value"),
        ({"tls": "onyl"}, "did you mean 'only'?"),
        ({"tls": "only", "broker_port": 1234}, "celery_broker_port: has no effect, because all connections have TLS"),
        ({"tls": False, "broker_tls_port": 1234}, "celery_broker_tls_port: has no effect"),
        ({"tls": "both", "broker_tls_port": 5672}, "celery_broker_tls_port: 5672 is the port without TLS, too"),
        ({"settings": {"broker_use_ssl": True}}, "celery_settings.broker_use_ssl: is set by the plan"),
        ({"firewall": "yes please"}, "celery_firewall: 'yes please' is neither true nor false"),
    ],
)
def test_mistakes_are_refused(raw: dict[str, Any], problem: str) -> None:
    (found,) = plan(raw).problems
    assert problem in str(found)


def test_ports_are_those_of_the_roles_defaults() -> None:
    defaults: dict[str, Any] = {}
    for path in ROOT.glob("roles/*/defaults/main.yml"):
        defaults |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    tls = {"flower": "flower_tls_certificate", "rabbitmq": "rabbitmq_tls"}
    for name, port in LISTEN_DEFAULTS.items():
        secure = TLS_LISTEN_DEFAULTS.get(name)
        expected = f"{{{{ {secure} if {tls[name.partition('_')[0]]} else {port} }}}}" if secure else port
        assert defaults[name] == expected
