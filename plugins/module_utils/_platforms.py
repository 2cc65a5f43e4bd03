"""The systems on which the roles are tested, and all in which they differ. Another system is another row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Platform:
    """A system.

    Attributes:
        name: the distribution, as Ansible calls it.
        release: its major version.
        glibc: its version, as the platforms of wheels name it: a wheel for it or an older one can be installed.
        valkey: whether there is a package of Valkey.
        client_setinfo: whether its Redis knows CLIENT SETINFO (since 7.2). An older one rejects an ACL rule for it.
    """

    name: str
    release: int
    glibc: str
    valkey: bool
    client_setinfo: bool


#: The oldest first.
PLATFORMS = (
    Platform("Debian", 12, glibc="2_36", valkey=False, client_setinfo=False),
    Platform("Debian", 13, glibc="2_41", valkey=True, client_setinfo=True),
)
#: A wheel for it can be installed on all of them.
OLDEST_GLIBC = min((platform.glibc for platform in PLATFORMS), key=lambda glibc: int(glibc.rpartition("_")[2]))


def is_tested(name: str, release: int) -> bool:
    """Return whether the roles are tested on a system."""
    return (name, release) in {(platform.name, platform.release) for platform in PLATFORMS}


def platform_of(name: str, release: int) -> Platform:
    """Return the row of a system; for one that is not tested, that of the newest one."""
    return next((row for row in PLATFORMS if (row.name, row.release) == (name, release)), PLATFORMS[-1])


def titles() -> list[str]:
    """Return the names of the tested systems, such as Debian 12."""
    return [f"{platform.name} {platform.release}" for platform in PLATFORMS]
