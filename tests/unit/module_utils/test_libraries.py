"""Shared libraries that compiled wheels need on the hosts."""

from __future__ import annotations

import platform
import zipfile
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils import _libraries
from ansible_collections.fleet.celery.plugins.module_utils._libraries import library_report, needed_libraries

LINUX = f"cp311-cp311-linux_{platform.machine()}"
READELF = """\
 0x0000000000000001 (NEEDED)             Shared library: [libpq.so.5]
 0x0000000000000001 (NEEDED)             Shared library: [libown.so]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x000000000000000e (SONAME)             Library soname: [libother.so]
"""


def compiled(directory: Path, tag: str) -> Path:
    path = directory / f"psycopg2-2.9-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name in ("psycopg2/_psycopg.so", "psycopg2.libs/libown.so", "psycopg2/__init__.py"):
            wheel.writestr(name, "")
    return path


def test_libraries_of_compiled_wheels_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libraries, "_output", lambda *_: READELF)
    assert needed_libraries([compiled(tmp_path, LINUX)]) == ["libpq.so.5"]
    assert needed_libraries([compiled(tmp_path, "cp311-cp311-manylinux_2_28_x86_64")]) == []
    assert needed_libraries([compiled(tmp_path, "py3-none-any")]) == []


def test_packages_of_missing_libraries_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"*/libpq.so.5": "libpq5:amd64: /usr/lib/x86_64-linux-gnu/libpq.so.5\n"}
    monkeypatch.setattr(_libraries, "_output", lambda *argv: known.get(argv[-1], ""))
    report = library_report(["libpq.so.5", "libodd.so.1"], [])
    assert "of the hosts: libpq.so.5 (Debian package libpq5), libodd.so.1. Add" in report
    assert library_report(["libpq.so.5"], ["libpq5"]) == ""
    assert library_report([], []) == ""
