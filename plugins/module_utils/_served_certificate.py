"""Compare the certificate that a service serves with the one in a file."""

from __future__ import annotations

import hashlib
import socket
import ssl
import time
from collections.abc import Callable

_POLL_SECONDS = 0.5
_END = "-----END CERTIFICATE-----"


class ServiceError(Exception):
    """The service has no certificate, or not the expected one. The message says why."""


def first_certificate(text: str) -> bytes:
    """Return the first certificate of a file in PEM, as DER.

    Raises:
        ServiceError: there is none.
    """
    _, begin, rest = text.partition("-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition(_END)
    try:
        return ssl.PEM_cert_to_DER_cert(f"{begin}{body}{end}") if begin and end else _refuse()
    except ValueError:
        return _refuse()


def _refuse() -> bytes:
    raise ServiceError("has no certificate in PEM")


def served_certificate(address: str, port: int, timeout: float) -> bytes:
    """Return the certificate that a service serves, as DER. It is not verified.

    Raises:
        ServiceError: the service does not answer, or does not speak TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    where = f"{address} port {port}"
    try:
        connection = socket.create_connection((address, port), timeout)
    except OSError as error:
        raise ServiceError(f"Nothing accepts connections on {where}: {error}") from error
    with connection:
        try:
            with context.wrap_socket(connection) as session:
                return session.getpeercert(binary_form=True) or b""
        except OSError as error:  # ssl.SSLError is one
            raise ServiceError(f"The service on {where} does not speak TLS: {error}") from error


def wait_until_served(fetch: Callable[[float], bytes], expected: bytes, timeout: float) -> None:
    """Poll a service until it serves a certificate. Errors are tolerated until then, as it may restart.

    Args:
        fetch: returns what it serves, within a number of seconds.

    Raises:
        ServiceError: it does not within the timeout, in seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        remaining = deadline - time.monotonic()
        try:
            certificate = fetch(max(remaining, 1.0))
            if certificate == expected:
                return
            reason = f"It serves a certificate with the SHA-256 fingerprint {fingerprint(certificate)}"
        except ServiceError as error:
            reason = str(error)
        if remaining <= 0:
            raise ServiceError(reason)
        time.sleep(min(_POLL_SECONDS, remaining))


def fingerprint(certificate: bytes) -> str:
    """Return the SHA-256 fingerprint of a certificate, as openssl prints it."""
    return hashlib.sha256(certificate).digest().hex(":").upper()
