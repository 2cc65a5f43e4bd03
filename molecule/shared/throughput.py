"""How fast messages pass a broker with several hosts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from shared.deployed import RUN, Shop

ON_HOST = Path(__file__).parents[2] / "bench" / "tier_on_host.py"
ROUNDS, MESSAGES, BYTES = 5, 500, 1000


def compare(shop: Shop, alone: Callable[[], dict[str, Any]], together: Callable[[], dict[str, Any]]) -> None:
    """Print the throughput of three hosts as a ratio to that of one, measured by turns.

    Args:
        alone: has one host hold the messages, and returns what bench/tier_on_host.py reads besides their number.
        together: the same for three hosts.
    """
    found: dict[tuple[bool, str], list[float]] = {}
    for _ in range(ROUNDS):
        for three, prepare in enumerate((alone, together)):
            given = json.dumps(prepare() | {"messages": MESSAGES, "bytes": BYTES})
            program = shlex.quote(ON_HOST.read_text(encoding="utf-8"))
            answer = shop.output(f"printf %s {shlex.quote(given)} | {RUN} python -c {program}", "worker1")
            for what, seconds in json.loads(answer.splitlines()[-1]).items():
                found.setdefault((bool(three), what), []).append(seconds)
    ratios = {what: median(found[False, what]) / median(found[True, what]) for _, what in found}
    print(f"throughput of three hosts to that of one: {', '.join(f'{what} {x:.2f}' for what, x in ratios.items())}")
