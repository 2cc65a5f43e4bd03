"""Record what a scenario's tests spend their time on, as lines of JSON in the file $FLEET_SPENT, if it is set.

Time within time counts once: what a playbook takes that is run while something is awaited is the playbook's. What goes
on in threads beside the test costs it no time, so it does not count.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_within: list[float] = []


@contextmanager
def spent(kind: str) -> Iterator[None]:
    """Record the seconds of the block, without those that were recorded within it.

    Args:
        kind: what the time went to; empty if that is noted by what runs in the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    began = time.monotonic()
    _within.append(0.0)
    try:
        yield
    finally:
        took = time.monotonic() - began
        own = took - _within.pop()
        if _within:
            _within[-1] += took
        if kind and (path := os.environ.get("FLEET_SPENT")):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "seconds": round(own, 3)}) + "\n")
