"""Which hosts and networks reach which port, by the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.fleet.celery.plugins.module_utils._facts import LISTEN_DEFAULTS, host_facts
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
        "RabbitMQ": (5672, ("w1", "w2", "c1", "web1")),
        "RabbitMQ's metrics": (15692, ("m1",)),
        "host metrics": (9100, ("m1",)),
    }
    assert open_ports(made, "w1") == {"SSH": (22, ("everyone",)), "host metrics": (9100, ("m1",))}
    assert open_ports(made, "m1") == {"SSH": (22, ("everyone",))}
    (broker,) = [each for each in made.fleet.hosts["b1"].listeners if each.service == "RabbitMQ"]
    assert broker.addresses == ("10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.6")


def test_pages_are_open_for_people() -> None:
    raw = {"firewall_page_sources": ["10.9.0.0/24"], "firewall_ssh_sources": ["10.8.0.1"]}
    made = plan(
        raw,
        b1={"rabbitmq_management_listen_address": "10.0.0.1"},
        c1={"flower_listen_address": "10.0.0.4", "flower_tls_certificate": "/cert.pem", "ansible_port": 2222},
        m1={"prometheus_listen_address": "10.0.0.5", "prometheus_port": 9999},
    )
    assert open_ports(made, "b1")["RabbitMQ's pages"] == (15672, ("c1", "10.9.0.0/24"))
    assert open_ports(made, "c1")["Flower"] == (443, ("10.9.0.0/24",))
    assert open_ports(made, "c1")["SSH"] == (2222, ("10.8.0.1",))
    found = open_ports(made, "m1")
    assert found["Prometheus"] == (9999, ("10.9.0.0/24",))
    assert "Alertmanager" not in found, "it listens on loopback"


def test_redis_is_reached_by_its_clients() -> None:
    made = plan({"broker": "redis", "firewall_broker_sources": ["192.0.2.0/24"]})
    found = open_ports(made, "b1")
    assert found["Redis"] == (6379, ("w1", "w2", "c1", "web1", "192.0.2.0/24"))
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
    (broker,) = [each for each in made.fleet.hosts["b1"].listeners if each.service == "RabbitMQ"]
    assert broker.addresses[:3] == ("10.0.0.2", "192.168.0.2", "fd00::2")


@pytest.mark.parametrize("address", ["w1.example.org", "10.0.0.2"])
def test_a_client_of_which_there_are_no_facts_is_named(address: str) -> None:
    unknown = {"ansible_facts": {}, "ansible_host": address}
    made = plan({"firewall": True}, w1=unknown)
    assert made.fleet.hosts["b1"].unknown_clients == ("w1",)
    assert made.fleet.hosts["w2"].unknown_clients == ()
    assert any("the firewall of b1 stays as it is, because the addresses of w1" in text for text in made.warnings)


@pytest.mark.parametrize(("value", "enabled"), [("true", True), ("False", False), (True, True), (None, False)])
def test_it_is_enabled_by_a_variable_of_the_command_line_too(value: object, enabled: bool) -> None:
    assert plan({"firewall": value}).fleet.firewall is enabled


def test_variables_that_do_nothing_are_named() -> None:
    assert any("celery_firewall is false" in text for text in plan({"firewall_ports": [{"port": 80}]}).warnings)
    assert not any("firewall" in text for text in plan().warnings)


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
    same = {name: defaults[name] for name in LISTEN_DEFAULTS if name != "flower_listen_port"}
    assert same == {name: value for name, value in LISTEN_DEFAULTS.items() if name != "flower_listen_port"}
    assert defaults["flower_listen_port"] == "{{ 443 if flower_tls_certificate else 80 }}"
