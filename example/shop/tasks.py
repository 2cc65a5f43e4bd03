"""Tasks that belong to no part of the shop in particular."""

# Celery has no types, so `app.task` has none.
# mypy: allow-untyped-decorators
from __future__ import annotations

import logging

from shop.celery import app

logger = logging.getLogger(__name__)


@app.task(name="ticks.heartbeat")
def heartbeat() -> str:
    """Show that beat, the broker and a worker all work. Losing one is harmless: another follows."""
    logger.info("tick")
    return "tick"
