"""Clients that are connected to a broker without TLS."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address

#: User and address of a client.
Client = tuple[str, str]

_PAIR = re.compile(r"(\S+?)=(\S*)")


def rabbitmq_clients(output: str) -> Iterator[Client]:
    """Yield the clients without TLS.

    Args:
        output: of rabbitmqctl list_connections --formatter json user peer_host ssl.
    """
    for each in json.loads(output or "[]"):
        if not each["ssl"]:
            yield each["user"], _address(each["peer_host"])


def _address(host: str | list[int]) -> str:
    """Return an address, which rabbitmqctl prints as a list of its numbers."""
    if isinstance(host, str):
        return host
    return str(ip_address(b"".join(number.to_bytes(len(host) // 4, "big") for number in host)))


def redis_clients(output: str, port: int) -> Iterator[Client]:
    """Yield the clients without TLS.

    Args:
        output: of CLIENT LIST.
        port: without TLS; 0 if the server has none.
    """
    for line in output.splitlines():
        fields = dict(_PAIR.findall(line))
        if port and fields.get("laddr", "").rpartition(":")[2] == str(port):
            yield fields.get("user", ""), fields["addr"].rpartition(":")[0].strip("[]")


def describe(clients: Iterable[Client], names: Mapping[str, str]) -> list[str]:
    """Return a line for each user and host.

    Args:
        names: of hosts, by their addresses.
    """
    counts = Counter(clients)
    return [
        f"{user or 'nobody'} from {names.get(address, address)} ({count} connection{'s' if count > 1 else ''})"
        for (user, address), count in sorted(counts.items())
    ]
