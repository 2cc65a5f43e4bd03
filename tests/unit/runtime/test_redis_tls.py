"""Connections of redis-py to a server with TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import redis_tls
from certificates import Made, make
from redis.connection import SSLConnection

ADDRESS = "127.0.0.1"
# Certificates are verified by the real clock.
NOW, DAY = datetime.now(UTC), timedelta(days=1)
made = partial(make, begin=NOW - DAY, end=NOW + DAY, strict=True)

Connect = Callable[..., ssl.SSLContext]


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A file of authorities, of which the server's is one."""
    return tmp_path / "ca.crt"


@pytest.fixture
def connect(tmp_path: Path, authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Return how to connect to a server, which gives the context of the connection."""
    ca = made("an authority", ca=True)
    authority.write_text(ca.pem)
    with socket.create_server((ADDRESS, 0)) as listener:
        serve(listener, made(ADDRESS, ca, [ADDRESS]), tmp_path)
        # It is undone after the test.
        wrap = redis_tls.connections._wrap_socket_with_ssl
        monkeypatch.setattr(redis_tls.connections, "_wrap_socket_with_ssl", wrap)
        redis_tls.install(str(authority))

        def connected(host: str = ADDRESS, **options: Any) -> ssl.SSLContext:
            verified = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(authority), "ssl_check_hostname": True}
            given: dict[str, Any] = {**verified, **options}
            connection: Any = SSLConnection(host=host, **given)
            with (
                socket.create_connection(listener.getsockname(), 30) as plain,
                connection._wrap_socket_with_ssl(plain) as encrypted,
            ):
                context: ssl.SSLContext = encrypted.context
                return context

        yield connected


def serve(listener: socket.socket, served: Made, directory: Path) -> None:
    """Make handshakes until the listener is closed."""
    certificate, key = directory / "served.crt", directory / "served.key"
    certificate.write_text(served.pem)
    key.write_text(served.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

    threading.Thread(target=accept, daemon=True).start()


def test_connections_share_a_context_that_trusts_the_authority_alone(connect: Connect) -> None:
    context = connect()
    assert connect() is context
    assert context.cert_store_stats()["x509_ca"] == 1


def test_another_name_is_refused(connect: Connect) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect("localhost")


def test_a_replaced_authority_is_read(connect: Connect, authority: Path) -> None:
    connect()
    other = authority.with_suffix(".new")
    other.write_text(made("another", ca=True).pem)
    other.replace(authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect()


@pytest.mark.parametrize(
    "options",
    [
        {"ssl_check_hostname": False},
        {"ssl_ciphers": "ECDHE+AESGCM"},
        {"ssl_include_verify_flags": [ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN]},
    ],
)
def test_a_connection_with_options_of_its_own_has_a_context_of_its_own(
    connect: Connect, options: dict[str, object]
) -> None:
    context = connect(**options)
    assert context is not connect()
    assert context.check_hostname == options.get("ssl_check_hostname", True)


def test_a_connection_to_another_server_keeps_its_authority(connect: Connect, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_text(made("another", ca=True).pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(ssl_ca_certs=str(other))
