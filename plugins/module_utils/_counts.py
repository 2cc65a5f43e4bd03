"""What became of a host's tasks: reads the files that its workers count in (celery_fleet_report.py)."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("begun", "done", "failed", "retried")
MAGIC = b"fleet 1\0"
_TOTALS = struct.Struct("=8s4Q")
_CELL = struct.Struct("=5I")


@dataclass
class Counts:
    """Events of some programs.

    Attributes:
        totals: of each kind, since the program first ran on its release.
        seconds: of each kind, for each second of the last hour (since the epoch).
    """

    totals: Counter[str] = field(default_factory=Counter)
    seconds: dict[int, Counter[str]] = field(default_factory=dict)

    def add(self, raw: bytes) -> None:
        """Take up the contents of a file; one that is not whole counts for nothing."""
        if len(raw) < _TOTALS.size or not raw.startswith(MAGIC):
            return
        _, *totals = _TOTALS.unpack_from(raw)
        self.totals.update(dict(zip(KINDS, totals, strict=True)))
        for place in range(_TOTALS.size, len(raw) - _CELL.size + 1, _CELL.size):
            second, *cell = _CELL.unpack_from(raw, place)
            if second:
                self.seconds.setdefault(second, Counter()).update(dict(zip(KINDS, cell, strict=True)))


def read_counts(directory: Path) -> dict[tuple[str, str], Counts]:
    """Return what each program of a host did on each release, by their names."""
    found: dict[tuple[str, str], Counts] = {}
    for path in sorted(directory.glob("*.counts")):
        program, _, rest = path.name.partition("@")
        release = rest.removesuffix(".counts").rpartition(".")[0]
        found.setdefault((program, release), Counts()).add(path.read_bytes())
    return found
