"""Count the tasks in ledgers: `python -m shop.ledger count DIR...`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from shop.ledger import count, directory


def read(places: list[Path]) -> Iterator[str]:
    """Yield the lines of all ledgers in these directories.

    Raises:
        OSError: one can't be read.
    """
    for place in places:
        if not place.is_dir():
            raise NotADirectoryError(f"no such directory: {place}")
        for path in sorted(place.glob("*.jsonl")):
            with path.open(encoding="utf-8") as file:
                yield from file


def main(arguments: list[str] | None = None) -> int:
    """Print what the ledgers say as JSON."""
    parser = argparse.ArgumentParser(prog="python -m shop.ledger", description="Count the tasks in ledgers.")
    commands = parser.add_subparsers(required=True)
    counting = commands.add_parser("count", help="count tasks sent, done, lost and repeated, as JSON")
    counting.add_argument(
        "directories",
        metavar="DIR",
        nargs="*",
        type=Path,
        help="the ledgers of every host, a directory each (default: this host's)",
    )
    options = parser.parse_args(arguments)
    try:
        result = count(read(options.directories or [directory()]))
    except OSError as error:
        print(f"shop.ledger: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(result), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
