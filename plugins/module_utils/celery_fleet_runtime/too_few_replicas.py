"""Have commands wait while a primary of Redis has too few replicas.

For a moment after a failover or a restart, it refuses writes (NOREPLICAS). redis-py 8.1 has no class for this error, so
that a worker ends. kombu 5.7 connects a sender again at once, and raises the second error.
"""

from __future__ import annotations

import functools
from typing import Any

from redis.backoff import ConstantBackoff
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as LostConnectionError
from redis.retry import Retry
from redis.sentinel import SentinelManagedConnection

#: Shorter than what the watchdog waits for a worker.
ATTEMPTS, WAIT_SECONDS = 20, 1.0
_MARK = "celery_fleet_waits"
# Its methods have no types. Connections with TLS are of a subclass.
connections: Any = SentinelManagedConnection


class TooFewReplicasError(LostConnectionError):
    """A new connection to the primary may find that it has its replicas."""


def install() -> None:
    """Do so for all connections of this process to a primary that Sentinels know."""
    # The mapping is that of all of redis-py's parsers.
    DefaultParser.EXCEPTION_CLASSES["NOREPLICAS"] = TooFewReplicasError
    initialize = connections.__init__
    if hasattr(initialize, _MARK):
        return

    @functools.wraps(initialize)
    def initialize_with_retry(self: Any, **options: Any) -> None:  # noqa: ANN401 - as above
        # Celery's backend of results has a policy of its own.
        if not (options.get("retry_on_timeout") or options.get("retry_on_error")):
            options.setdefault("retry", Retry(ConstantBackoff(WAIT_SECONDS), ATTEMPTS, (TooFewReplicasError,)))
        initialize(self, **options)

    setattr(initialize_with_retry, _MARK, True)
    connections.__init__ = initialize_with_retry
