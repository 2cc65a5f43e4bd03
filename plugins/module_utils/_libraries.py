"""Shared libraries that compiled wheels need on the hosts."""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

# A library in the output of readelf.
_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
# Libraries that each host has.
_OF_EACH_HOST = re.compile(r"(?:lib(?:c|m|dl|rt|pthread|util|resolv|gcc_s|stdc\+\+)|ld-linux[\w-]*)\.so")


def needed_libraries(wheels: Iterable[Path]) -> list[str]:
    """Return the shared libraries that wheels need from the system, such as libpq.so.5, in a fixed order.

    Only wheels that were compiled on a system of their own need any. Manylinux wheels contain their libraries. Without
    readelf, which comes with a compiler, nothing is known.
    """
    needed: set[str] = set()
    for wheel in wheels:
        if wheel.stem.endswith(f"-linux_{platform.machine()}"):
            needed |= _of_wheel(wheel)
    return sorted(name for name in needed if not _OF_EACH_HOST.match(name))


def _of_wheel(wheel: Path) -> set[str]:
    needed: set[str] = set()
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as temporary:
        members = [name for name in archive.namelist() if ".so" in name.rpartition("/")[2]]
        for member in members:
            output = _output("readelf", "--dynamic", "--wide", archive.extract(member, temporary))
            needed |= set(_NEEDED.findall(output))
    return needed - {member.rpartition("/")[2] for member in members}


def packages_of(libraries: Iterable[str]) -> dict[str, str]:
    """Return the Debian package of each library on this machine; empty for a library without one."""
    packages = {}
    for library in libraries:
        # libpq5:amd64: /usr/lib/x86_64-linux-gnu/libpq.so.5
        found = _output("dpkg-query", "--search", f"*/{library}")
        packages[library] = found.partition(":")[0] if found.partition("\n")[0].endswith(f"/{library}") else ""
    return packages


def library_report(libraries: Iterable[str], installed: Iterable[str]) -> str:
    """Return which packages the hosts need for libraries; empty if these are known to be installed.

    Args:
        libraries: such as libpq.so.5.
        installed: names of Debian packages that the hosts get.
    """
    packages = packages_of(libraries)
    missing = {library: package for library, package in packages.items() if not package or package not in installed}
    if not missing:
        return ""
    names = ", ".join(f"{name} (Debian package {missing[name]})" if missing[name] else name for name in missing)
    return (
        f"Compiled dependencies need shared libraries of the hosts: {names}. Add their packages to celery_app_packages"
    )


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
