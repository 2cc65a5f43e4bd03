"""Video. Its tasks need a processor each, so they belong on prefork."""

# Celery has no types, so `app.task` has none.
# mypy: allow-untyped-decorators
from __future__ import annotations

import hashlib
import time

from shop.celery import app

FRAME = bytes(64 * 1024)


@app.task(name="video.transcode")
def transcode(video: int, seconds: float = 1.0, rest: float = 0.0) -> int:
    """Keep a processor busy for some time and return the number of frames it did.

    It changes nothing but its result, so it may run twice.

    Args:
        video: the video's number.
        seconds: how long, by the clock.
        rest: seconds of sleep after each frame, which leave the processor to others.
    """
    digest = hashlib.sha256(str(video).encode())
    frames = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        digest.update(FRAME)
        frames += 1
        time.sleep(rest)
    return frames
