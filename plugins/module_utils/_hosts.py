"""The hosts of the inventory, with the facts that the plan depends on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._facts import SHARED_PASSWORDS
from ansible_collections.fleet.celery.plugins.module_utils._interruption import (
    InterruptionNotices,
    read_interruption_notices,
)
from ansible_collections.fleet.celery.plugins.module_utils._platforms import is_tested, titles
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, as_integer
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, parse_size


@dataclass(frozen=True)
class Host:
    """A host. Facts that are not known are None or empty.

    Attributes:
        memory: bytes that the fleet may use.
        processors: number of processors.
        address: its address for other hosts.
        addresses: all addresses of its interfaces.
        guessed: whether address is a guess among them.
        disk: bytes of the file system of /var/lib.
        system: the distribution and its major version.
        role_variables: variables of the brokers' roles that are set, though the plan sets them.
        machine_id: systemd's machine id.
        nodename: its host name, which Celery puts in place of %h.
        login: the user that Ansible logs in as.
        variables: its variables whose names begin with celery_.
        listen: variables of roles that say where a service listens.
        names: others than these, by which clients reach it.
        certificate: where its own certificate comes from, by the names of CERTIFICATE_VARIABLES.
        passwords: a token for the value of each of SHARED_PASSWORDS that is set.
        local: the facts that playbooks leave on it.
        given_passwords: passwords whose variables are set.
        interruption_notices: how it learns that its instance will be interrupted; None: it does not.
    """

    name: str
    memory: int | None = None
    processors: int | None = None
    address: str = ""
    disk: int | None = None
    system: tuple[str, int] | None = None
    role_variables: tuple[str, ...] = ()
    machine_id: str = ""
    nodename: str = ""
    login: str = ""
    variables: tuple[str, ...] = ()
    passwords: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    guessed: bool = False
    listen: Mapping[str, Any] = field(default_factory=dict)
    ssh_port: int = 22
    names: tuple[str, ...] = ()
    certificate: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)
    given_passwords: tuple[str, ...] = ()
    interruption_notices: InterruptionNotices | None = None


def read_hosts(raw: Mapping[str, Mapping[str, Any]], problems: list[Problem]) -> dict[str, Host]:
    """Return the hosts of an inventory.

    Args:
        raw: for each inventory name, the result of host_facts.
        problems: gets the errors of the hosts' variables.
    """
    hosts = {}
    notices = read_interruption_notices(
        {name: facts.get("interruption_notices") for name, facts in raw.items()}, problems
    )
    for name, facts in raw.items():
        memory = int(facts["memory_mb"]) * MIB if facts.get("memory_mb") else None
        if facts.get("declared_memory"):
            try:
                memory = parse_size(facts["declared_memory"])
            except ValueError as error:
                problems.append(Problem(f"celery_host_memory of {name}", str(error), "Set it to a size, e.g. 2GB"))
        hosts[name] = Host(
            name,
            memory,
            facts.get("processors") or None,
            str(facts.get("address") or ""),
            facts.get("disk"),
            _system(facts.get("system")),
            tuple(facts.get("role_variables") or ()),
            str(facts.get("machine_id") or ""),
            str(facts.get("nodename") or ""),
            str(facts.get("login") or ""),
            tuple(facts.get("variables") or ()),
            facts.get("passwords") or {},
            tuple(facts.get("addresses") or ()),
            bool(facts.get("guessed")),
            facts.get("listen") or {},
            as_integer(facts.get("ssh_port")) or Host.ssh_port,
            _host_names(name, facts.get("names"), problems),
            facts.get("certificate") or {},
            facts.get("local") or {},
            tuple(facts.get("given_passwords") or ()),
            notices.get(name),
        )
    return hosts


def _host_names(host: str, raw: object, problems: list[Problem]) -> tuple[str, ...]:
    """Return celery_host_names of a host."""
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(isinstance(each, str) and each for each in raw):
        what, fix = f"{raw!r} is not a list of names", "Set it to a list, e.g. [queue.example.com]"
        problems.append(Problem(f"celery_host_names of {host}", what, fix))
        return ()
    return tuple(raw)


def _system(found: Sequence[Any] | None) -> tuple[str, int] | None:
    release = as_integer(found[1]) if found else None
    return (str(found[0]), release) if found and release is not None else None


def check_platforms(hosts: Iterable[Host], problems: list[Problem], *, untested: bool) -> None:
    """Refuse hosts with a system on which the roles are not tested, unless untested is set."""
    for host in hosts:
        if host.system and not is_tested(*host.system) and not untested:
            name, release = host.system
            problems.append(
                Problem(
                    f"the host {host.name}",
                    f"has {name} {release}, on which the roles are not tested",
                    f"Use {' or '.join(titles())}, or set celery_allow_untested_platforms: true",
                )
            )


def check_identities(hosts: Iterable[Host], workers: Collection[str], problems: list[Problem]) -> None:
    """Refuse inventory names of the same machine, and hosts with workers that have the same host name.

    Args:
        workers: names of the hosts that run workers.
    """
    hosts = list(hosts)
    identities = (
        (
            "address",
            {host.name: host.address for host in hosts},
            "List each host once, with its own ansible_host",
        ),
        (
            "machine id",
            {host.name: host.machine_id for host in hosts},
            "List each host once. On a copied machine, run: rm /etc/machine-id && systemd-machine-id-setup",
        ),
        (
            "host name",
            {host.name: host.nodename for host in hosts if host.name in workers},
            "Celery's node names contain it. Set a unique one on each host: hostnamectl hostname NAME",
        ),
    )
    for what, values, fix in identities:
        for value in sorted({value for value in values.values() if value}):
            names = [name for name, each in values.items() if each == value]
            if len(names) > 1:
                problems.append(Problem(f"the hosts {' and '.join(names)}", f"have the same {what}, {value}", fix))


def check_passwords(hosts: Iterable[Host], owners: Mapping[str, str], problems: list[Problem]) -> None:
    """Refuse passwords that are set for a host, though another host's value is the one that counts.

    Args:
        owners: for each duty of SHARED_PASSWORDS, the name of its host; empty if the fleet has none.
    """
    known = {host.name: host for host in hosts}
    for duty, names in SHARED_PASSWORDS.items():
        if not (owner := known.get(owners.get(duty, ""))):
            continue
        for name in names:
            value = owner.passwords.get(name)
            others = [host.name for host in known.values() if host.passwords.get(name, value) != value]
            if others:
                problems.append(
                    Problem(
                        name,
                        f"{' and '.join(others)} would use another value than {owner.name}",
                        f"Set it for {owner.name}, whose value all hosts use, or for all hosts (group_vars/all)",
                    )
                )
