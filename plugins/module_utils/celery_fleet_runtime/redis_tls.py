"""Have redis-py's connections with TLS trust the fleet's authority alone, and read it once.

For each connection, redis-py makes an SSL context (SSLConnection._wrap_socket_with_ssl, as of 8.1), which also reads
and trusts all authorities of the system. That takes twenty times as long as the rest of a connection.
"""

from __future__ import annotations

import functools
import ssl
from pathlib import Path
from typing import Any

from redis.connection import SSLConnection

_MARK = "celery_fleet_tls"
# What redis-py takes besides an authority; a context with any of it is the application's own.
_MORE = (
    *("certfile", "keyfile", "ca_path", "ca_data", "ssl_ciphers", "ssl_min_version"),
    *("ssl_include_verify_flags", "ssl_exclude_verify_flags", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled"),
)

# Its methods have no types.
connections: Any = SSLConnection


@functools.lru_cache(maxsize=1)
def _context(authority: Path, _: tuple[int, int]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


def install(authority: str) -> None:
    """Do so for connections that verify with a file of authorities, which may be replaced meanwhile."""
    wrap = getattr(connections, "_wrap_socket_with_ssl", None)
    if wrap is None or hasattr(wrap, _MARK):
        return
    path = Path(authority)

    @functools.wraps(wrap)
    def wrap_cached(self: Any, sock: Any) -> Any:  # noqa: ANN401 - as above
        verifies = self.check_hostname and self.cert_reqs == ssl.CERT_REQUIRED
        if self.ca_certs != authority or not verifies or any(getattr(self, name, None) for name in _MORE):
            return wrap(self, sock)
        file = path.stat()
        return _context(path, (file.st_ino, file.st_mtime_ns)).wrap_socket(sock, server_hostname=self.host)

    setattr(wrap_cached, _MARK, True)
    connections._wrap_socket_with_ssl = wrap_cached
