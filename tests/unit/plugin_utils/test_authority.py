"""The fleet's own certificate authority, and its rollover."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret, is_encrypted
from ansible_collections.fleet.celery.plugins.plugin_utils._authority import (
    LIFETIME,
    authority_problems,
    begin_rollover,
    distrust_previous,
    finish_rollover,
    open_authority,
    promote,
    rollover_phase,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._certificates import (
    CertificateError,
    issued_by,
    names_of,
    read_chain,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore
from certificates import NOW, Made, handshake, make
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

NAMES = ["broker.example.com", "10.0.0.11", "fd00::11"]


def request(private: ec.EllipticCurvePrivateKey | None = None) -> str:
    """Return a certificate signing request with a name that is not the host's."""
    key = private or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another.example.com")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return csr.public_bytes(Encoding.PEM).decode()


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "ca"


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def store(request: pytest.FixtureRequest, ca: Path) -> SecretStore:
    vault = VaultLib([("default", VaultSecret(b"password"))])
    return SecretStore(ca, vault, encrypted=request.param)


def test_it_is_made_once(ca: Path, store: SecretStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: open_authority(store, NOW).trusted_pem, range(8)))
    assert len(set(made)) == 1
    assert (ca.stat().st_mode & 0o777, (ca / "ca.key").stat().st_mode & 0o777) == (0o700, 0o600)
    assert authority_problems(store, 90, NOW) == []
    assert is_encrypted((ca / "ca.key").read_text()) == store.encrypted


def test_the_key_of_another_vault_password_is_reported(ca: Path) -> None:
    open_authority(SecretStore(ca, VaultLib([("default", VaultSecret(b"right"))]), encrypted=True), NOW)
    other = SecretStore(ca, VaultLib([("default", VaultSecret(b"wrong"))]))
    (problem,) = authority_problems(other, 90, NOW)
    assert str(problem).startswith(f"{ca}/ca.key: is encrypted with another vault password")


def test_it_signs_for_the_names_of_the_host_only(store: SecretStore) -> None:
    authority = open_authority(store, NOW)
    (leaf,) = read_chain(authority.sign(request(), NAMES, 90, NOW))
    assert names_of(leaf) == set(NAMES)
    assert leaf.not_valid_after_utc == NOW + timedelta(days=90)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == authority.lifetime(90)
    assert issued_by(leaf, authority.certificate)
    assert not issued_by(authority.certificate, leaf)


