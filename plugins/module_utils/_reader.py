"""Reads values that users set, and collects what is wrong with them, so that a user sees all mistakes at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._environment import variable_text
from ansible_collections.fleet.celery.plugins.module_utils._units import parse_size

# Supervisor splits lists of programs at white space and commas, and groups at colons, and expands %. Celery splits node
# names at @, and lists of queues at commas.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s)?")
_SECONDS_A_DAY = 86400
_LONGEST_SECONDS = 366 * _SECONDS_A_DAY


@dataclass(frozen=True, order=True)
class Problem:
    """An error in the declaration: where it was set, what is wrong, and how to fix it."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.fix}"


class Reader:
    """Reads values from a raw mapping, validates each, and collects the problems.

    Attributes:
        prefix: of the keys, where a user sets them.
    """

    prefix = ""

    def __init__(self, raw: Mapping[str, Any], where: str, problems: list[Problem]) -> None:
        self.raw = raw
        self.where = where
        self.problems = problems
        self.known: set[str] = set()

    def problem(self, key: str, what: str, fix: str) -> None:
        where = [self.where, f"{self.prefix}{key}" if key else ""]
        self.problems.append(Problem(".".join(filter(None, where)), what, fix))

    def take(self, key: str) -> Any:  # noqa: ANN401 - YAML gives anything
        """Return a value as it was set; None if it was not."""
        self.known.add(key)
        return self.raw.get(key)

    def integer(self, key: str, *, least: int = 1, unit: str = "a whole number") -> int | None:
        value = self.take(key)
        return None if value is None else self._integer(key, value, least, unit)

    def count(self, key: str, default: int = 0, *, unit: str = "a whole number") -> int:
        """Return a number of which 0 is a value, and not that none is set."""
        self.known.add(key)
        value = self.raw.get(key)
        number = None if value is None or value == "" else self._integer(key, value, 0, unit)
        return default if number is None else number

    def _integer(self, key: str, value: object, least: int, unit: str) -> int | None:
        number = as_integer(value)
        if number is None or number < least:
            self.problem(
                key, f"{value!r} is not {unit} of at least {least}", f"Set it to {unit}, e.g. {max(least, 30)}"
            )
            return None
        return number

    def seconds(self, key: str) -> int | None:
        value = self.integer(key, unit="a number of seconds")
        if value is not None and value > _LONGEST_SECONDS:
            self.problem(
                key,
                f"{value} s is longer than a year",
                "Set it to the longest time that a task may run, in seconds, e.g. 300",
            )
            return None
        return value

    def duration(self, key: str) -> float:
        """Return seconds, which a user may set as a number or as in 5ms and 2s; 0 if they are not set."""
        value = self.take(key)
        if value is None:
            return 0.0
        found = _DURATION.fullmatch(str(value))
        seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
        if not 0 < seconds < _LONGEST_SECONDS:
            self.problem(key, f"{value!r} is not a time above 0", "Set it to a number and a unit, as in 5ms or 2s")
            return 0.0
        return seconds

    def size(self, key: str) -> int | None:
        value = self.take(key)
        if value is None:
            return None
        try:
            return parse_size(value)
        except ValueError as error:
            self.problem(key, str(error), "Set it to a number and a unit, KB, MB or GB (powers of 1024), e.g. 200MB")
            return None

    def text(self, key: str, default: str = "") -> str:
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool):
            what = f"{value!r} is not a string: YAML reads yes, no, on, off, true and false without quotes as booleans"
            self.problem(key, what, f'Quote it, as in {self.prefix}{key}: "on"')
            return default
        if not isinstance(value, (str, int)):
            self.problem(key, f"{value!r} is not a string", f"Set it to a string, e.g. {self.prefix}{key}: name")
            return default
        return str(value)

    def port(self, key: str) -> int | None:
        value = self.take(key)
        return None if value is None else self._port(key, value)

    def ports(self, key: str) -> tuple[int, ...]:
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.problem(key, f"{value!r} is not a list", "Set it to a list of ports, e.g. [8000]")
            return ()
        return tuple(filter(None, (self._port(key, item) for item in value)))

    def _port(self, key: str, value: object) -> int | None:
        port = as_integer(value)
        if port is None or not 0 < port < 2**16:
            self.problem(key, f"{value!r} is not a port", "Set it to a number from 1 to 65535")
            return None
        return port

    def choice(self, key: str, choices: Iterable[str], default: str) -> str:
        value = self.text(key, default)
        choices = tuple(choices)
        if value not in choices:
            self.problem(
                key,
                f"{value!r} is not a valid value{closest(value, choices)}",
                f"Set it to one of {', '.join(choices)}",
            )
            return default
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, (str, int, float)) for item in value):
            fix = f"Set it to a list, e.g. {self.prefix}{key}: [one, two]"
            self.problem(key, f"{value!r} is not a list of strings", fix)
            return ()
        return tuple(str(item) for item in value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        self.known.add(key)
        value = self.raw.get(key)
        if value is None or value == "":
            return default
        if isinstance(value, bool):
            return value
        if str(value).lower() in {"true", "false"}:  # by -e name=true
            return str(value).lower() == "true"
        self.problem(key, f"{value!r} is neither true nor false", "Set it to true or false")
        return False

    def mapping(self, key: str, example: str) -> Mapping[str, Any]:
        value = self.take(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            fix = f"Set it to a mapping, e.g. {self.prefix}{key}: {example}"
            self.problem(key, f"{value!r} is not a mapping", fix)
            return {}
        return value

    def mappings(self, key: str) -> list[Mapping[str, Any]]:
        """Return the mappings of a list. Everything else is a problem."""
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(key, f"{value!r} is not a list", f"Set {self.prefix}{key} to a list of '- name: ...'")
            return []
        for index, entry in enumerate(value):
            if not isinstance(entry, Mapping):
                self.problem(f"{key}[{index}]", f"{entry!r} is not a mapping", "Write it as '- name: ...'")
        return [entry for entry in value if isinstance(entry, Mapping)]

    def environment(self, key: str) -> dict[str, str]:
        value = self.mapping(key, "{NAME: value}")
        for name, text in value.items():
            if not _ENVIRONMENT_NAME.fullmatch(str(name)):
                self.problem(
                    key, f"{name!r} is not a valid name of a variable", "Use letters, digits and _, and no digit first"
                )
            if isinstance(text, (Mapping, list)) or "\n" in str(text) or "\0" in str(text):
                self.problem(
                    key, f"the value of {name} is not one line of text", "Set it to a string without line breaks"
                )
        return {str(name): variable_text(text) for name, text in value.items()}

    def name(self, key: str = "name") -> str:
        value = self.text(key)
        if not value:
            self.problem(key, "is missing", "Set a name")
        elif not _NAME.fullmatch(value):
            self.problem(
                key,
                f"{value!r} has characters that Supervisor or Celery can't use in a name",
                "Use letters, digits, '_', '-' and '.', with a letter or digit first",
            )
        return value

    def unknown_keys(self) -> None:
        for key in self.raw:
            if key not in self.known:
                self.problem(
                    str(key),
                    f"is not an option{closest(str(key), self.known)}",
                    f"The options are {', '.join(sorted(self.known))}",
                )


class Variables(Reader):
    """Reads the user's variables, by their names without the prefix celery_. An empty value, or 0, is not set."""

    prefix = "celery_"

    def __init__(self, raw: Mapping[str, Any], problems: list[Problem]) -> None:
        super().__init__(raw, "", problems)

    def take(self, key: str) -> Any:  # noqa: ANN401 - YAML gives anything
        return super().take(key) or None


def as_integer(value: object) -> int | None:
    """Return a whole number, which Jinja may have turned into a string; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def closest(word: str, known: Iterable[str]) -> str:
    """Return the most similar known word as a question, for a message; empty if there is none."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
