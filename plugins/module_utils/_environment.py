"""Environment files, which the wrapper's shell reads."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from urllib.parse import unquote

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL|AUTH|DSN|URL", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"://[^/@\s]*?:([^/@\s]+)@")
_SHORTEST_SECRET = 6


def environment_text(environment: Mapping[str, object]) -> str:
    """Return the content of an environment file. Values may contain any character but NUL.

    Raises:
        ValueError: a name or a value is invalid.
    """
    bad = [str(name) for name in environment if not _NAME.fullmatch(str(name))]
    if bad:
        raise ValueError(f"not valid as names of environment variables: {', '.join(bad)}. Use letters, digits and _")
    texts = {str(name): variable_text(value) for name, value in environment.items()}
    bad = [name for name, text in texts.items() if "\0" in text]
    if bad:
        raise ValueError(f"environment variables with a NUL character in their value: {', '.join(bad)}. Remove it")
    return "".join(f"{name}={shlex.quote(text)}\n" for name, text in sorted(texts.items()))


def secrets_in(text: str) -> set[str]:
    """Return the secrets in an environment file: values of variables named like secrets, and passwords in URLs.

    They are masked in a program's error messages. Short values are left out: they are rather switches and numbers than
    secrets, and masking them would mask half of the message.
    """
    secrets = set()
    for name, value in (item.split("=", 1) for item in shlex.split(text)):
        if _SECRET.search(name):
            secrets.add(value)
        for password in _URL_PASSWORD.findall(value):
            secrets |= {password, unquote(password)}
    return {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}


def variable_text(value: object) -> str:
    """Return the value of an environment variable: true and false for booleans, empty for null."""
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
