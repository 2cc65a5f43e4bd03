"""Text for Supervisor's configuration files.

Supervisor reads a value in three steps (supervisor/options.py): a ';' or '#' behind white space begins a comment, then
%(name)s is expanded, then the command is split as a shell would.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable


def escape(text: str) -> str:
    """Return a text for a value that Supervisor expands: each % doubled."""
    return text.replace("%", "%%")


def command(argv: Iterable[str]) -> str:
    """Return the value of command= that makes Supervisor run exactly these arguments."""
    # Empty quotes between the white space and the ; or # of an argument keep it from beginning a comment.
    return escape(re.sub(r"(\s)([;#])", r"\1''\2", shlex.join(argv)))
