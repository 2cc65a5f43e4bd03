"""Who may reach which port of which host: what each service listens on, and which hosts and networks need it.

Pure. The firewall lets nothing else in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import chain, repeat
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._facts import LISTEN_DEFAULTS, TLS_LISTEN_DEFAULTS
from ansible_collections.fleet.celery.plugins.module_utils._hosts import Host
from ansible_collections.fleet.celery.plugins.module_utils._reader import Reader, Variables
from ansible_collections.fleet.celery.plugins.module_utils._sentinel import Sentinel
from ansible_collections.fleet.celery.plugins.module_utils._signing import ReplayCache
from ansible_collections.fleet.celery.plugins.module_utils._url import ANY, LOOPBACK, bracketed

PROTOCOLS = ("tcp", "udp")
SSH, OWN = DECLARED_SERVICES = ("SSH", "your own")
#: Of a RabbitMQ cluster: of Erlang's port mapper, of connections between nodes, and of rabbitmqctl, to which all nodes
#: send what it lists.
PORT_MAPPER, DISTRIBUTION_PORT, COMMAND_PORTS = 4369, 25672, (35672, 35682)
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True)
class OpenPort:
    """A port of the user's own that stays open.

    Attributes:
        sources: networks that may reach it; empty: everyone.
    """

    port: int
    protocol: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class FirewallOptions:
    """The declaration of the firewall.

    Attributes:
        broker_sources: networks of clients of the broker that are not in the inventory.
        page_sources: networks of people that open web pages.
        ssh_sources: networks that may use SSH, besides the controller; empty: everyone.
        ports: that stay open for others than the fleet.
        closed_ports: that may be closed though something listens on them.
    """

    enabled: bool = True
    broker_sources: tuple[str, ...] = ()
    page_sources: tuple[str, ...] = ()
    ssh_sources: tuple[str, ...] = ()
    ports: tuple[OpenPort, ...] = ()
    closed_ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Listener:
    """A port on which a host accepts connections of others.

    Attributes:
        service: for people.
        hosts: names of the hosts that need it, in order.
        addresses: of these hosts.
        networks: that need it, too.
        everyone: whether all may reach it.
        last_port: of a range that begins with port; 0 if it is a single one.
    """

    service: str
    port: int
    protocol: str = "tcp"
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    everyone: bool = False
    last_port: int = 0


@dataclass(frozen=True)
class Endpoint:
    """Where a service is reached."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.address)}:{self.port}"


@dataclass(frozen=True)
class Clients:
    """The hosts that connect to the services of others, by name.

    Attributes:
        broker: those that connect to the broker.
        flower: that of Flower, which uses RabbitMQ's management API; empty if there is none.
        monitor: that of Prometheus, which scrapes; empty if there is none.
        workers: those with workers, which connect to the replay cache.
    """

    broker: tuple[str, ...]
    flower: str
    monitor: str
    workers: tuple[str, ...] = ()


@dataclass(frozen=True)
class BrokerMember:
    """Where one of the broker's hosts listens.

    Attributes:
        address: that other hosts connect to, to reach this host and no other.
        listen_addresses: on which the broker listens there.
        metrics_address: on which its metrics are served.
        node_host: its name among the nodes of a RabbitMQ cluster; empty if there is none.
    """

    address: str
    listen_addresses: tuple[str, ...]
    metrics_address: str
    node_host: str = ""


@dataclass(frozen=True)
class BrokerListener:
    """Where the broker listens.

    Attributes:
        address: that clients connect to.
        port: without TLS; 0 if it has none.
        tls_port: with TLS; 0 if the fleet has no TLS.
        members: by the names of the broker's hosts.
        sentinel: from which clients learn the primary's address; None if there is one server.
    """

    kind: str
    address: str
    port: int
    tls_port: int
    members: Mapping[str, BrokerMember]
    sentinel: Sentinel | None = None


