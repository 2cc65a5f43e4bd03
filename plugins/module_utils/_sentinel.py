"""Sentinels in the plan: which servers of Redis or Valkey they monitor, and who is the primary when a server is new.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem

PORT = 26379


@dataclass(frozen=True)
class Sentinel:
    """The Sentinels of a broker, one on each of its hosts.

    Attributes:
        master_name: name of the primary, for clients.
        addresses: of the Sentinels.
        port: of the Sentinels, with TLS if the broker has a port with TLS.
        server_port: of the servers, for replication and for the clients that ask a Sentinel.
        quorum: number of Sentinels that must agree that the primary is down.
        tls: whether their connections, and those of replication, are encrypted.
    """

    master_name: str
    addresses: tuple[str, ...]
    port: int
    server_port: int
    quorum: int
    tls: bool


def make_sentinel(
    app: str, addresses: Mapping[str, str], plain_port: int, tls_port: int, problems: list[Problem]
) -> Sentinel:
    """Return the Sentinels of a broker with several hosts.

    Args:
        addresses: of the broker's hosts, by name.
        plain_port, tls_port: of the servers; 0 if they have none.
    """
    for name, address in addresses.items():
        if address and not _is_ip_address(address):
            fix = "Set it to the IP address that the other hosts reach"
            what = f"{address!r} is a name, but Sentinels and clients need the address of each server"
            problems.append(Problem(f"celery_host_address of {name}", what, fix))
    for key, port in (("celery_broker_port", plain_port), ("celery_broker_tls_port", tls_port)):
        if port == PORT:
            problems.append(Problem(key, f"{PORT} is the port of the Sentinels", "Set it to another port"))
    return Sentinel(
        master_name=app,
        addresses=tuple(addresses.values()),
        port=PORT,
        server_port=tls_port or plain_port,
        quorum=len(addresses) // 2 + 1,
        tls=bool(tls_port),
    )


def _is_ip_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def initial_primary(answers: Iterable[str], addresses: Sequence[str]) -> str:
    """Return the address that a new server replicates, or its own if it is to be the primary.

    Sentinels know. Without them, it is the server that was the primary, the only one that has data, or the first one.

    Args:
        answers: what each host of this run knows, as JSON: its address, the primary's address that a Sentinel gives,
            the one that its server was last configured to replicate (its own: it was the primary), and whether it has
            data. Empty if nothing is known.
        addresses: of all servers, in the order of the inventory.

    Raises:
        ValueError: the primary can't be determined.
    """
    known = [json.loads(answer) for answer in answers]
    for source in ("sentinel", "configured"):
        found = sorted({answer[source] for answer in known if answer[source]})
        if len(found) > 1:
            raise ValueError(
                f"The primary can't be determined: by the hosts' {source} state, it is {' and '.join(found)}. Wait "
                "until the Sentinels agree (SENTINEL GET-MASTER-ADDR-BY-NAME), and rerun for all of the broker's hosts"
            )
        if found:
            return str(found[0])
    holders = [str(answer["address"]) for answer in known if answer["data"]]
    if len(holders) > 1:
        raise ValueError(
            f"The primary can't be determined: {' and '.join(holders)} have data of a server without replicas. Remove "
            "the data of those whose tasks and results are not needed"
        )
    return holders[0] if holders else addresses[0]
