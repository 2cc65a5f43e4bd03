"""A broker of the user's own: what its URL says, and what follows from it for the plan.

The password stays in the URL: no value and no error of this module contains it. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, as_integer
from ansible_collections.fleet.celery.plugins.module_utils._url import LOOPBACK, bracketed

if TYPE_CHECKING:
    from ansible_collections.fleet.celery.plugins.module_utils._declaration import BrokerOptions, Declaration

VARIABLE = "celery_broker_url"
#: The authorities that a host of Debian trusts.
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
# Kind of broker, whether the connection has TLS, and the default port.
_SCHEMES = {
    "amqp": ("rabbitmq", False, 5672),
    "amqps": ("rabbitmq", True, 5671),
    "redis": ("redis", False, 6379),
    "rediss": ("redis", True, 6379),
}
_SCHEME = re.compile(r"([a-z][a-z0-9+]*)://")
_HOST = re.compile(r"[A-Za-z0-9.:_-]+")
_ENCODE = "Percent-encode / ? # @ : and % in the user and the password"
_EXAMPLES = "amqps://USER:PASSWORD@HOST/VHOST or rediss://USER:PASSWORD@HOST:PORT/DATABASE"
# Variables of the fleet's own broker.
_IN_VAIN = {
    "address": "broker_address",
    "port": "broker_port",
    "tls_port": "broker_tls_port",
    "listen_addresses": "broker_listen_addresses",
    "metrics_address": "broker_metrics_address",
    "memory": "broker_memory",
}


@dataclass(frozen=True)
class OwnBroker:
    """A broker that the fleet connects to, but does not install.

    Attributes:
        user: empty for the default user of Redis.
        space: RabbitMQ's vhost, or the number of the database of Redis.
    """

    kind: str
    address: str
    port: int
    tls: bool
    user: str
    space: str

    def __str__(self) -> str:
        return f"{bracketed(self.address)}:{self.port}"

    @property
    def plain_port(self) -> int:
        """Return the port without TLS; 0 if the connection has TLS."""
        return 0 if self.tls else self.port

    @property
    def tls_port(self) -> int:
        """Return the port with TLS; 0 if the connection has none."""
        return self.port if self.tls else 0


def url_parts(url: str) -> dict[str, Any]:
    """Return what a URL says of the broker, without its password: the attributes of OwnBroker, and errors.

    Each error is a list of what is wrong and how to fix it. The result is empty if the URL is.
    """
    if not url:
        return {}
    if errors := [*_errors_of_form(url)]:
        return {"errors": errors}
    kind, tls, default_port = _SCHEMES[_scheme(url)]
    try:
        parts = urlsplit(url)
        port = default_port if parts.port is None else parts.port
    except ValueError:
        # Python's own text contains a part of the URL, which may be one of the password.
        parts, port = urlsplit(""), 0
    if not port:
        fix = f"Set it to a number from 1 to 65535, e.g. {default_port}. {_ENCODE}"
        return {"errors": [["has a port that is not a port", fix]]}
    space = unquote(parts.path[1:])
    return {
        "kind": kind,
        "address": parts.hostname or "",
        "port": port,
        "tls": tls,
        "user": unquote(parts.username or ""),
        "space": space if kind == "rabbitmq" else space or "0",
        "errors": [*_errors(kind, parts)],
    }


def url_password(url: str) -> str:
    """Return the password of a URL of a broker."""
    return unquote(urlsplit(url).password or "")


def _scheme(url: str) -> str:
    found = _SCHEME.match(url)
    return found[1] if found else ""


def _errors_of_form(url: str) -> Iterator[list[str]]:
    if _scheme(url) == "sentinel":
        yield ["names a sentinel, which is not supported", "Use the URL of the server itself"]
    elif _scheme(url) not in _SCHEMES:
        yield ["begins with none of amqp://, amqps://, redis:// and rediss://", f"Set it to {_EXAMPLES}"]
    # urlsplit removes some of them.
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        yield ["contains white space or a control character", f"Remove it. {_ENCODE}"]
    if ";" in url:
        yield ["contains a ';', as a list of several brokers does", f"Set it to one URL. {_ENCODE}"]


def _errors(kind: str, parts: SplitResult) -> Iterator[list[str]]:
    if parts.query or parts.fragment:
        yield ["has a '?' or a '#', and what follows would be ignored", f"Remove it. {_ENCODE}"]
    if not _HOST.fullmatch(parts.hostname or ""):
        yield ["has no host, or one that is neither a name nor an address", f"Set it to {_EXAMPLES}. {_ENCODE}"]
    if kind == "rabbitmq" and not parts.username:
        yield ["has no user", f"Set it to {_EXAMPLES}. {_ENCODE}"]
    if not parts.password:
        what = "has no password, so whoever reaches the broker could run tasks"
        yield [what, f"Give the broker's user a password. {_ENCODE}"]
    space = unquote(parts.path[1:])
    if kind == "rabbitmq" and not space:
        yield ["has no vhost", "Add it after the host, e.g. /shop. The vhost '/' is /%2F"]
    if kind == "redis" and not re.fullmatch(r"[0-9]*", space):
        yield ["has a database that is not a number", "Set it to a number, e.g. /0"]


def read_own_broker(parts: Mapping[str, Any], declared: str, problems: list[Problem]) -> OwnBroker | None:
    """Return the broker of the user's own; None if there is none. The errors of its URL are problems.

    Args:
        parts: the result of url_parts.
        declared: celery_broker.
    """
    if not parts:
        return None
    problems.extend(Problem(VARIABLE, what, fix) for what, fix in parts["errors"])
    own = OwnBroker(
        kind=parts.get("kind") or "rabbitmq",
        address=parts.get("address") or "",
        port=as_integer(parts.get("port")) or 0,
        tls=bool(parts.get("tls")),
        user=parts.get("user") or "",
        space=parts.get("space") or "",
    )
    # rabbitmq is the default, too.
    if not parts["errors"] and declared != "rabbitmq" and own.kind == "rabbitmq":
        what = f"is {declared}, but {VARIABLE} is the URL of a RabbitMQ broker"
        problems.append(Problem("celery_broker", what, "Remove it. The URL decides"))
    return own


def check_own_broker(declaration: Declaration, hosts: Iterable[str], problems: list[Problem]) -> None:
    """Refuse what contradicts a broker of the user's own.

    Args:
        hosts: of the broker's group.
    """
    options = declaration.broker
    own = options.own
    if not own:
        if options.ca:
            fix = f"Remove it, or set {VARIABLE}"
            problems.append(Problem("celery_broker_ca", "has no effect, because the fleet installs the broker", fix))
        return
    if hosts := list(hosts):
        what = f"is set, but the group {options.group!r} has hosts, on which the fleet would install a broker: "
        fix = f"Remove {VARIABLE}, or the hosts of the group {options.group}"
        problems.append(Problem(VARIABLE, what + ", ".join(hosts), fix))
    for attribute, name in _IN_VAIN.items():
        if getattr(options, attribute):
            what = f"has no effect, because the broker of {VARIABLE} is not installed by the fleet"
            problems.append(Problem(f"celery_{name}", what, "Remove it"))
    if options.ca and not own.tls:
        scheme = {"rabbitmq": "amqps", "redis": "rediss"}[own.kind]
        what = f"has no effect, because {VARIABLE} is the URL of a connection without TLS"
        problems.append(Problem("celery_broker_ca", what, f"Remove it, or change the URL to {scheme}://"))
    if declaration.signing.enabled:
        what = (
            f"needs a replay cache whose records no sender can delete, so a user of its own; {VARIABLE} has one user "
            "for workers and senders"
        )
        problems.append(Problem("celery_signed_messages", what, "Remove it, or have the fleet install the broker"))


def own_advice(own: OwnBroker, *, producers: bool, flower: bool, monitor: bool) -> list[str]:
    """Return warnings about a broker of the user's own.

    Args:
        producers, flower, monitor: whether the fleet has such hosts.
    """
    advice = []
    if not own.tls and not _is_private(own.address):
        advice.append(
            f"{VARIABLE}: the connection to {own} has no TLS, and the address is not known to be private. Passwords "
            "and tasks cross the network readable by others. Use amqps:// or rediss://"
        )
    others = [name for name, there in (("producers", producers), ("Flower", flower)) if there]
    if others:
        advice.append(
            f"{VARIABLE}: {' and '.join(others)} connect as the user of the workers, with all of its permissions"
        )
    if monitor and own.kind == "rabbitmq":
        advice.append(
            f"{VARIABLE}: the metrics of this RabbitMQ are not scraped, so there are no alerts of queues and of the "
            "broker (CeleryQueue*, CeleryBroker*, CeleryMetricsAbsent). Use the monitoring of its provider"
        )
    return advice


def own_ca(options: BrokerOptions, app: str) -> str:
    """Return the file on the fleet's hosts with the authorities that clients of the broker trust; empty without TLS."""
    if not (options.own and options.own.tls):
        return ""
    return f"/etc/celery-fleet/{app}-broker-ca.crt" if options.ca else SYSTEM_CA


def _is_private(address: str) -> bool:
    """Return whether an address is one of this host or of a private network. Of a name, only loopback is known."""
    try:
        return not ip_address(address).is_global
    except ValueError:
        return address in LOOPBACK
