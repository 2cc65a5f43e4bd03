"""Where a host's certificate comes from: the fleet's own authority, the user's files, or a command."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.plugin_utils._authority import (
    Authority,
    authority_problems,
    exists,
    open_authority,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._certificates import (
    CertificateError,
    Pem,
    Where,
    ca_problems,
    canonical_name,
    certificate_problems,
    common_name,
    issued_by,
    leads_to,
    missing_names,
    name_problems,
    names_of,
    public_bytes,
    read_chain,
    renewal_due,
    strict_problems,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore
from cryptography import x509

COMMAND_TIMEOUT = 600
_WHERE = Where("certificate_file", "certificate_key_file", "certificate_ca_file")


class Source(Protocol):
    """Where certificates come from.

    Attributes:
        ca_pem: the certificates that clients trust.
        key_pem: the key of the certificate; empty if the host makes it.
    """

    ca_pem: str
    key_pem: str

    def difference(self, chain: Sequence[x509.Certificate]) -> str:
        """Return why a certificate must be replaced; empty if it is fine."""

    def issue(self, csr_pem: str) -> str:
        """Return a new certificate, followed by intermediate ones.

        Args:
            csr_pem: the request of the host; empty if it made no key.

        Raises:
            CertificateError: there is none.
        """


class OwnAuthority:
    """The fleet's own authority, which is made unless it is only looked at."""

    key_pem = ""

    def __init__(self, store: SecretStore, names: Sequence[str], days: int, now: datetime, *, make: bool) -> None:
        self._names, self._days, self._now = names, days, now
        opened = make or exists(store.directory)
        self._authority: Authority | None = open_authority(store, now) if opened else None
        self.ca_pem = self._authority.trusted_pem if self._authority else ""

    def difference(self, chain: Sequence[x509.Certificate]) -> str:
        leaf = chain[0]
        if self._authority is None or not issued_by(leaf, self._authority.certificate):
            return "another certificate authority signed it"
        if names_of(leaf) != set(map(canonical_name, self._names)):
            return "its names differ"
        if leaf.not_valid_after_utc - leaf.not_valid_before_utc != self._authority.lifetime(self._days):
            return "its lifetime differs"
        return "it is in the last third of its lifetime" if renewal_due(leaf, self._now) else ""

    def issue(self, csr_pem: str) -> str:
        assert self._authority is not None  # noqa: S101 - nothing is issued in check mode
        return self._authority.sign(csr_pem, self._names, self._days, self._now)


class OwnFiles:
    """The user's own files."""

    def __init__(self, options: Mapping[str, Any], now: datetime) -> None:
        self.ca_pem = _read(options, "ca_file")
        self.key_pem = _read(options, "key_file")
        self._certificate = _read(options, "certificate_file")
        pem = Pem(self._certificate, self.key_pem, self.ca_pem)
        _refuse(certificate_problems(_WHERE, pem, options["names"], now))

    def difference(self, chain: Sequence[x509.Certificate]) -> str:
        return "certificate_file differs" if list(chain) != read_chain(self._certificate) else ""

    def issue(self, csr_pem: str) -> str:  # noqa: ARG002 - as other sources
        return self._certificate


