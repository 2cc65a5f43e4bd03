"""Certificates for tests."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass
class Made:
    """A certificate with its key."""

    certificate: x509.Certificate
    private: PrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key(self) -> str:
        return self.encrypted("")

    def encrypted(self, password: str) -> str:
        """Return the key in PEM, encrypted unless the password is empty."""
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


def make(
    name: str,
    issuer: Made | None = None,
    names: Iterable[str] = (),
    *,
    ca: bool = False,
    begin: datetime = NOW - timedelta(days=10),
    end: datetime = NOW + timedelta(days=80),
    private: Any = None,
    strict: bool = False,
) -> Made:
    """Return a new certificate, which is self-signed without an issuer.

    Args:
        strict: whether it has the extensions that VERIFY_X509_STRICT demands.
    """
    key: PrivateKey = private or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder(serial_number=x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if strict:
        signer = issuer.certificate.public_key() if issuer else key.public_key()
        for extension in (
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer),  # type: ignore[arg-type]
            x509.KeyUsage(True, False, False, False, False, ca, ca, False, False),
        ):
            builder = builder.add_extension(extension, critical=False)
    if names := list(names):
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(each) for each in names]), critical=False)
    return Made(builder.sign(issuer.private if issuer else key, hashes.SHA256()), key)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def handshake(served: Made, trusted: str, name: str, directory: Path, *, strict: bool) -> None:
    """Have a client verify a service.

    Raises:
        ssl.SSLError: the client refuses it.
    """
    certificate, key = directory / "served.crt", directory / "served.key"
    certificate.write_text(served.pem)
    key.write_text(served.key)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate, key)
    context = ssl.create_default_context(cadata=trusted)
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(2):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    assert client.getpeercert()
