"""Values for Supervisor's configuration files.

Supervisor parses a value in three steps (supervisor/options.py): it strips comments, which begin with a ';' or '#'
after white space, expands %(name)s, and splits a command as a shell does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable


def escape(text: str) -> str:
    """Escape a text for a value that Supervisor expands, by doubling each %."""
    return text.replace("%", "%%")


def command(argv: Iterable[str]) -> str:
    """Return the value of command= with which Supervisor runs exactly these arguments."""
    # Empty quotes between white space and a ; or # keep Supervisor from taking it for a comment.
    return escape(re.sub(r"(\s)([;#])", r"\1''\2", shlex.join(argv)))
