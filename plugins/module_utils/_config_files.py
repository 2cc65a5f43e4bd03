"""Files, directories and links that belong to root, as they are wanted and as they are."""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._files import belongs, make_directory, write_file

_MODE = re.compile(r"0?[0-7]{3}")
_QUOTED = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")
_BETWEEN_WORDS = re.compile(r"[\s\"'=:/@]+")
# A shorter secret would hide half of what is said.
_SECRET_LENGTH = 6
#: Where a command is to be told which file it checks.
PLACE = "{}"


class ConfigError(Exception):
    """What is wanted can't be, and why."""


def masked(text: str, content: str) -> str:
    """Return a text without what may be a secret of a file: what is quoted there, and words that are no names."""
    quoted = {value for pair in _QUOTED.findall(content) for value in pair}
    words = {word for word in _BETWEEN_WORDS.split(content) if not re.fullmatch(r"[A-Za-z_.-]*", word)}
    values = {value for value in quoted | words if len(value) >= _SECRET_LENGTH}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def _mode(text: str, path: str) -> int:
    if not _MODE.fullmatch(text):
        raise ConfigError(f"{path}: its mode is {text!r}, and is to be octal digits, such as '0644'")
    return int(text, 8)


@dataclass(frozen=True)
class Directory:
    """A directory; those above it that are missing are made too, for all to read."""

    path: Path
    group: str
    mode: int

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Directory:
        """Return what a task's argument says.

        Raises:
            ConfigError: the mode is none.
        """
        return cls(Path(item["path"]), item["group"], _mode(item["mode"], item["path"]))

    def there(self) -> bool:
        """Return whether nothing is to be done."""
        return self.path.is_dir() and belongs(self.path, self.mode, "root", self.group)

    def difference(self) -> str:
        """Return what would be done, as a unified difference."""
        return f"--- {self.path}\n+++ {self.path}\n+directory {self.mode:04o} root:{self.group}\n"

    def put(self) -> None:
        """Make it so.

        Raises:
            KeyError: there is no such group.
            OSError: it can't be written.
        """
        make_parents(self.path)
        make_directory(self.path, self.mode, "root", self.group)


@dataclass(frozen=True)
class File:
    """A file.

    Attributes:
        secret: what it holds is not to be shown.
        validate: a command that checks it, with PLACE for its path.
    """

    path: Path
    content: str
    group: str
    mode: int
    secret: bool = False
    validate: tuple[str, ...] = ()

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> File:
        """Return what a task's argument says.

        Raises:
            ConfigError: the mode is none, or the command that checks it does not name it.
        """
        validate = tuple(item["validate"])
        if validate and not any(PLACE in word for word in validate):
            raise ConfigError(f"{item['path']}: what checks it, {' '.join(validate)}, does not name it by {PLACE}")
        mode = _mode(item["mode"], item["path"])
        return cls(Path(item["path"]), item["content"], item["group"], mode, item["secret"], validate)

    def same(self) -> bool:
        """Return whether it holds already what it is to hold."""
        there = self.path.is_file() and not self.path.is_symlink()
        return there and self.path.read_bytes() == self.content.encode("utf-8")

    def there(self) -> bool:
        """Return whether nothing is to be done."""
        return self.same() and belongs(self.path, self.mode, "root", self.group)

    def difference(self) -> str:
        """Return what would be done, as a unified difference."""
        title = f"{self.path} {self.mode:04o} root:{self.group}"
        if self.same() or self.secret:
            return f"--- {self.path}\n+++ {title}{' (secret)' if self.secret else ''}\n"
        before = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        old, new = (text.splitlines(keepends=True) for text in (before, self.content))
        found = difflib.unified_diff(old, new, str(self.path) if before else "absent", title)
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in found)

    def put(self) -> None:
        """Make it so.

        Raises:
            KeyError: there is no such group.
            OSError: it can't be written.
        """
        make_parents(self.path)
        write_file(self.path, self.content, self.mode, self.group)

    def rejection(self, run: Callable[[list[str]], tuple[int, str, str]]) -> str:
        """Return what the program that reads it says against it; an empty text if it takes it.

        Args:
            run: AnsibleModule.run_command.
        """
        if not self.validate or self.same():
            return ""
        # Nobody else may enter it.
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / self.path.name
            copy.write_text(self.content, encoding="utf-8", newline="")
            code, out, err = run([word.replace(PLACE, str(copy)) for word in self.validate])
        if code == 0:
            return ""
        said = f"{out}{err}".strip()
        if self.secret:
            said = masked(said, self.content)
        return f"{self.path} is not replaced, as {Path(self.validate[0]).name} rejects it: {said}"


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    path: Path
    target: Path

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Link:
        """Return what a task's argument says."""
        return cls(Path(item["path"]), Path(item["target"]))

    def there(self) -> bool:
        """Return whether nothing is to be done."""
        return self.path.is_symlink() and self.path.readlink() == self.target

    def difference(self) -> str:
        """Return what would be done, as a unified difference."""
        return f"--- {self.path}\n+++ {self.path}\n+link to {self.target}\n"

    def put(self) -> None:
        """Make it so.

        Raises:
            OSError: it can't be written.
        """
        make_parents(self.path)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(self.target)


def make_parents(path: Path) -> None:
    """Make the directories above a path that are missing, for all to read, whatever the umask."""
    missing = [parent for parent in path.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        parent.chmod(0o755)
