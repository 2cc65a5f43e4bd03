"""The fleet's own certificate authority, in a directory on the controller.

The keys are secrets of a store. The state of the authority is which files there are:

    ca.key, ca.crt         signs certificates
    trusted.crt            what clients trust: ca.crt, and during a rollover another one
    next.key, next.crt     during a rollover: becomes ca.key and ca.crt when all clients trust it
    distrust               during a rollover: hosts are to replace a trusted.crt that has the previous certificate
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.plugin_utils._certificates import (
    CertificateError,
    canonical_name,
    common_name,
    public_bytes,
    read_chain,
    read_key,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretError, SecretStore
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

LIFETIME = timedelta(days=3652)
#: Certificates are valid from a little earlier on, for hosts whose clocks are behind.
CLOCK_SKEW = timedelta(hours=1)
_EXPIRY_FIX = "Replace it by playbooks/renew_ca.yml, or lower certificate_days"
_NONE_KEY_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


class Authority:
    """The certificate authority in a directory.

    Attributes:
        certificate: its certificate.
        trusted_pem: the certificates that clients trust.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, trusted_pem: str) -> None:
        self.certificate = certificate
        self.trusted_pem = trusted_pem
        self._key = key

    def sign(self, csr_pem: str, names: Iterable[str], days: int, now: datetime) -> str:
        """Return a certificate for the key of a request, in PEM. The names of the request are ignored.

        Raises:
            CertificateError: the request can't be read, or the certificate would outlive the authority.
        """
        try:
            request = x509.load_pem_x509_csr(csr_pem.encode())
        except ValueError:
            raise CertificateError("The host's certificate signing request can't be read") from None
        if not request.is_signature_valid:
            raise CertificateError("The signature of the host's certificate signing request is not valid")
        end = now + timedelta(days=days)
        if end > self.certificate.not_valid_after_utc:
            raise CertificateError(f"{_expiry(self.certificate, days)}. {_EXPIRY_FIX}")
        names = list(map(canonical_name, names))
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name(names))])
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = _builder(subject, self.certificate.subject, request.public_key(), now - CLOCK_SKEW, end)  # type: ignore[arg-type]
        builder = (
            builder.add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**_NONE_KEY_USAGE | {"digital_signature": True}), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def lifetime(self, days: int) -> timedelta:
        """Return the lifetime of the certificates that it signs."""
        return timedelta(days=days) + CLOCK_SKEW


def exists(directory: Path) -> bool:
    """Return whether there is an authority."""
    return (directory / "ca.crt").exists()


def open_authority(store: SecretStore, now: datetime) -> Authority:
    """Return the authority in the directory of a store, which is made at first.

    Several processes may call this at the same time: one makes the authority, the others wait.

    Raises:
        CertificateError: the directory lacks a file that can't be made anew.
        SecretError: the key can't be encrypted or decrypted.
        OSError: a file can't be read or written.
    """
    directory = store.directory
    with store.locked():
        if not exists(directory):
            _make(store, "ca", now)
        _complete(directory)
        if problems := authority_problems(store, None, now):
            raise CertificateError("\n".join(map(str, problems)))
        own, trusted = (directory / "ca.crt").read_text(encoding="ascii"), directory / "trusted.crt"
        if not trusted.exists() or own.strip() not in trusted.read_text(encoding="ascii"):
            _write(trusted, own)
        return Authority(read_chain(own)[0], _key(store, "ca.key"), trusted.read_text(encoding="ascii"))


def authority_problems(store: SecretStore, days: int | None, now: datetime) -> list[Problem]:
    """Return what is wrong with an authority. One that does not exist yet is made when it is needed.

    Args:
        days: lifetime of the certificates that it is to sign; None if it is to sign none.
    """
    directory = store.directory
    if not exists(directory):
        return []
    path, key = directory / "ca.crt", directory / "ca.key"
    try:
        certificate = read_chain(path.read_text(encoding="ascii"))[0]
    except (OSError, ValueError):
        return [Problem(str(path), "has no certificate in PEM", f"Restore {directory} from your backup")]
    problems = []
    if days is not None and certificate.not_valid_after_utc < now + timedelta(days=days):
        problems.append(Problem(str(path), _expiry(certificate, days), _EXPIRY_FIX))
    if not key.exists():
        fix = (
            f"Restore it from your backup. If it is lost, remove {directory}: the next run makes a new authority, and "
            "clients refuse services until the run has reached both"
        )
        return [*problems, Problem(str(key), f"is missing, but {path.name} exists", fix)]
    try:
        fits = public_bytes(_key(store, key.name)) == public_bytes(certificate)
    except SecretError as error:
        problems.append(error.problem)
    except CertificateError as error:
        problems.append(Problem(str(key), str(error), "Restore it from your backup"))
    else:
        if not fits and not _promotion_begun(directory):
            problems.append(Problem(str(key), f"does not fit {path.name}", f"Restore {directory} from your backup"))
    return problems


