"""Clients that are connected to a broker."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

_PAIR = re.compile(r"(\S+?)=(\S*)")


@dataclass(frozen=True, order=True)
class Connection:
    """A connection to a broker.

    Attributes:
        user: empty if the client has not logged in.
        address: of the client.
        tls: whether the connection is encrypted.
    """

    user: str
    address: str
    tls: bool


def rabbitmq_connections(output: str) -> Iterator[Connection]:
    """Yield the connections to RabbitMQ.

    Args:
        output: of rabbitmqctl list_connections --formatter json user peer_host ssl.
    """
    for each in json.loads(output or "[]"):
        yield Connection(each["user"], _address(each["peer_host"]), bool(each["ssl"]))


def _address(host: str | list[int]) -> str:
    """Return an address, which rabbitmqctl prints as a list of its numbers."""
    if isinstance(host, str):
        return host
    return str(ip_address(b"".join(number.to_bytes(len(host) // 4, "big") for number in host)))


def redis_connections(output: str, port: int) -> Iterator[Connection]:
    """Yield the connections to Redis, except those by a Unix socket.

    Args:
        output: of CLIENT LIST.
        port: without TLS; 0 if the server has none.
    """
    for line in output.splitlines():
        fields = dict(_PAIR.findall(line))
        if (own := fields.get("laddr", "/")) and not own.startswith("/"):
            tls = own.rpartition(":")[2] != str(port)
            yield Connection(fields.get("user", ""), fields["addr"].rpartition(":")[0].strip("[]"), tls)


def clients(connections: Iterable[Connection], names: Mapping[str, str]) -> list[dict[str, object]]:
    """Return a mapping for each user, host and kind of connection.

    Args:
        names: of hosts, by their addresses.
    """
    found: list[dict[str, object]] = []
    for each, count in sorted(Counter(connections).items()):
        host = names.get(each.address, each.address)
        text = f"{each.user or 'nobody'} from {host} ({count} connection{'s' if count > 1 else ''})"
        found.append({"user": each.user, "host": host, "tls": each.tls, "connections": count, "description": text})
    return found
