"""Messages that workers refuse: the reasons, and their number in a file of each program.

Standard library only: services of the host import this module, too.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from .counts import read_file

#: Reasons for which messages are refused, with what each means.
REASONS = {
    "unsigned": "it is not signed",
    "unknown_key": "its sender's key is not trusted",
    "wrong_signature": "it does not have the signature of its sender",
    "expired": "it is older than celery_signed_messages_window",
    "clock": "the clock of its sender is ahead",
    "wrong_destination": "it was sent to another queue or exchange",
    "replayed": "it was received before",
    "not_operator": "its sender may not control workers",
}
_SUFFIX = ".refused"
_BYTES = 4096


class Refusals:
    """The number of messages that a program has refused, by reason, in a file that outlives its processes."""

    def __init__(self, directory: Path, program: str) -> None:
        self._path = directory / f"{program}{_SUFFIX}"
        self._counts = dict.fromkeys(REASONS, 0) | read_refusals(directory, program)
        self._write()

    def count(self, reason: str) -> None:
        """Count a refused message."""
        self._counts[reason] += 1
        self._write()

    def _write(self) -> None:
        """Write all counts. Ignore disk errors: the next refused message writes them again."""
        temporary = self._path.with_suffix(".refusing")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self._counts), encoding="utf-8")
            temporary.replace(self._path)


def read_refusals(directory: Path, program: str) -> dict[str, int]:
    """Return the number of refused messages of a program by reason; empty if its workers refuse none."""
    try:
        raw = json.loads(read_file(directory, f"{program}{_SUFFIX}", _BYTES) or "{}")
        return {reason: int(raw.get(reason, 0)) for reason in (REASONS if raw else ())}
    except (ValueError, TypeError):
        return {}