class Command:
    """The user's own command, for a public or a corporate authority."""

    key_pem = ""

    def __init__(self, options: Mapping[str, Any], now: datetime) -> None:
        self.ca_pem = _read(options, "ca_file")
        _refuse(ca_problems("certificate_ca_file", self.ca_pem, now))
        self._argv, self._names, self._now = options["command"], options["names"], now
        self._opened = time.monotonic()

    def difference(self, chain: Sequence[x509.Certificate]) -> str:
        if missing := missing_names(chain[0], self._names):
            return f"it lacks {', '.join(missing)}"
        if not leads_to(chain, read_chain(self.ca_pem)):
            return "it does not lead to a certificate of certificate_ca_file"
        return "it is in the last third of its lifetime" if renewal_due(chain[0], self._now) else ""

    def issue(self, csr_pem: str) -> str:
        self._check_request(csr_pem)
        try:
            run = subprocess.run(
                self._argv, input=csr_pem, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CertificateError(f"certificate_command: {error}") from None
        if run.returncode != 0:
            output = run.stderr.strip() or "it printed no error"
            raise CertificateError(f"certificate_command failed with exit code {run.returncode}: {output}")
        where = Where("output of certificate_command", ca="certificate_ca_file")
        pem = Pem(run.stdout, None, self.ca_pem)
        # Its certificate may be valid only from the moment on at which it was signed.
        now = self._now + timedelta(seconds=time.monotonic() - self._opened)
        _refuse(certificate_problems(where, pem, self._names, now, least_days=0))
        if public_bytes(read_chain(run.stdout)[0]) != public_bytes(x509.load_pem_x509_csr(csr_pem.encode())):
            fix = "Have it sign the certificate signing request on its stdin, and print the new certificate first"
            _refuse([Problem(where.certificate, "its first certificate is not for the key of the host", fix)])
        return run.stdout

    def _check_request(self, csr_pem: str) -> None:
        """Fail if a host requests other names than its own, as one that an attacker controls would."""
        try:
            request = x509.load_pem_x509_csr(csr_pem.encode())
        except ValueError:
            raise CertificateError("The host's certificate signing request can't be read") from None
        subject = [attribute.value for attribute in request.subject]
        if subject != [common_name(self._names)] or names_of(request) != set(map(canonical_name, self._names)):
            raise CertificateError("The host's certificate signing request has other names than certificate_names")


class TrustOnly:
    """The user's own authorities, for a host without a certificate."""

    key_pem = ""

    def __init__(self, options: Mapping[str, Any], now: datetime) -> None:
        self.ca_pem = _read(options, "ca_file")
        _refuse(ca_problems("certificate_ca_file", self.ca_pem, now))

    def difference(self, chain: Sequence[x509.Certificate]) -> str:  # noqa: ARG002 - as other sources
        return ""

    def issue(self, csr_pem: str) -> str:  # noqa: ARG002 - as other sources
        raise CertificateError("A host without names gets no certificate")


def open_source(options: Mapping[str, Any], secrets: SecretStore, now: datetime, *, make: bool) -> Source:
    """Return where the certificate of a host comes from.

    Args:
        options: the module's.
        secrets: whose `ca` has the fleet's own authority.
        make: whether the fleet's authority is made if it does not exist.

    Raises:
        CertificateError: the options do not fit together, or a file can't be used.
        SecretError: the key of the fleet's own authority can't be encrypted or decrypted.
    """
    _refuse([*option_problems(options), *name_problems("certificate_names", options["names"])])
    if options["ca_file"] and not options["names"]:
        return TrustOnly(options, now)
    if options["certificate_file"]:
        return OwnFiles(options, now)
    if options["command"]:
        return Command(options, now)
    return OwnAuthority(secrets.below("ca"), options["names"], options["days"], now, make=make)


def fleet_problems(
    hosts: Mapping[str, Mapping[str, Any]], secrets: SecretStore, days: int, now: datetime, *, strict: bool = False
) -> list[Problem]:
    """Return all that is wrong with the certificates of a fleet, as far as its controller has them.

    Args:
        hosts: by name, the paths `certificate`, `key` and `ca`, the argument list `command`, and the `names` that
            clients use. What is missing or empty is not set. A host without names is only a client.
        secrets: whose `ca` has the fleet's own authority.
        days: lifetime of the certificates that it is to sign.
        strict: whether clients verify by VERIFY_X509_STRICT.
    """
    problems = []
    groups: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for host, given in hosts.items():
        certificate, key, ca = (str(given.get(name) or "") for name in ("certificate", "key", "ca"))
        if not given.get("names"):
            certificate = key = ""
        groups.setdefault((certificate, key, ca, tuple(given.get("command") or ())), []).append(host)
    for (certificate, key, ca, command), members in groups.items():
        names = [name for host in members for name in hosts[host].get("names") or []]
        options: dict[str, Any] = {"certificate_file": certificate, "key_file": key, "ca_file": ca}
        options |= {"command": command, "names": names, "days": days}
        own = option_problems(options) or _group_problems(options, now, strict=strict)
        problems += [Problem(f"{each.where} of {', '.join(members)}", each.what, each.fix) for each in own]
    if len(authorities := {ca for _, _, ca, _ in groups}) > 1:
        trusted = ", ".join(sorted(ca or "the fleet's own" for ca in authorities))
        what = f"hosts trust different authorities ({trusted})"
        fix = "Set it to the same file for all hosts of the fleet, clients too. The file may have several certificates"
        problems.append(Problem("certificate_ca_file", what, fix))
    if "" in authorities:
        problems += authority_problems(secrets.below("ca"), days, now)
    return problems


def _group_problems(options: Mapping[str, Any], now: datetime, *, strict: bool) -> list[Problem]:
    """Return what is wrong with the files of hosts that share them."""
    problems, names = name_problems("certificate_names", options["names"]), options["names"]
    texts: dict[str, str] = {}
    for name in ("certificate_file", "key_file", "ca_file"):
        try:
            texts[name] = _read(options, name) if options[name] else ""
        except CertificateError as error:
            where, _, what = str(error).partition(": ")
            problems.append(Problem(where, what, "Set it to a file on this controller that its user can read"))
    if problems or not options["ca_file"]:
        return problems
    if not options["certificate_file"]:
        return ca_problems(_WHERE.ca, texts["ca_file"], now)
    pem = Pem(texts["certificate_file"], texts["key_file"], texts["ca_file"])
    problems = certificate_problems(_WHERE, pem, names, now)
    return [*problems, *strict_problems(_WHERE.certificate, pem)] if strict else problems


def option_problems(options: Mapping[str, Any]) -> list[Problem]:
    """Return the options that do not fit together."""
    problems = []
    own, key, ca, command = (options[name] for name in ("certificate_file", "key_file", "ca_file", "command"))
    if bool(own) != bool(key):
        what = "only one of them is set"
        problems.append(Problem("certificate_file, certificate_key_file", what, "Set both or none"))
    if own and command:
        what = "both are set, but a certificate has one source"
        problems.append(Problem("certificate_file, certificate_command", what, "Remove one of them"))
    if (own or command) and not ca:
        fix = "Set it to the root certificate that clients are to trust, e.g. /etc/ssl/certs/ca-certificates.crt"
        problems.append(Problem("certificate_ca_file", "must not be empty with a certificate of your own", fix))
    if ca and options["names"] and not (own or command):
        what = "has no effect without certificate_file or certificate_command"
        problems.append(Problem("certificate_ca_file", what, "Remove it, or set one of them"))
    if options["days"] < 1:
        problems.append(Problem("certificate_days", f"{options['days']} is too small", "Set it to at least 1"))
    return problems


def replacement_reason(source: Source, state: Mapping[str, Any]) -> str:
    """Return why the certificate of a host must be replaced; empty if it need not.

    Args:
        state: what the module read on the host.
    """
    try:
        chain = read_chain(state["certificate"])
    except ValueError:
        return "the host has no certificate"
    if reason := source.difference(chain):
        return reason
    return "" if state["fits"] else "the key does not fit"


def _read(options: Mapping[str, Any], name: str) -> str:
    path = Path(options[name])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CertificateError(
            f"certificate_{name.replace('certificate_', '')}: {path} can't be read: {error}"
        ) from None


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise CertificateError("\n".join(map(str, problems)))
