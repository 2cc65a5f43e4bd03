"""Files that belong to root and that a group may read."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from pathlib import Path


def belongs(path: Path, mode: int, owner: str, group: str) -> bool:
    """Return whether a file or directory has this mode and these owners."""
    status = path.lstat()
    try:
        ids = (pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid)
    except KeyError:
        return False  # a check run on a fresh host: the user is not there yet
    return (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, *ids)


def make_directory(path: Path, mode: int, owner: str, group: str) -> None:
    """Make a directory, or give one another owner; what is in it that is no file or directory of that owner's goes.

    Whoever had it could otherwise have left a link there, for root to write through.

    Raises:
        KeyError: there is no such user or group.
        OSError: it is a link, or can't be made.
    """
    path.mkdir(parents=True, exist_ok=True)
    uid, gid = pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        taken = os.fstat(place).st_uid != uid
        os.fchmod(place, mode)
        os.fchown(place, uid, gid)
        if not taken:
            return
        with os.scandir(place) as entries:
            names = [
                entry.name
                for entry in entries
                if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False))
            ]
        for name in names:
            os.unlink(name, dir_fd=place)
    finally:
        os.close(place)


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
