"""The hosts of an inventory, as far as the plan needs to know them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._declaration import Problem, as_integer
from ansible_collections.fleet.celery.plugins.module_utils._facts import SHARED_PASSWORDS
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, parse_size

#: What the roles were tried on.
PLATFORMS = (("Debian", 12), ("Debian", 13))


@dataclass(frozen=True)
class Host:
    """What is known of a host.

    Attributes:
        memory: bytes that the fleet may use there; None if it is not known.
        processors: None if it is not known.
        address: what other hosts reach it by; empty if it is not known.
        disk: bytes of the file system below /var/lib; None if it is not known.
        system: the distribution and the number of its release; None if it is not known.
        role_variables: set there, though the plan derives them.
        machine_id: of systemd's, which a machine has for itself.
        nodename: what Celery takes for %h.
        login: the user that Ansible logs in as.
        variables: set there, of those that begin as the fleet's do.
        passwords: a token for the value of each of SHARED_PASSWORDS that is set there.
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


def read_hosts(raw: Mapping[str, Mapping[str, Any]], problems: list[Problem]) -> dict[str, Host]:
    """Return the hosts of an inventory.

    Args:
        raw: for each inventory name what host_facts tells of it; declared_memory where the user set celery_host_memory.
    """
    hosts = {}
    for name, facts in raw.items():
        memory = int(facts["memory_mb"]) * MIB if facts.get("memory_mb") else None
        if facts.get("declared_memory"):
            try:
                memory = parse_size(facts["declared_memory"])
            except ValueError as error:
                problems.append(Problem(f"celery_host_memory of {name}", str(error), "Set it to 2GB, say"))
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
        )
    return hosts


def _system(found: Sequence[Any] | None) -> tuple[str, int] | None:
    release = as_integer(found[1]) if found else None
    return (str(found[0]), release) if found and release is not None else None


def check_platforms(hosts: Iterable[Host], problems: list[Problem], *, untested: bool) -> None:
    """Refuse hosts of systems that the roles were not tried on, unless that is wanted."""
    for host in hosts:
        if host.system and host.system not in PLATFORMS and not untested:
            name, release = host.system
            problems.append(
                Problem(
                    f"the host {host.name}",
                    f"has {name} {release}, on which the roles were not tried",
                    f"Take {' or '.join(f'{name} {release}' for name, release in PLATFORMS)}, or set "
                    "celery_allow_untested_platforms: true",
                )
            )


def check_identities(hosts: Iterable[Host], workers: Collection[str], problems: list[Problem]) -> None:
    """Refuse names of an inventory that stand for one machine, and workers of one name.

    Args:
        workers: the names of the hosts that run workers.
    """
    hosts = list(hosts)
    identities = (
        (
            "the address",
            {host.name: host.address for host in hosts},
            "Name each host once, with an ansible_host of its own",
        ),
        (
            "the machine id",
            {host.name: host.machine_id for host in hosts},
            "Name each host once. Of a copied machine: rm /etc/machine-id && systemd-machine-id-setup",
        ),
        (
            "the host name",
            {host.name: host.nodename for host in hosts if host.name in workers},
            "Celery names a worker after it. Give each host its own: hostnamectl hostname NAME",
        ),
    )
    for what, values, fix in identities:
        for value in sorted({value for value in values.values() if value}):
            names = [name for name, its in values.items() if its == value]
            if len(names) > 1:
                problems.append(Problem(f"the hosts {' and '.join(names)}", f"have {what} {value} in common", fix))


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