def rollover_phase(directory: Path) -> str:
    """Return the phase of a rollover.

    Returns:
        "" without a rollover; "trust" while clients are to trust the next authority as well; "issue" while it signs the
        certificates, and clients still trust the previous one; "distrust" while they end to.
    """
    if _promotion_begun(directory):
        return "issue"
    if (directory / "next.crt").exists():
        return "trust"
    trusted = directory / "trusted.crt"
    if trusted.exists() and len(read_chain(trusted.read_text(encoding="ascii"))) > 1:
        return "issue"
    return "distrust" if (directory / "distrust").exists() else ""


def begin_rollover(store: SecretStore, now: datetime) -> None:
    """Make the next authority, and trust it as well. Each of these functions may be repeated after an interruption."""
    open_authority(store, now)
    directory = store.directory
    with store.locked():
        if rollover_phase(directory) in {"issue", "distrust"}:
            return
        if not (directory / "next.crt").exists():
            _make(store, "next", now)
        texts = [(directory / name).read_text(encoding="ascii") for name in ("ca.crt", "next.crt")]
        _write(directory / "trusted.crt", "".join(texts))


def promote(store: SecretStore) -> None:
    """Let the next authority sign. All clients must trust it by now. The key of the previous one is removed."""
    with store.locked():
        if rollover_phase(store.directory) == "trust":
            store.move("next.key", "ca.key")
        _complete(store.directory)


def distrust_previous(store: SecretStore) -> None:
    """Trust only the authority that signs. All services must serve certificates by it."""
    directory = store.directory
    with store.locked():
        if rollover_phase(directory) == "issue":
            _complete(directory)
            _write(directory / "distrust", "")
            _write(directory / "trusted.crt", (directory / "ca.crt").read_text(encoding="ascii"))


def finish_rollover(store: SecretStore) -> None:
    """End a rollover. All hosts must have the new trusted.crt."""
    with store.locked():
        if rollover_phase(store.directory) == "distrust":
            (store.directory / "distrust").unlink()


def _promotion_begun(directory: Path) -> bool:
    """Return whether promote was interrupted: the key was replaced, the certificate was not."""
    return (directory / "next.crt").exists() and not (directory / "next.key").exists()


def _complete(directory: Path) -> None:
    if _promotion_begun(directory):
        (directory / "next.crt").replace(directory / "ca.crt")


def _make(store: SecretStore, name: str, now: datetime) -> None:
    """Make a key and its certificate. The key of an interrupted run is used."""
    if not store.exists(f"{name}.key"):
        made = ec.generate_private_key(ec.SECP256R1())
        store.write(f"{name}.key", made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    key = _key(store, f"{name}.key")
    # The dates tell the authorities of a fleet apart.
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Celery Fleet CA {now:%Y-%m-%d %H:%M:%S}")])
    builder = _builder(subject, subject, key.public_key(), now - CLOCK_SKEW, now + LIFETIME)
    usage = _NONE_KEY_USAGE | {"key_cert_sign": True, "crl_sign": True}
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(
        x509.KeyUsage(**usage), critical=True
    )
    certificate = builder.sign(key, hashes.SHA256())
    _write(store.directory / f"{name}.crt", certificate.public_bytes(Encoding.PEM).decode())


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(serial_number=x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key(store: SecretStore, name: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = read_key(store.read(name))
    except ValueError as error:
        raise CertificateError(str(error)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("is no key on an elliptic curve")
    return key


def _expiry(certificate: x509.Certificate, days: int) -> str:
    end = certificate.not_valid_after_utc
    return f"the certificate authority expires at {end:%Y-%m-%d %H:%M} UTC, before a certificate of {days} days would"


def _write(path: Path, text: str) -> None:
    """Write a file that all users may read, atomically."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        os.fchmod(handle, 0o644)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
