"""Generated passwords on the controller, each in a file of a directory.

The file <name>.next has a value that is not in force yet.
"""

from __future__ import annotations

import os
import secrets
import string
import tempfile
from pathlib import Path

LENGTH = 32
CHARACTERS = string.ascii_letters + string.digits


def prepare(directory: Path, name: str) -> bool:
    """Generate the next value of a password, and return whether there was none."""
    path = _next(directory, name)
    if path.exists():
        return False
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Readable by its owner only.
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=f".{name}-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("".join(secrets.choice(CHARACTERS) for _ in range(LENGTH)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
    return True


def promote(directory: Path, name: str) -> bool:
    """Put the next value of a password in force, and return whether there was one."""
    path = _next(directory, name)
    if not path.exists():
        return False
    path.replace(directory / name)
    return True


def _next(directory: Path, name: str) -> Path:
    return directory / f"{name}.next"
