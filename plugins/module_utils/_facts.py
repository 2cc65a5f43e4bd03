"""The facts of a host that the plan depends on, from its variables and gathered facts."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from ipaddress import ip_address
from itertools import chain
from pathlib import PurePath
from typing import Any

#: Variables of the brokers' roles that the plan sets, and the variables to set instead.
DERIVED_ROLE_VARIABLES = {
    "rabbitmq_application_user": "celery_app_name",
    "rabbitmq_consumer_timeout": "time_limit and prefetch_multiplier",
    "rabbitmq_flower_control": "celery_flower_control",
    "rabbitmq_flower_user": "celery_app_name",
    "rabbitmq_listen_addresses": "celery_broker_listen_addresses",
    "rabbitmq_max_connections": "celery_web_processes",
    "rabbitmq_max_queues": "celery_web_processes",
    "rabbitmq_open_files": "celery_web_processes",
    "rabbitmq_producer_user": "celery_app_name",
    "rabbitmq_port": "celery_broker_port",
    "rabbitmq_prometheus_listen_address": "celery_broker_metrics_address",
    "rabbitmq_queues": "celery_queues",
    "rabbitmq_secrets_dir": "celery_secrets_dir",
    "rabbitmq_tls": "celery_tls",
    "rabbitmq_tls_port": "celery_broker_tls_port",
    "rabbitmq_vhost": "celery_app_name",
    "rabbitmq_vm_memory_high_watermark": "celery_broker_memory",
    "redis_application_user": "celery_app_name",
    "redis_flavor": "celery_broker",
    "redis_flower_control": "celery_flower_control",
    "redis_flower_user": "celery_app_name",
    "redis_key_prefix": "celery_key_prefix",
    "redis_listen_addresses": "celery_broker_listen_addresses",
    "redis_maxclients": "celery_web_processes",
    "redis_maxmemory": "celery_broker_memory",
    "redis_address": "celery_host_address",
    "redis_members": "celery_broker_group",
    "redis_name": "celery_app_name",
    "redis_producer_user": "celery_app_name",
    "redis_replay_user": "celery_app_name",
    "redis_port": "celery_broker_port",
    "redis_queues": "celery_queues",
    "redis_tls": "celery_tls",
    "redis_tls_port": "celery_broker_tls_port",
    "redis_secrets_dir": "celery_secrets_dir",
}
#: Passwords that several hosts need, by the duty of the host whose value all of them use.
SHARED_PASSWORDS = {
    "broker": (
        "rabbitmq_application_password",
        "rabbitmq_flower_password",
        "rabbitmq_monitoring_password",
        "rabbitmq_producer_password",
        "redis_application_password",
        "redis_flower_password",
        "redis_metrics_password",
        "redis_monitoring_password",
        "redis_producer_password",
        "redis_replay_password",
    ),
    "monitor": ("node_exporter_password",),
}
#: Variables of roles that say where a service listens, with the roles' defaults.
LISTEN_DEFAULTS: Mapping[str, Any] = {
    "alertmanager_listen_address": "127.0.0.1",
    "alertmanager_port": 9093,
    "flower_listen_address": "127.0.0.1",
    "flower_listen_port": 80,
    "flower_tls_certificate": "",
    "node_exporter_port": 9100,
    "prometheus_listen_address": "127.0.0.1",
    "prometheus_port": 9090,
    "rabbitmq_management_listen_address": "127.0.0.1",
    "rabbitmq_management_port": 15672,
    "rabbitmq_prometheus_port": 15692,
    "redis_exporter_port": 9121,
    "redis_ui_listen_address": "127.0.0.1",
    "redis_ui_listen_port": 8081,
    "redis_ui_tls_certificate": "",
}
#: Those of them that are others if the fleet has TLS.
TLS_LISTEN_DEFAULTS: Mapping[str, Any] = {
    "flower_listen_port": 443,
    "rabbitmq_management_port": 15671,
    "rabbitmq_prometheus_port": 15691,
}
#: Variables of a host's own certificate, by the options of the module certificate_check.
CERTIFICATE_VARIABLES = {
    "certificate": "certificate_file",
    "key": "certificate_key_file",
    "ca": "certificate_ca_file",
    "command": "certificate_command",
}
# Tells values apart within one run, without giving them away.
_KEY = secrets.token_bytes(32)
#: Interfaces to which the containers and virtual machines of a host connect.
BRIDGES = ("docker*", "br-*", "podman*", "cni-podman*", "virbr*", "lxdbr*", "lxcbr*")
# Data directories of Debian's brokers are below it.
_DATA = PurePath("/var/lib")


def host_facts(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a host; None where they are not known.

    address: see _address. guessed: whether the host has others, and nothing says which one to use.
    addresses: see _own_addresses. disk: bytes of the file system of the
    brokers' data. system: the distribution and its major version. login: the user that Ansible logs in as.
    listen: those of LISTEN_DEFAULTS that are set. ssh_port: of SSH. names: celery_host_names.
    interruption_notices: celery_host_interruption_notices.
    certificate: those of CERTIFICATE_VARIABLES that are set.
    role_variables: those of DERIVED_ROLE_VARIABLES that are set. variables: all variables that begin with celery_.
    passwords: a token for each of SHARED_PASSWORDS. given_passwords: names whose variables NAME_password are set.
    local: the files of _rotation.FACTS, by their names.
    """
    facts: Mapping[str, Any] = variables.get("ansible_facts") or {}
    reached = str(variables.get("ansible_host") or variables.get("inventory_hostname") or "")
    route = str((facts.get("default_ipv4") or {}).get("address") or "")
    addresses = _own_addresses(facts, {reached, route})
    address, guessed = _address(variables, addresses, reached, route)
    return {
        "memory_mb": facts.get("memtotal_mb"),
        "processors": facts.get("processor_vcpus"),
        "address": address,
        "addresses": addresses,
        "guessed": guessed,
        "declared_memory": variables.get("celery_host_memory"),
        "disk": _file_system_size(facts.get("mounts") or ()),
        "system": [facts["distribution"], facts["distribution_major_version"]] if "distribution" in facts else None,
        "machine_id": facts.get("machine_id"),
        "nodename": facts.get("nodename"),
        "login": variables.get("ansible_user"),
        "listen": {name: variables[name] for name in LISTEN_DEFAULTS if name in variables},
        "ssh_port": variables.get("ansible_port"),
        "names": variables.get("celery_host_names"),
        "interruption_notices": variables.get("celery_host_interruption_notices"),
        "certificate": {
            option: variables[name] for option, name in CERTIFICATE_VARIABLES.items() if variables.get(name)
        },
        "variables": [name for name in variables if str(name).startswith("celery_")],
        "role_variables": [name for name in DERIVED_ROLE_VARIABLES if name in variables],
        "passwords": {
            name: hmac.digest(_KEY, str(variables[name]).encode(), "sha256").hex()
            for name in chain.from_iterable(SHARED_PASSWORDS.values())
            if name in variables
        },
        "given_passwords": [
            str(name).removesuffix("_password") for name in variables if str(name).endswith("_password")
        ],
        # The one fact that keeps its prefix.
        "local": facts.get("ansible_local"),
    }


