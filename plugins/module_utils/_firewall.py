"""The fleet's table of nftables, and what it would close.

Pure. The table is beside those of others: what they drop stays dropped, and what they accept still needs a rule here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._access import DECLARED_SERVICES, SSH
from ansible_collections.fleet.celery.plugins.module_utils._facts import BRIDGES

TABLE = "celery_fleet"
# Hold the published ports of containers, whose connections are forwarded. docker-proxy accepts those of IPv6 itself.
_PUBLISHERS = ("conmon", "docker-proxy")
# Clients of DHCP, time and multicast DNS listen on all addresses, but get replies only.
_CLIENT_PORTS = frozenset({68, 123, 323, 546, 5353})
# Linux gives ports from here to clients that ask for none (ip_local_port_range).
_EPHEMERAL = 32768


def ruleset(listeners: Iterable[Mapping[str, Any]], ssh_connection: str, routes: str = "") -> str:
    """Return the table as a file for nft, which replaces the one that is loaded.

    Containers and virtual machines of the host reach it, e.g. its DNS server. Their published ports are forwarded,
    which passes by this chain.

    Args:
        listeners: of the plan's host.
        ssh_connection: SSH_CONNECTION on the host: the controller's address and port, and the host's. Empty if there is
            none.
        routes: output of `ip route show default`. What comes by them is not of the host, also by a bridge.
    """
    controller, ssh_port = session(ssh_connection)
    rules = []
    for each in listeners:
        ports = {int(each["port"])}
        sources = [*each["addresses"], *each["networks"]]
        if each["service"] == SSH and ssh_port:
            ports.add(ssh_port)
            sources.append(controller)
        found = [""] if each["everyone"] else _matches(sources)
        port = ", ".join(map(str, sorted(ports))) + (f"-{last}" if (last := each.get("last_port")) else "")
        rules += [f'{match}{each["protocol"]} dport {{ {port} }} accept comment "{each["service"]}"' for match in found]
    uplinks = ", ".join(f'"{name}"' for name in sorted(set(re.findall(r"\bdev (\S+)", routes))) if _is_bridge(name))
    not_uplink = f"iifname != {{ {uplinks} }} " if uplinks else ""
    lines = [
        "type filter hook input priority filter; policy drop;",
        "ct state established,related accept",
        # All but the start of a connection: the kernel does not know connections that are older than the table.
        "tcp flags & (syn | ack) != syn accept",
        "ct state invalid drop",
        'iifname "lo" accept',
        *(f'{not_uplink}iifname "{name}" accept' for name in BRIDGES),
        # By number, as a minimal host has no /etc/protocols: ICMP and ICMPv6.
        "meta l4proto { 1, 58 } accept",
        "udp sport { 67, 547 } udp dport { 68, 546 } accept",
        *rules,
        "meta l4proto tcp reject with tcp reset",
    ]
    body = "\n".join(f"    {line}" for line in lines)
    # A table can only be deleted if it is there.
    return f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n  chain input {{\n{body}\n  }}\n}}\n"


def session(ssh_connection: str) -> tuple[str, int]:
    """Return the controller's address and the host's port of an SSH_CONNECTION; none of both if it is empty."""
    if not ssh_connection:
        return "", 0
    controller, _port, _host, ssh_port = ssh_connection.split()
    return controller.partition("%")[0], int(ssh_port)


def _matches(sources: Sequence[str]) -> Iterator[str]:
    """Yield a match for the sources of each version of IP. Sources that overlap are joined, as nft refuses them."""
    networks = [ip_network(source) for source in sources]
    fours = collapse_addresses(each for each in networks if isinstance(each, IPv4Network))
    sixes = collapse_addresses(each for each in networks if isinstance(each, IPv6Network))
    for name, joined in (("ip", list(fours)), ("ip6", list(sixes))):
        elements = ", ".join(str(network).removesuffix(f"/{network.max_prefixlen}") for network in joined)
        if elements:
            yield f"{name} saddr {{ {elements} }} "


def closed_services(sockets: str, listeners: Iterable[Mapping[str, Any]], accepted: Collection[int]) -> list[str]:
    """Return the ports that others reach now and that the table would close, each with its program.

    Args:
        sockets: output of `ss -Htulpn`.
        listeners: of the plan's host.
        accepted: ports that may be closed.
    """
    planned = {
        (each["protocol"], port)
        for each in listeners
        for port in range(int(each["port"]), (each.get("last_port") or int(each["port"])) + 1)
    }
    found = {}
    for line in sockets.splitlines():
        protocol, _state, _received, _sent, local, *rest = line.split()
        address, port = _endpoint(local)
        if protocol == "udp" and (port in _CLIENT_PORTS or port >= _EPHEMERAL):
            continue
        named = re.search(r'\(\("([^"]+)"', " ".join(rest))
        program = named[1] if named else "unknown program"
        if program in _PUBLISHERS and not (program == "docker-proxy" and isinstance(address, IPv6Address)):
            continue
        if (protocol, port) not in planned and port not in accepted and not address.is_loopback:
            found[port, protocol] = f"{port}/{protocol} ({program})"
    return [found[key] for key in sorted(found)]


def refused_clients(
    connections: str, interfaces: str, listeners: Collection[Mapping[str, Any]], accepted: Collection[int]
) -> list[str]:
    """Return the addresses that are connected to services of the fleet now, and that the table would refuse.

    Args:
        connections: output of `ss -Htn state established`.
        interfaces: output of `ip -oneline address`.
        listeners: of the plan's host.
        accepted: ports that may be closed for them.
    """
    local = []
    for line in interfaces.splitlines():
        _number, interface, _family, address, *_ = line.split()
        local.append(ip_interface(address).network if _is_bridge(interface) else ip_network(address.partition("/")[0]))
    refused = set()
    for line in connections.splitlines():
        _received, _sent, here, there, *_ = line.split()
        (_, port), (client, _) = _endpoint(here), _endpoint(there)
        at_port = [each for each in listeners if (each["protocol"], int(each["port"])) == ("tcp", port)]
        services = [each["service"] for each in at_port if each["service"] not in DECLARED_SERVICES]
        if not services or port in accepted or any(each["everyone"] for each in at_port):
            continue
        sources = [ip_network(source) for each in at_port for source in (*each["addresses"], *each["networks"])]
        if not client.is_loopback and not any(client in network for network in (*local, *sources)):
            refused.add(f"{client} at {port}/tcp ({services[0]})")
    return sorted(refused)


def _is_bridge(interface: str) -> bool:
    return any(fnmatchcase(interface, pattern) for pattern in BRIDGES)


def _endpoint(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Return the address and the port of a socket as ss shows them."""
    shown, _, port = text.rpartition(":")
    plain, _, interface = shown.partition("%")
    if interface == "lo":
        plain = "::1"
    address = ip_address("::" if plain == "*" else plain.strip("[]"))
    return getattr(address, "ipv4_mapped", None) or address, int(port)
