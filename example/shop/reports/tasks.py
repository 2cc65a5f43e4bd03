"""Reports: long tasks, and large ones."""

# Celery has no types, so `app.task` has none.
# mypy: allow-untyped-decorators
from __future__ import annotations

import logging
import time
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded

from shop.celery import app

logger = logging.getLogger(__name__)

STEP = 0.1
MEGABYTE = 1024 * 1024
PAGE = 4096


@app.task(name="reports.build")
def build(month: str, seconds: float = 1.0, stubborn: bool = False, figures: str = "") -> str:
    """Build one month's report and return its name.

    Args:
        month: which one, such as "2026-07". The same month gives the same report, so a repeat replaces it.
        seconds: how long it takes.
        stubborn: ignore the soft time limit, as code with a bare `except` does. Only the hard one ends it.
        figures: a file. Once it is there, the report is ready, however much of the time is left.

    Raises:
        SoftTimeLimitExceeded: after tidying up, when the time is over.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (figures and Path(figures).exists()):
        try:
            time.sleep(STEP)
        except SoftTimeLimitExceeded:
            if stubborn:
                continue
            logger.warning("report %s is not ready in time, its draft is dropped", month)
            raise
    return f"report-{month}"


@app.task(name="reports.hoard")
def hoard(megabytes: int, seconds: float = 0.0) -> int:
    """Use much memory, as a report over all orders does, and return how much.

    The memory is free again when the task ends, but a process seldom gives it back to the system.

    Args:
        megabytes: how much.
        seconds: how long it is held.
    """
    pages = bytearray(megabytes * MEGABYTE)
    # Memory counts once it is written to.
    for start in range(0, len(pages), PAGE):
        pages[start] = 1
    time.sleep(seconds)
    return len(pages) // MEGABYTE
