"""Have senders try again after an internal error of RabbitMQ.

A node of a cluster may close a connection with it (541) while another one stops, before it confirms a message. py-amqp
5.3 counts it among the errors that a new connection does not end, so kombu would raise it in the sender.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import InternalError
from kombu.transport import pyamqp

# kombu has no types.
transport: Any = pyamqp.Transport


def install() -> None:
    """Do so for all connections of this process."""
    errors = transport.recoverable_connection_errors
    if InternalError not in errors:
        transport.recoverable_connection_errors = (*errors, InternalError)
