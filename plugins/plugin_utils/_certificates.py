"""What is wrong with certificates, and when they must be renewed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

#: A user's own certificate must be valid for at least this long.
LEAST_DAYS = 14
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_LONGEST_NAME = 253
_LONGEST_COMMON_NAME = 64


class CertificateError(Exception):
    """A certificate can't be made or used. The text is for the user."""


@dataclass(frozen=True)
class Where:
    """Where the files of a certificate were set."""

    certificate: str
    key: str = ""
    ca: str = ""


@dataclass(frozen=True)
class Pem:
    """The contents of the files of a certificate.

    Attributes:
        certificate: the certificate first, then intermediate ones.
        key: its key; None if it is not known.
        ca: the certificates that clients trust.
    """

    certificate: str
    key: str | None = field(repr=False)
    ca: str


def read_chain(pem: str) -> list[x509.Certificate]:
    """Return the certificates of a file in PEM, in its order.

    Raises:
        ValueError: it has none, or one that can't be read.
    """
    return x509.load_pem_x509_certificates(pem.encode())


def read_key(pem: str) -> PrivateKeyTypes:
    """Return a private key.

    Raises:
        ValueError: it is encrypted, or is no key. The text says which, and has no part of the key.
    """
    try:
        return load_pem_private_key(pem.encode(), None)
    except TypeError:
        raise ValueError("is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("has no private key in PEM") from None


def public_bytes(owner: x509.Certificate | x509.CertificateSigningRequest | PrivateKeyTypes) -> bytes:
    """Return the public key of a certificate, a request or a private key, to compare it."""
    return owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def canonical_name(name: str) -> str:
    """Return a DNS name or an address in one spelling.

    Raises:
        ValueError: it is neither.
    """
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    # What only has digits and dots is a mistyped address.
    if len(name) > _LONGEST_NAME or not _DNS_NAME.fullmatch(name) or re.fullmatch(r"[0-9.]+", name):
        raise ValueError(f"{name!r} is neither a DNS name nor an IP address")
    return name.lower()


def common_name(names: Sequence[str]) -> str:
    """Return the common name of a certificate, which clients ignore."""
    return names[0][:_LONGEST_COMMON_NAME]


def name_problems(where: str, names: Iterable[str]) -> list[Problem]:
    """Return the names that no certificate can have."""
    problems = []
    for name in names:
        try:
            canonical_name(name)
        except ValueError as error:
            problems.append(Problem(where, str(error), "Set it to one, e.g. broker1.example.com or 10.0.0.11"))
    return problems


def names_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> set[str]:
    """Return the DNS names and addresses of a certificate or a request."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return {*addresses, *(name.lower() for name in names.get_values_for_type(x509.DNSName))}


def missing_names(certificate: x509.Certificate, names: Iterable[str]) -> list[str]:
    """Return the names that a certificate does not cover. A wildcard covers one label."""
    own = names_of(certificate)
    return [name for name in map(canonical_name, names) if name not in own and f"*.{name.partition('.')[2]}" not in own]


def is_authority(certificate: x509.Certificate) -> bool:
    """Return whether a certificate may sign others."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether a certificate authority has signed a certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return is_authority(issuer)


def leads_to(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> bool:
    """Return whether a chain leads to one of the root certificates among the authorities."""
    return bool(_path(chain, authorities))


def _path(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the certificates from the first one of a chain to a root among the authorities; empty if there is none.

    OpenSSL does not trust an intermediate certificate alone, so its root must be there, too.
    """
    path, candidates = [chain[0]], [*authorities, *chain[1:]]
    for _ in candidates:
        issuer = next((each for each in candidates if issued_by(path[-1], each)), None)
        if issuer is None:
            return []
        path.append(issuer)
        if issuer in authorities and issued_by(issuer, issuer):
            return path
    return []


def strict_problems(where: str, pem: Pem) -> list[Problem]:
    """Return what clients refuse that verify by VERIFY_X509_STRICT, the default of ssl since Python 3.13."""
    try:
        path = _path(read_chain(pem.certificate), read_chain(pem.ca))
    except ValueError:
        return []
    problems = []
    for each in path:
        needed: list[type[x509.ExtensionType]] = []
        if each is not path[-1]:
            needed.append(x509.AuthorityKeyIdentifier)
        if each is not path[0]:
            needed += [x509.KeyUsage, x509.SubjectKeyIdentifier]
        lacking = [extension.__name__ for extension in needed if not _has(each, extension)]
        if each is not path[0] and not each.extensions.get_extension_for_class(x509.BasicConstraints).critical:
            lacking.append("critical BasicConstraints")
        if lacking:
            what = f"{each.subject.rfc4514_string()} lacks {', '.join(lacking)}, so Python 3.13 (Debian 13) refuses it"
            problems.append(Problem(where, what, "Have the authority issue it with these extensions"))
    return problems


def _has(certificate: x509.Certificate, extension: type[x509.ExtensionType]) -> bool:
    return any(isinstance(each.value, extension) for each in certificate.extensions)


def ca_problems(where: str, ca_pem: str, now: datetime) -> list[Problem]:
    """Return what is wrong with the certificates that clients are to trust."""
    try:
        authorities = read_chain(ca_pem)
    except ValueError:
        return [Problem(where, "has no certificate in PEM", "Set it to the certificate of the authority")]
    problems = []
    # Bundles of a system have some root certificates that do not say so.
    if not any(map(is_authority, authorities)):
        what = f"{authorities[0].subject.rfc4514_string()} is not a certificate authority"
        problems.append(Problem(where, what, "Set it to the root certificate that the host's certificate leads to"))
    if all(each.not_valid_after_utc <= now for each in authorities):
        what = f"it expired at {_date(max(each.not_valid_after_utc for each in authorities))}"
        problems.append(Problem(where, what, "Set it to the current certificate of the authority"))
    return problems


def certificate_problems(
    where: Where, pem: Pem, names: Sequence[str], now: datetime, least_days: int = LEAST_DAYS
) -> list[Problem]:
    """Return all that is wrong with a certificate and its key.

    Args:
        names: DNS names and addresses that clients use.
        least_days: for how long it must be valid.
    """
    problems = [*name_problems(where.certificate, names), *(of_ca := ca_problems(where.ca, pem.ca, now))]
    valid_names = [name for name in names if not name_problems("", [name])]
    key = None
    if pem.key is not None:
        try:
            key = read_key(pem.key)
        except ValueError as error:
            fix = (
                "Set it to the key of the certificate, in PEM and without a passphrase, which services could not enter"
            )
            problems.append(Problem(where.key, str(error), fix))
    try:
        chain = read_chain(pem.certificate)
    except ValueError:
        fix = "Set it to the certificate in PEM, followed by the intermediate ones"
        return [*problems, Problem(where.certificate, "has no certificate in PEM", fix)]
    leaf = chain[0]
    if key is not None and public_bytes(key) != public_bytes(leaf):
        fix = "Set it to the key that the certificate was made for. The certificate must be the first of its file"
        problems.append(Problem(where.key, f"does not fit the certificate of {where.certificate}", fix))
    if not of_ca and not leads_to(chain, read_chain(pem.ca)):
        what = f"the chain of {leaf.issuer.rfc4514_string()} does not lead to a root certificate of {where.ca}"
        fix = "Append the intermediate certificates to it, or set the root certificate that it leads to"
        problems.append(Problem(where.certificate, what, fix))
    if missing := missing_names(leaf, valid_names):
        what = f"it lacks {', '.join(missing)}, which clients use. It has {', '.join(sorted(names_of(leaf))) or 'none'}"
        fix = "Order a certificate with them as DNS names and IP addresses (subjectAltName)"
        problems.append(Problem(where.certificate, what, fix))
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if begin > now:
        fix = "Use it from then on, or correct the clock of this machine"
        problems.append(Problem(where.certificate, f"it is not valid before {_date(begin)}", fix))
    if end <= now:
        problems.append(Problem(where.certificate, f"it expired at {_date(end)}", "Set it to a renewed certificate"))
    elif end < now + timedelta(days=least_days):
        what = f"it expires at {_date(end)}, in less than {least_days} days"
        problems.append(Problem(where.certificate, what, "Set it to a renewed certificate"))
    return problems


def renewal_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Return whether a certificate is in the last third of its lifetime."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= end - (end - begin) / 3


def describe(pem: str) -> str:
    """Return the names and dates of the first certificate of a file, as a line for a diff; empty if it has none."""
    try:
        leaf = read_chain(pem)[0]
    except ValueError:
        return ""
    names = ", ".join(sorted(names_of(leaf)))
    return f"{names}: issued by {leaf.issuer.rfc4514_string()}, expires at {_date(leaf.not_valid_after_utc)}\n"


def _date(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M} UTC"
