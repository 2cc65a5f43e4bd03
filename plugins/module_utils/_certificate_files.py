"""The certificate and the key of a host, as files of which services read both."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path


def fits(certificate: Path, key: Path) -> bool:
    """Return whether both files exist, and a service can use them together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key with a passphrase would ask for it on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError:  # ssl.SSLError is one
        return False
    return True


def pending(path: Path) -> Path:
    """Return the path at which a file waits until it can replace another one."""
    return path.with_name(f"{path.name}.new")


def alternative_names(names: Iterable[str]) -> str:
    """Return the extension of a certificate signing request for DNS names and addresses, as openssl reads it."""
    return "subjectAltName=" + ",".join(f"{'IP' if _is_address(name) else 'DNS'}:{name}" for name in names)


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()
