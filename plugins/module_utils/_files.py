"""Files, directories and links that root owns."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from pathlib import Path


def belongs(path: Path, mode: int, owner: str, group: str) -> bool:
    """Return whether a file or directory has this mode, owner and group."""
    status = path.lstat()
    try:
        ids = (pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid)
    except KeyError:
        return False  # check mode on a new host, where the user does not exist yet
    return (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, *ids)


def make_directory(path: Path, mode: int, owner: str, group: str) -> None:
    """Create a directory, or change its mode, owner and group.

    If another user owned it, its entries that are neither files nor directories are removed. Otherwise root could write
    through a link that the other user left there.

    Raises:
        KeyError: the user or the group does not exist.
        OSError: the path is a link, or can't be created.
    """
    path.mkdir(parents=True, exist_ok=True)
    uid, gid = pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        foreign = os.fstat(place).st_uid != uid
        os.fchmod(place, mode)
        os.fchown(place, uid, gid)
        if not foreign:
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
    """Set the mode and the group of a path, and root as its owner.

    Raises:
        KeyError: the group does not exist.
    """
    os.chown(path, 0, grp.getgrnam(group).gr_gid)
    path.chmod(mode)


def write_file(path: Path, text: str, mode: int, group: str) -> None:
    """Write a file atomically. It is never readable for others, not even for a moment.

    Raises:
        KeyError: the group does not exist.
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


def replace_link(path: Path, target: Path | str) -> None:
    """Point a symbolic link to a target atomically. A file in its place is replaced.

    Raises:
        OSError: the link can't be created.
    """
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
