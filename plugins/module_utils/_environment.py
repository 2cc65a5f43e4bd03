"""Environment files, as the wrapper's shell reads them."""

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
    """Return the text of a file that sets these variables, whatever characters their values have.

    Raises:
        ValueError: for a name that no variable can have, and for a value that none can.
    """
    bad = [str(name) for name in environment if not _NAME.fullmatch(str(name))]
    if bad:
        raise ValueError(f"can't name a variable: {', '.join(bad)}. Use letters, digits and _, no digit first")
    texts = {str(name): _text(value) for name, value in environment.items()}
    bad = [name for name, text in texts.items() if "\0" in text]
    if bad:
        raise ValueError(f"no variable can hold a NUL character: {', '.join(bad)}")
    return "".join(f"{name}={shlex.quote(text)}\n" for name, text in sorted(texts.items()))


def secrets_in(text: str) -> set[str]:
    """Return what must not be shown of an environment file: values whose names say so, and passwords of URLs.

    A program that ends with such a value in its message would show it otherwise. Short values are left out: they are
    switches and numbers rather than secrets, and hiding them would hide half of the message.
    """
    secrets = set()
    for name, value in (item.split("=", 1) for item in shlex.split(text)):
        if _SECRET.search(name):
            secrets.add(value)
        for password in _URL_PASSWORD.findall(value):
            secrets |= {password, unquote(password)}
    return {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
