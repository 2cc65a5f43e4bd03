"""What a queued task takes on each kind of broker, in bytes: measured, not chosen."""

from __future__ import annotations

COSTS: dict[tuple[str, str, bool], tuple[tuple[int, int, int], ...]] = {
    ("redis", "list", False): ((0, 1030, 1100), (1024, 3096, 3000), (10240, 16434, 16000)),
    ("redis", "list", True): ((0, 1030, 1100), (1024, 2406, 3000), (10240, 7218, 16000)),
    ("rabbitmq", "quorum", False): ((0, 1030, 1100), (1024, 3096, 3000), (10240, 16434, 16000)),
    ("rabbitmq", "quorum", True): ((0, 1030, 1100), (1024, 3096, 3000), (10240, 16434, 16000)),
    ("rabbitmq", "classic", False): ((0, 1030, 1100), (1024, 3096, 3000), (10240, 16434, 16000)),
    ("rabbitmq", "classic", True): ((0, 1030, 1100), (1024, 3096, 3000), (10240, 16434, 16000)),
}
