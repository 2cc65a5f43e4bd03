"""Have senders and workers wait while a primary of Redis has too few replicas.

For a moment after a failover, it refuses writes (NOREPLICAS). redis-py 8.1 has no class for this error, so that a
worker ends. kombu 5.7 connects a sender again once, and raises the second error.
"""

from __future__ import annotations

import time
from typing import Any

from kombu.transport import redis as kombu_redis
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as LostConnectionError

#: The twenty attempts of a sender are as long as if it can't connect.
WAIT_SECONDS = 3.0
# kombu has no types. The transport of Sentinels is one of its subclasses.
transport: Any = kombu_redis.Transport


class TooFewReplicasError(LostConnectionError):
    """A new connection to the primary may find that it has its replicas."""


def install() -> None:
    """Do so for all connections of this process."""
    # The mapping is that of all of redis-py's parsers.
    DefaultParser.EXCEPTION_CLASSES["NOREPLICAS"] = TooFewReplicasError
    # With these, kombu tries again after each error.
    transport.recoverable_connection_errors = (*transport.connection_errors, *transport.channel_errors)


def wait(error: Exception, _interval: float) -> None:
    """Wait before a sender tries again, as errback of task_publish_retry_policy.

    kombu itself waits only before it connects again, and this server accepts connections.
    """
    if isinstance(error, TooFewReplicasError):
        time.sleep(WAIT_SECONDS)
