"""Wheels for tests of what is made of them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path


def wheel(
    directory: Path,
    name: str,
    text: str = "VALUE = 1\n",
    tag: str = "py3-none-any",
    *,
    needs: str | None = None,
    python: str | None = None,
    more: Mapping[str, str] | None = None,
) -> Path:
    """Write the smallest wheel that pip takes, with more files and what its metadata say of dependencies and Python."""
    directory.mkdir(parents=True, exist_ok=True)
    project, version = name.split("-")
    path = directory / f"{name}-{tag}.whl"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
    if needs:
        metadata += f"Requires-Dist: {needs}\n"
    if python:
        metadata += f"Requires-Python: {python}\n"
    with zipfile.ZipFile(path, "w") as file:
        for member, content in {f"{project}.py": text, **(more or {})}.items():
            file.writestr(member, content)
        file.writestr(f"{name}.dist-info/METADATA", metadata)
        file.writestr(f"{name}.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        file.writestr(f"{name}.dist-info/RECORD", "")
    return path
