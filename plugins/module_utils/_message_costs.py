"""The costs of a queued task on each kind of broker, in bytes.

Written by bench/broker_memory.py on 2026-11-21 with Celery 5.7.0: the maximum of the measurements on Debian 12 and 13.
Keys: kind of broker, type of queue, whether messages are compressed. Rows: size of the arguments, memory right after
queueing, memory once a quorum queue has written its log to the disk, space on the disk.
"""

from __future__ import annotations

COSTS: dict[tuple[str, str, bool], tuple[tuple[int, int, int, int], ...]] = {
    ("redis", "list", False): (
        (0, 1031, 1031, 991),
        (1024, 3097, 3097, 2962),
        (10240, 16434, 16434, 15678),
    ),
    ("redis", "list", True): (
        (0, 1031, 1031, 1000),
        (1024, 2406, 2406, 2268),
        (10240, 7218, 7218, 6251),
    ),
    ("rabbitmq", "classic", False): (
        (0, 959, 959, 745),
        (1024, 1943, 1943, 2373),
        (10240, 14707, 14707, 12041),
    ),
    ("rabbitmq", "classic", True): (
        (0, 1174, 1174, 757),
        (1024, 1467, 1467, 1861),
        (10240, 7710, 7710, 4979),
    ),
    ("rabbitmq", "quorum", False): (
        (0, 1862, 745, 847),
        (1024, 4360, 1222, 2475),
        (10240, 14599, 4538, 12118),
    ),
    ("rabbitmq", "quorum", True): (
        (0, 1320, 454, 860),
        (1024, 3861, 1107, 1962),
        (10240, 7398, 2479, 5057),
    ),
}
