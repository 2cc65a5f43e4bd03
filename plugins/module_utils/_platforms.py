"""The tested systems and their differences. To support another system, add a row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Platform:
    """A system.

    Attributes:
        name: Ansible's ansible_distribution.
        release: major version.
        glibc: version of glibc in the format of platform tags. Wheels for it or an older one can be installed.
        valkey: whether a Valkey package exists.
        client_setinfo: whether its Redis has CLIENT SETINFO (since 7.2). An older Redis rejects an ACL rule for it.
        strict_tls: whether its Python verifies certificates by VERIFY_X509_STRICT, by default (since 3.13).
    """

    name: str
    release: int
    glibc: str
    valkey: bool
    client_setinfo: bool
    strict_tls: bool


#: Ordered from the oldest to the newest.
PLATFORMS = (
    Platform("Debian", 12, glibc="2_36", valkey=False, client_setinfo=False, strict_tls=False),
    Platform("Debian", 13, glibc="2_41", valkey=True, client_setinfo=True, strict_tls=True),
)
#: Wheels for this version can be installed on all tested systems.
OLDEST_GLIBC = min((platform.glibc for platform in PLATFORMS), key=lambda glibc: int(glibc.rpartition("_")[2]))


def is_tested(name: str, release: int) -> bool:
    """Return whether the roles are tested on a system."""
    return (name, release) in {(platform.name, platform.release) for platform in PLATFORMS}


def platform_of(name: str, release: int) -> Platform:
    """Return the row of a system; for an untested system, the row of the newest one."""
    return next((row for row in PLATFORMS if (row.name, row.release) == (name, release)), PLATFORMS[-1])


def titles() -> list[str]:
    """Return the names of the tested systems, such as Debian 12."""
    return [f"{platform.name} {platform.release}" for platform in PLATFORMS]
