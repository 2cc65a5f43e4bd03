"""The fleet's table of nftables, and what it would close.

Pure. The table is beside those of others: what they drop stays dropped, and what they accept still needs a rule here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Any

TABLE = "celery_fleet"
# Containers and virtual machines of the host reach it, e.g. its DNS server. Their published ports are forwarded, which
# passes by this chain.
_BRIDGES = ("docker*", "br-*", "podman*", "cni-podman*", "virbr*", "lxdbr*", "lxcbr*")
# Clients of DHCP, time and multicast DNS listen on all addresses, but get replies only.
_CLIENT_PORTS = frozenset({68, 123, 323, 546, 5353})
# Linux gives ports from here to clients that ask for none (ip_local_port_range).
_EPHEMERAL = 32768


def ruleset(listeners: Iterable[Mapping[str, Any]], ssh_connection: str) -> str:
    """Return the table as a file for nft, which replaces the one that is loaded.

    Args:
        listeners: of the plan's host.
        ssh_connection: SSH_CONNECTION on the host: the controller's address and port, and the host's. Empty if there is
            none.
    """
    controller, ssh_port = session(ssh_connection)
    rules = []
    for each in listeners:
        ports = {int(each["port"])}
        sources = [*each["addresses"], *each["networks"]]
        if each["service"] == "SSH" and ssh_port:
            ports.add(ssh_port)
            sources.append(controller)
        found = [""] if each["everyone"] else _matches(sources)
        port = ", ".join(map(str, sorted(ports))) + (f"-{last}" if (last := each.get("last_port")) else "")
        rules += [f'{match}{each["protocol"]} dport {{ {port} }} accept comment "{each["service"]}"' for match in found]
    lines = [
        "type filter hook input priority filter; policy drop;",
        "ct state established,related accept",
        "ct state invalid drop",
        'iifname "lo" accept',
        *(f'iifname "{name}" accept' for name in _BRIDGES),
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
        address, _, port_text = local.rpartition(":")
        port = int(port_text)
        if protocol == "udp" and (port in _CLIENT_PORTS or port >= _EPHEMERAL):
            continue
        if (protocol, port) not in planned and port not in accepted and not _is_loopback(address):
            program = re.search(r'\(\("([^"]+)"', " ".join(rest))
            found[port, protocol] = f"{port}/{protocol} ({program[1] if program else 'unknown program'})"
    return [found[key] for key in sorted(found)]


def _is_loopback(address: str) -> bool:
    plain = address.strip("[]").partition("%")
    if plain[2] == "lo" or plain[0] == "*":
        return plain[2] == "lo"
    found = ip_address(plain[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)