def test_clients_accept_its_certificates_by_strict_rules(store: SecretStore, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = open_authority(store, datetime.now(UTC))
    (leaf,) = read_chain(authority.sign(request(key), NAMES, 90, datetime.now(UTC)))
    for name in NAMES:
        handshake(Made(leaf, key), authority.trusted_pem, name, tmp_path, strict=True)


def test_no_certificate_outlives_it(store: SecretStore) -> None:
    authority = open_authority(store, NOW)
    late = NOW + LIFETIME - timedelta(days=89)
    with pytest.raises(CertificateError, match=r"90 days would\. Replace it by playbooks/renew_ca"):
        authority.sign(request(), NAMES, 90, late)
    assert "before a certificate of 90 days would" in str(authority_problems(store, 90, late)[0])
    assert authority_problems(store, 80, late) == []


def test_a_request_that_is_none_is_refused(store: SecretStore) -> None:
    with pytest.raises(CertificateError, match="request can't be read"):
        open_authority(store, NOW).sign("nothing", NAMES, 90, NOW)


def test_a_lost_key_is_reported_and_not_made_anew(ca: Path, store: SecretStore) -> None:
    open_authority(store, NOW)
    (ca / "ca.key").unlink()
    (problem,) = authority_problems(store, 90, NOW)
    assert str(problem).startswith(f"{ca}/ca.key: is missing, but ca.crt exists. Restore it from your backup")
    with pytest.raises(CertificateError, match="is missing"):
        open_authority(store, NOW)
    assert not (ca / "ca.key").exists()


@pytest.mark.parametrize("content", ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n", make("other").key])
def test_a_key_that_does_not_fit_is_reported(ca: Path, store: SecretStore, content: str) -> None:
    open_authority(store, NOW)
    (ca / "ca.key").write_text(content)
    (problem,) = authority_problems(store, 90, NOW)
    assert problem.where == f"{ca}/ca.key"


def test_a_lost_certificate_is_made_anew_with_the_trust_in_it(ca: Path, store: SecretStore) -> None:
    open_authority(store, NOW)
    (ca / "ca.crt").unlink()
    authority = open_authority(store, NOW + timedelta(days=1))
    assert read_chain(authority.trusted_pem) == [authority.certificate]


def test_a_rollover_trusts_before_it_signs_and_distrusts_last(ca: Path, store: SecretStore) -> None:
    old = open_authority(store, NOW).certificate
    later = NOW + timedelta(days=3000)
    assert rollover_phase(ca) == ""

    begin_rollover(store, later)
    assert rollover_phase(ca) == "trust"
    trusting = open_authority(store, later)
    assert trusting.certificate == old
    assert len(read_chain(trusting.trusted_pem)) == 2

    promote(store)
    assert rollover_phase(ca) == "issue"
    signing = open_authority(store, later)
    assert read_chain(signing.trusted_pem) == [old, signing.certificate]
    (leaf,) = read_chain(signing.sign(request(), NAMES, 90, later))
    assert not issued_by(leaf, old)

    distrust_previous(store)
    assert rollover_phase(ca) == "distrust"
    finish_rollover(store)
    assert rollover_phase(ca) == ""
    assert read_chain(open_authority(store, later).trusted_pem) == [signing.certificate]
    assert sorted(path.name for path in ca.iterdir()) == [".lock", "ca.crt", "ca.key", "trusted.crt"]


def test_each_step_of_a_rollover_may_be_repeated(ca: Path, store: SecretStore) -> None:
    open_authority(store, NOW)
    begin_rollover(store, NOW)
    next_one = (ca / "next.crt").read_text()
    begin_rollover(store, NOW + timedelta(days=1))
    assert (ca / "next.crt").read_text() == next_one
    promote(store)
    promote(store)
    begin_rollover(store, NOW + timedelta(days=1))
    assert rollover_phase(ca) == "issue"
    assert (ca / "ca.crt").read_text() == next_one
    for _ in range(2):
        distrust_previous(store)
        begin_rollover(store, NOW + timedelta(days=1))
        assert rollover_phase(ca) == "distrust"
    finish_rollover(store)
    finish_rollover(store)
    assert rollover_phase(ca) == ""
    assert (ca / "trusted.crt").read_text() == next_one


def test_a_step_out_of_turn_does_nothing(ca: Path, store: SecretStore) -> None:
    open_authority(store, NOW)
    before = {path.name: path.read_text() for path in ca.iterdir()}
    for step in (promote, distrust_previous, finish_rollover):
        step(store)
    assert {path.name: path.read_text() for path in ca.iterdir()} == before
    begin_rollover(store, NOW)
    for step in (distrust_previous, finish_rollover):
        step(store)
    assert rollover_phase(ca) == "trust"


def test_a_promotion_that_was_interrupted_is_completed(ca: Path, store: SecretStore) -> None:
    open_authority(store, NOW)
    begin_rollover(store, NOW)
    next_one = (ca / "next.crt").read_text()
    (ca / "next.key").replace(ca / "ca.key")
    assert rollover_phase(ca) == "issue"
    assert authority_problems(store, 90, NOW) == []
    open_authority(store, NOW)
    assert (ca / "ca.crt").read_text() == next_one
    assert rollover_phase(ca) == "issue"


def test_a_creation_that_was_interrupted_is_completed(ca: Path, store: SecretStore) -> None:
    open_authority(store, NOW)
    key = (ca / "ca.key").read_text()
    for name in ("ca.crt", "trusted.crt"):
        (ca / name).unlink()
    open_authority(store, NOW)
    assert (ca / "ca.key").read_text() == key


def test_openssl_shows_what_is_allowed(ca: Path, store: SecretStore) -> None:
    open_authority(store, NOW)
    shown = subprocess.check_output(["openssl", "x509", "-in", ca / "ca.crt", "-noout", "-text"], text=True)
    assert "CA:TRUE, pathlen:0" in shown
    assert "Certificate Sign, CRL Sign" in shown
    assert "ASN1 OID: prime256v1" in shown