def _own_addresses(facts: Mapping[str, Any], used: Collection[str]) -> list[str]:
    """Return the addresses of a host's interfaces, except loopback, link-local ones, and those of BRIDGES.

    The bridges' addresses are the same on many hosts, and come and go with containers.

    Args:
        used: addresses that are those of the host, also on a bridge.
    """
    # A fact's name has underscores.
    patterns = [pattern.replace("-", "_") for pattern in BRIDGES]
    named = (fact for name, fact in facts.items() if any(fnmatchcase(name, pattern) for pattern in patterns))
    bridges = [fact for fact in named if isinstance(fact, Mapping)]
    held = chain.from_iterable([bridge.get("ipv4") or {}, *(bridge.get("ipv6") or ())] for bridge in bridges)
    hidden = {each.get("address") for each in held} - {*used}
    found = [*(facts.get("all_ipv4_addresses") or ()), *(facts.get("all_ipv6_addresses") or ())]
    return [
        each for each in found if not (ip_address(each).is_loopback or ip_address(each).is_link_local or each in hidden)
    ]


def _address(variables: Mapping[str, Any], addresses: list[str], reached: str, route: str) -> tuple[str, bool]:
    """Return the address of a host for other hosts, and whether it is a guess among several.

    celery_host_address; else the address that Ansible connects to, if an interface has it; else that of the default
    route. The address that Ansible connects to may be a name, or that of a NAT, on which nothing can listen. It is used
    only if nothing else is known.

    Args:
        addresses: addresses of the host's interfaces.
        reached: what Ansible connects to.
        route: address of its default route; empty if it has none or is not known.
    """
    if declared := variables.get("celery_host_address"):
        return str(declared), False
    if reached in addresses:
        return reached, False
    if route:
        family = [each for each in addresses if ip_address(each).version == ip_address(route).version]
        return route, len(family) > 1
    return (addresses[0], False) if len(addresses) == 1 else (reached, len(addresses) > 1)


def _file_system_size(mounts: Iterable[Mapping[str, Any]]) -> int | None:
    above = [mount for mount in mounts if _DATA.is_relative_to(mount["mount"])]
    return max(above, key=lambda mount: len(mount["mount"]))["size_total"] if above else None
