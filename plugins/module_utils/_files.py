"""Files that belong to root and that a group may read."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from pathlib import Path


def belongs(path: Path, mode: int, owner: str, group: str) -> bool:
    """Return whether a file or directory has this mode and these owners."""
    status = path.stat()
    try:
        ids = (pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid)
    except KeyError:
        return False  # a check run on a fresh host: the user is not there yet
    return (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, *ids)


def give(path: Path, mode: int, group: str) -> None:
    """Set a path's mode, and root and a group as its owners.

    Raises:
        KeyError: there is no such group.
    """
    os.chown(path, 0, grp.getgrnam(group).gr_gid)
    path.chmod(mode)


def write_file(path: Path, text: str, mode: int, group: str) -> None:
    """Put a file in place at once, and never readable for others meanwhile.

    Raises:
        KeyError: there is no such group.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        os.fchmod(handle, mode)
        os.fchown(handle, 0, grp.getgrnam(group).gr_gid)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
