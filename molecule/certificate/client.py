"""Connects to services by TLS without end, and reads the trusted authorities for each connection, as workers do.

Usage: client.py ADDRESS:PORT …

Writes the number of connections to /run/tls-client, and each failure to /run/tls-client.failures.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from pathlib import Path

DONE = Path("/run/tls-client")
FAILURES = Path("/run/tls-client.failures")


def connect(address: str, port: int) -> None:
    """Connect, and verify the service's certificate."""
    context = ssl.create_default_context(cafile="/etc/celery-fleet/tls/ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection((address, port), 30) as connection,
        context.wrap_socket(connection, server_hostname=address),
    ):
        pass


def main() -> None:
    done = 0
    while True:
        for service in sys.argv[1:]:
            address, _, port = service.partition(":")
            try:
                connect(address, int(port))
                done += 1
            except OSError as error:
                with FAILURES.open("a", encoding="utf-8") as file:
                    file.write(f"{service}: {error}\n")
        DONE.write_text(str(done), encoding="utf-8")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