def read_firewall(reader: Variables) -> FirewallOptions:
    """Return the declaration of the firewall."""
    return FirewallOptions(
        enabled=reader.flag("firewall", default=FirewallOptions.enabled),
        broker_sources=_networks(reader, "firewall_broker_sources"),
        page_sources=_networks(reader, "firewall_page_sources"),
        ssh_sources=_networks(reader, "firewall_ssh_sources"),
        ports=tuple(_open_ports(reader)),
        closed_ports=reader.ports("firewall_closed_ports"),
    )


def _open_ports(reader: Variables) -> Iterator[OpenPort]:
    for index, raw in enumerate(reader.mappings("firewall_ports")):
        entry = Reader(raw, f"celery_firewall_ports[{index}]", reader.problems)
        if entry.take("port") is None:
            entry.problem("port", "is missing", "Set it, e.g. - {port: 443}")
        port = entry.port("port")
        protocol = entry.choice("protocol", PROTOCOLS, "tcp")
        sources = _networks(entry, "sources")
        entry.unknown_keys()
        if port:
            yield OpenPort(port, protocol, sources)


def _networks(reader: Reader, key: str) -> tuple[str, ...]:
    """Return addresses and networks in the form in which nftables shows them."""
    found = []
    for text in reader.texts(key):
        try:
            network = ip_network(text)
        except ValueError as error:
            fix = "Set it to a list of addresses and networks, e.g. [10.0.0.0/24, 192.0.2.7]"
            reader.problem(key, f"{text!r} is not a network: {error}", fix)
        else:
            found.append(_plain(str(network)))
    return tuple(found)


def _plain(network: str) -> str:
    """Return a network, or the address of a network that has only one."""
    address, _, length = network.partition("/")
    return address if length == str(ip_address(address).max_prefixlen) else network


