"""Where certificates come from, and why one is replaced."""

from __future__ import annotations

import ipaddress
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.plugin_utils._certificates import CertificateError
from ansible_collections.fleet.celery.plugins.plugin_utils._host_certificate import (
    Source,
    open_source,
    replacement_reason,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore
from certificates import NOW, make
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

DAY = timedelta(days=1)
NAMES = ["broker.example.com", "10.0.0.11"]
ROOT = make("Root", ca=True, end=NOW + 3650 * DAY)


def request(private: Any = None, common: str = NAMES[0], names: list[str] | None = None) -> str:
    alternatives = [
        x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
        for name in names or NAMES
    ]
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)]))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(private or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return csr.public_bytes(Encoding.PEM).decode()


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    nothing = dict.fromkeys(("certificate_file", "key_file", "ca_file"), "")
    return {"names": NAMES, "days": 90, "secrets_dir": str(tmp_path / "secrets"), "command": [], **nothing}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    made = make("broker", ROOT, NAMES)
    contents = {"certificate_file": made.pem, "key_file": made.key, "ca_file": ROOT.pem}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in contents}


def opened(options: dict[str, Any], now: datetime, *, make: bool) -> Source:
    return open_source(options, SecretStore(Path(options["secrets_dir"])), now, make=make)


def reason(source: Source, certificate: str, *, fits: bool = True) -> str:
    return replacement_reason(source, {"certificate": certificate, "fits": fits})


def test_a_certificate_of_the_own_authority_is_kept_until_its_last_third(options: dict[str, Any]) -> None:
    source = opened(options, NOW, make=True)
    pem = source.issue(request())
    assert reason(source, pem) == ""
    assert reason(source, pem, fits=False) == "the key does not fit"
    assert reason(source, "") == "the host has no certificate"
    assert reason(opened(options, NOW + 59 * DAY, make=True), pem) == ""
    assert reason(opened(options, NOW + 60 * DAY, make=True), pem) == "it is in the last third of its lifetime"
    for changes, expected in (
        ({"names": [*NAMES, "other"]}, "its names differ"),
        ({"names": NAMES[:1]}, "its names differ"),
        ({"days": 30}, "its lifetime differs"),
        ({"secrets_dir": f"{options['secrets_dir']}-other"}, "another certificate authority signed it"),
    ):
        assert reason(opened(options | changes, NOW, make=True), pem) == expected
    assert reason(opened(options | {"names": NAMES[::-1]}, NOW, make=True), pem) == ""


def test_no_authority_is_made_in_check_mode(options: dict[str, Any]) -> None:
    source = opened(options, NOW, make=False)
    assert source.ca_pem == ""
    assert reason(source, make("broker", ROOT, NAMES).pem) == "another certificate authority signed it"
    assert not Path(options["secrets_dir"]).exists()


def test_own_files_are_copied_when_they_differ(options: dict[str, Any], files: dict[str, str]) -> None:
    source = opened(options | files, NOW, make=True)
    pem = source.issue("")
    assert (pem, source.key_pem) == (Path(files["certificate_file"]).read_text(), Path(files["key_file"]).read_text())
    assert reason(source, pem) == ""
    assert reason(source, make("broker", ROOT, NAMES).pem) == "certificate_file differs"
    assert not Path(options["secrets_dir"]).exists()


def test_a_client_needs_only_the_authorities(options: dict[str, Any], files: dict[str, str]) -> None:
    Path(files["key_file"]).unlink()
    assert opened(options | files | {"names": []}, NOW, make=True).ca_pem == ROOT.pem
    assert "BEGIN" in opened(options | {"names": []}, NOW, make=True).ca_pem


def printing(text: str, status: int = 0) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.stdin.read(); print({text!r}); sys.exit({status})"]


def with_command(options: dict[str, Any], files: dict[str, str], command: list[str]) -> Source:
    return opened(options | {"ca_file": files["ca_file"], "command": command}, NOW, make=True)


def test_a_command_prints_the_certificate(options: dict[str, Any], files: dict[str, str]) -> None:
    made = make("broker", ROOT, NAMES, begin=NOW, end=NOW + 9 * DAY)
    source = with_command(options, files, printing(made.pem))
    # Its authority may give certificates a short lifetime, or more names.
    assert source.issue(request(made.private)).strip() == made.pem.strip()
    assert reason(source, made.pem) == ""
    assert reason(source, make("broker", ROOT, [*NAMES, "more"]).pem) == ""
    assert reason(source, make("broker", ROOT, NAMES[:1]).pem) == "it lacks 10.0.0.11"
    assert "does not lead to" in reason(source, make("broker", make("Other", ca=True), NAMES).pem)
    due = make("broker", ROOT, NAMES, begin=NOW - 6 * DAY, end=NOW + 3 * DAY)
    assert reason(source, due.pem) == "it is in the last third of its lifetime"


def test_a_certificate_may_begin_when_it_is_signed(options: dict[str, Any], files: dict[str, str]) -> None:
    made = make("broker", ROOT, NAMES, begin=NOW + timedelta(seconds=1))
    command = [sys.executable, "-c", f"import time; time.sleep(1.1); print({made.pem!r})"]
    assert with_command(options, files, command).issue(request(made.private))


def test_a_certificate_for_another_key_is_refused(options: dict[str, Any], files: dict[str, str]) -> None:
    source = with_command(options, files, printing(make("broker", ROOT, NAMES).pem))
    with pytest.raises(CertificateError, match="its first certificate is not for the key of the host"):
        source.issue(request())


@pytest.mark.parametrize(
    "csr", ["nothing", request(names=["broker.example.com", "10.0.0.12"]), request(common="admin.example.com")]
)
def test_a_host_that_requests_other_names_is_refused(options: dict[str, Any], files: dict[str, str], csr: str) -> None:
    source = with_command(options, files, ["/nonexistent"])
    with pytest.raises(CertificateError, match="certificate signing request"):
        source.issue(csr)
