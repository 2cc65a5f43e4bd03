"""Configuration files, directories and links that root owns: their desired and their present state."""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._files import (
    belongs,
    make_directory,
    replace_link,
    write_file,
)

_MODE = re.compile(r"0?[0-7]{3}")
_QUOTED = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")
_BETWEEN_WORDS = re.compile(r"[\s\"'=:/@]+")
# A shorter secret would mask half of the message.
_SECRET_LENGTH = 6
#: Stands for the candidate's path in a validation command.
PLACE = "{}"


class ConfigError(Exception):
    """An argument is invalid, or a file is rejected. The text is for the user."""


def masked(text: str, content: str) -> str:
    """Return a text in which possible secrets of a file are masked: quoted strings, and words that are no names."""
    quoted = {value for pair in _QUOTED.findall(content) for value in pair}
    words = {word for word in _BETWEEN_WORDS.split(content) if not re.fullmatch(r"[A-Za-z_.-]*", word)}
    values = {value for value in quoted | words if len(value) >= _SECRET_LENGTH}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def _mode(text: str, path: str) -> int:
    if not _MODE.fullmatch(text):
        raise ConfigError(f"{path}: the mode {text!r} is not valid. Set it to octal digits, e.g. '0644'")
    return int(text, 8)


@dataclass(frozen=True)
class Directory:
    """A directory. Missing parent directories are created with mode 0755."""

    path: Path
    group: str
    mode: int

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Directory:
        """Return the directory of an entry of the option directories.

        Raises:
            ConfigError: the mode is invalid.
        """
        return cls(Path(item["path"]), item["group"], _mode(item["mode"], item["path"]))

    def there(self) -> bool:
        """Return whether it is in the desired state."""
        return self.path.is_dir() and belongs(self.path, self.mode, "root", self.group)

    def difference(self) -> str:
        """Return the change as a unified diff."""
        return f"--- {self.path}\n+++ {self.path}\n+directory {self.mode:04o} root:{self.group}\n"

    def put(self) -> None:
        """Bring it to the desired state.

        Raises:
            KeyError: the group does not exist.
            OSError: it can't be written.
        """
        make_parents(self.path)
        make_directory(self.path, self.mode, "root", self.group)


@dataclass(frozen=True)
class File:
    """A file.

    Attributes:
        secret: whether its content is left out of the diff.
        validate: command that validates it, with PLACE for its path.
    """

    path: Path
    content: str
    group: str
    mode: int
    secret: bool = False
    validate: tuple[str, ...] = ()

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> File:
        """Return the file of an entry of the option files.

        Raises:
            ConfigError: the mode is invalid, or the validation command does not contain PLACE.
        """
        validate = tuple(item["validate"])
        if validate and not any(PLACE in word for word in validate):
            raise ConfigError(
                f"{item['path']}: validate ({' '.join(validate)}) lacks {PLACE}. Add it in place of the file's path"
            )
        mode = _mode(item["mode"], item["path"])
        return cls(Path(item["path"]), item["content"], item["group"], mode, item["secret"], validate)

    def same(self) -> bool:
        """Return whether it has the desired content."""
        there = self.path.is_file() and not self.path.is_symlink()
        return there and self.path.read_bytes() == self.content.encode("utf-8")

    def there(self) -> bool:
        """Return whether it is in the desired state."""
        return self.same() and belongs(self.path, self.mode, "root", self.group)

    def difference(self) -> str:
        """Return the change as a unified diff."""
        title = f"{self.path} {self.mode:04o} root:{self.group}"
        if self.same() or self.secret:
            return f"--- {self.path}\n+++ {title}{' (secret)' if self.secret else ''}\n"
        before = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        old, new = (text.splitlines(keepends=True) for text in (before, self.content))
        lines = difflib.unified_diff(old, new, str(self.path) if before else "absent", title)
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

    def put(self) -> None:
        """Bring it to the desired state.

        Raises:
            KeyError: the group does not exist.
            OSError: it can't be written.
        """
        make_parents(self.path)
        write_file(self.path, self.content, self.mode, self.group)

    def rejection(self, run: Callable[[list[str]], tuple[int, str, str]]) -> str:
        """Return why its validation command rejects it; empty if it does not.

        Args:
            run: AnsibleModule.run_command.
        """
        if not self.validate or self.same():
            return ""
        # A temporary directory has mode 0700.
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / self.path.name
            copy.write_text(self.content, encoding="utf-8", newline="")
            code, out, err = run([word.replace(PLACE, str(copy)) for word in self.validate])
        if code == 0:
            return ""
        output = f"{out}{err}".strip()
        if self.secret:
            output = masked(output, self.content)
        return f"{self.path} is not replaced, because {Path(self.validate[0]).name} rejects it: {output}"


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    path: Path
    target: Path

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Link:
        """Return the link of an entry of the option links."""
        return cls(Path(item["path"]), Path(item["target"]))

    def there(self) -> bool:
        """Return whether it is in the desired state."""
        return self.path.is_symlink() and self.path.readlink() == self.target

    def difference(self) -> str:
        """Return the change as a unified diff."""
        return f"--- {self.path}\n+++ {self.path}\n+link to {self.target}\n"

    def put(self) -> None:
        """Bring it to the desired state.

        Raises:
            OSError: it can't be written.
        """
        make_parents(self.path)
        replace_link(self.path, self.target)


def make_parents(path: Path) -> None:
    """Create the missing parent directories of a path with mode 0755, whatever the umask."""
    missing = [parent for parent in path.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        parent.chmod(0o755)
