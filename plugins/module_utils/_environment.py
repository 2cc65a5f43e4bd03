"""Environment files, as the wrapper's shell reads them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def environment_text(environment: Mapping[str, object]) -> str:
    """Return the text of a file that sets these variables, whatever characters their values have.

    Raises:
        ValueError: for a name that no variable can have.
    """
    bad = [str(name) for name in environment if not _NAME.fullmatch(str(name))]
    if bad:
        raise ValueError(f"can't name a variable: {', '.join(bad)}. Use letters, digits and _, no digit first")
    return "".join(f"{name}={shlex.quote(_text(value))}\n" for name, value in sorted(environment.items()))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