def addresses_of(host: Host) -> tuple[str, ...]:
    """Return the addresses that a host may connect from; empty if none is known."""
    found = {_plain(each) for each in (host.address, *host.addresses) if is_address(each)}
    return tuple(sorted(found - LOOPBACK))


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Access:
    """What decides who may reach which port.

    Attributes:
        hosts: all hosts, by name.
        options: the declaration of the firewall.
        replay_cache: the server beside RabbitMQ; None if there is none.
    """

    hosts: Mapping[str, Host]
    clients: Clients
    broker: BrokerListener
    options: FirewallOptions
    replay_cache: ReplayCache | None = None

    def listeners(self, name: str, duties: Iterable[str]) -> tuple[Listener, ...]:
        """Return the listeners of a host with these duties, in the order of their ports."""
        host = self.hosts.get(name, Host(name))
        found = list(self._services(host, set(duties)))
        open_ports = (*self.options.ports, OpenPort(host.ssh_port, "tcp", self.options.ssh_sources))
        for service, own in zip([*repeat(OWN, len(open_ports) - 1), SSH], open_ports, strict=True):
            found.append(Listener(service, own.port, own.protocol, networks=own.sources, everyone=not own.sources))
        return tuple(sorted(found, key=lambda each: (each.port, each.service)))

    def unknown_clients(self, listeners: Iterable[Listener]) -> tuple[str, ...]:
        """Return the hosts that need a listener, but whose facts are missing, as with --limit.

        Such a host may have more addresses than the one that the inventory knows.
        """
        names = dict.fromkeys(name for each in listeners for name in each.hosts)
        return tuple(name for name in names if not self.hosts.get(name, Host(name)).addresses)

    def certificate_names(self, host: Host, duties: Collection[str]) -> tuple[str, ...]:
        """Return the names and addresses by which clients reach a host; empty if it serves nothing with TLS.

        A certificate of the user's own needs only those that are used.
        """
        if not self.broker.tls_port or not {self.broker.kind, "flower", "monitor", "measured"} & {*duties}:
            return ()
        member = self.broker.members.get(host.name)
        broker = [member.address] if member else []
        if member and not self.broker.sentinel:
            broker = [self.broker.address, *broker, *filter(None, [member.node_host])]
        if host.certificate:
            return tuple(dict.fromkeys([*broker, *self._served_at(host, duties), *host.names]))
        names = [host.name, host.nodename, host.address, *broker, *host.names]
        valid = [name for name in names if _DNS_NAME.fullmatch(name) or is_address(name)]
        return tuple(dict.fromkeys([*valid, *addresses_of(host), "localhost", "127.0.0.1"]))

    def _served_at(self, host: Host, duties: Collection[str]) -> Iterator[str]:
        """Yield the addresses at which the fleet itself connects to a host: all that a user's certificate must have."""
        listen = listening_ports(host, tls=True)
        if "measured" in duties:
            yield self.exporter(host).address
        if "monitor" in duties:
            yield from (_reachable(listen[f"{name}_listen_address"]) for name in ("prometheus", "alertmanager"))
        if self.broker.kind in duties and self.clients.monitor:
            yield _reachable(self.broker.members[host.name].metrics_address)
        management = listen["rabbitmq_management_listen_address"]
        if "rabbitmq" in duties and (self.clients.flower == host.name or management not in LOOPBACK):
            yield _reachable(management)

    def tls_pages(self, host: Host, duties: Collection[str]) -> tuple[Endpoint, ...]:
        """Return the pages of nginx that have the host's certificate, which nginx reads again only when it is told."""
        listen = listening_ports(host, tls=True)
        pages = (
            (
                "flower" in duties and not listen["flower_tls_certificate"],
                "flower_listen_address",
                "flower_listen_port",
            ),
            (
                "redis" in duties and not listen["redis_ui_tls_certificate"],
                "redis_ui_listen_address",
                "redis_ui_listen_port",
            ),
        )
        found = [Endpoint(_reachable(listen[address]), int(listen[port])) for there, address, port in pages if there]
        if "redis" in duties and self.clients.monitor:
            found.append(self.broker_metrics(host))
        return tuple(found) if self.broker.tls_port else ()

    def endpoints(self, hosts: Mapping[str, Collection[str]]) -> tuple[str, ...]:
        """Return where the services of hosts show their certificates: one of each host, and all that must reload it.

        The monitor can't reach a page on another host's loopback.

        Args:
            hosts: the duties of each host.
        """
        pages = [
            page
            for name, duties in hosts.items()
            for page in self.tls_pages(self.hosts.get(name, Host(name)), duties)
            if name == self.clients.monitor or page.address not in LOOPBACK
        ]
        return (*self.verified_endpoints(hosts), *map(str, pages))

    def verified_endpoints(self, hosts: Mapping[str, Collection[str]]) -> tuple[str, ...]:
        """Return the endpoints to which clients of the fleet connect, which verify the certificate and its name.

        Args:
            hosts: the duties of each host.
        """
        found = []
        for name, duties in hosts.items():
            if self.broker.kind in duties:
                found.append(Endpoint(self.broker.members[name].address, self.broker.tls_port))
                if self.broker.sentinel:
                    found.append(Endpoint(self.broker.members[name].address, self.broker.sentinel.port))
                if self.replay_cache and self.replay_cache.host == name:
                    found.append(Endpoint(self.replay_cache.address, self.replay_cache.tls_port))
            found.append(self.exporter(self.hosts.get(name, Host(name))))
        return tuple(map(str, found))

    def exporter(self, host: Host) -> Endpoint:
        """Return where a host's exporter listens: on loopback if only the local Prometheus scrapes it."""
        address = "127.0.0.1" if host.name == self.clients.monitor else host.address
        return Endpoint(address, int(listening_ports(host, tls=True)["node_exporter_port"]))

    def broker_metrics(self, host: Host) -> Endpoint:
        """Return where the metrics of one of the broker's hosts are served."""
        port = {"rabbitmq": "rabbitmq_prometheus_port", "redis": "redis_exporter_port"}[self.broker.kind]
        listen = listening_ports(host, tls=bool(self.broker.tls_port))
        return Endpoint(self.broker.members[host.name].metrics_address, int(listen[port]))

    def _services(self, host: Host, duties: set[str]) -> Iterator[Listener]:
        """Yield the listener of each service of a host, unless only the host itself, or nobody, needs to reach it."""
        broker, clients, options = self.broker, self.clients, self.options
        listen = listening_ports(host, tls=bool(broker.tls_port))
        management = _at(listen, "rabbitmq_management_port", "rabbitmq_management_listen_address")
        monitor, people = (clients.monitor,), options.page_sources
        member = broker.members.get(host.name)
        served, metrics = (member.listen_addresses, (member.metrics_address,)) if member else ((), ())
        cache = (0, 0)
        if self.replay_cache and self.replay_cache.host == host.name:
            cache = (self.replay_cache.plain_port, self.replay_cache.tls_port)
        own = (member.address,) if member else ()
        nodes = tuple(broker.members) if member and member.node_host else ()
        sentinel = broker.sentinel
        peers = (*clients.broker, *broker.members) if sentinel else clients.broker
        title = {"rabbitmq": "RabbitMQ", "redis": "Redis"}[broker.kind]
        for duty, service, port, at, names, networks in (
            (broker.kind, title, broker.port, served, peers, options.broker_sources),
            (broker.kind, f"{title}, TLS", broker.tls_port, served, peers, options.broker_sources),
            ("rabbitmq", "Erlang's port mapper", PORT_MAPPER, own, nodes, ()),
            ("rabbitmq", "RabbitMQ's other nodes", DISTRIBUTION_PORT, own, nodes, ()),
            ("rabbitmq", "rabbitmqctl", COMMAND_PORTS[0], own, nodes, ()),
            ("redis", "Sentinel", sentinel.port if sentinel else 0, served, peers, options.broker_sources),
            ("rabbitmq", "Replay cache", cache[0], served, clients.workers, ()),
            ("rabbitmq", "Replay cache, TLS", cache[1], served, clients.workers, ()),
            ("rabbitmq", "RabbitMQ's pages", *management, (clients.flower,), people),
            ("rabbitmq", "RabbitMQ's metrics", listen["rabbitmq_prometheus_port"], metrics, monitor, ()),
            ("redis", "Redis' page", *_at(listen, "redis_ui_listen_port", "redis_ui_listen_address"), (), people),
            ("redis", "Redis' metrics", listen["redis_exporter_port"], metrics, monitor, ()),
            ("flower", "Flower", *_at(listen, "flower_listen_port", "flower_listen_address"), (), people),
            ("monitor", "Prometheus", *_at(listen, "prometheus_port", "prometheus_listen_address"), (), people),
            ("monitor", "Alertmanager", *_at(listen, "alertmanager_port", "alertmanager_listen_address"), (), people),
            ("measured", "host metrics", listen["node_exporter_port"], (host.address,), monitor, ()),
        ):
            if duty not in duties or not port:
                continue
            needed = tuple(name for name in dict.fromkeys(names) if name not in {"", host.name})
            if set(map(str, at)) - LOOPBACK and (needed or networks):
                addresses = chain.from_iterable(addresses_of(self.hosts.get(name, Host(name))) for name in needed)
                last = COMMAND_PORTS[1] if service == "rabbitmqctl" else 0
                yield Listener(service, int(port), "tcp", needed, tuple(addresses), networks, last_port=last)


def _reachable(address: object) -> str:
    """Return an address at which a listener is reached on its own host."""
    return "127.0.0.1" if address in ANY else str(address)


def listening_ports(host: Host, *, tls: bool) -> dict[str, Any]:
    """Return where the services of a host listen, by the variables of LISTEN_DEFAULTS."""
    # With a certificate of its own, Flower's page has the port of https, too.
    secure = {"flower_listen_port": 443} if host.listen.get("flower_tls_certificate") else {}
    return {**LISTEN_DEFAULTS, **(TLS_LISTEN_DEFAULTS if tls else secure), **host.listen}


def _at(listen: Mapping[str, Any], port: str, address: str) -> tuple[Any, tuple[Any]]:
    """Return the port and the addresses of a page, by the names of its variables."""
    return listen[port], (listen[address],)
