"""What is wrong with certificates, and when they are renewed."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.plugin_utils._certificates import (
    Pem,
    Where,
    ca_problems,
    canonical_name,
    certificate_problems,
    describe,
    read_chain,
    renewal_due,
    strict_problems,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._host_certificate import fleet_problems
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore
from certificates import NOW, Made, handshake, make
from cryptography.hazmat.primitives.asymmetric import rsa

DAY = timedelta(days=1)
WHERE = Where("file", "key_file", "ca_file")
ROOT = make("Root", ca=True, end=NOW + 3650 * DAY)
MIDDLE = make("Middle", ROOT, ca=True, end=NOW + 3650 * DAY)
NAMES = ("broker.example.com", "10.0.0.11", "fd00::11")


def problems(made: Made, names: Any = NAMES, *, key: str | None = "", ca: str = ROOT.pem, chain: str = "") -> list[str]:
    """Return the problems of a certificate, by default with its own key."""
    pem = Pem(made.pem + chain, made.key if key == "" else key, ca)
    return [str(problem) for problem in certificate_problems(WHERE, pem, names, NOW)]


def test_a_certificate_that_fits_has_no_problem() -> None:
    assert problems(make("broker", ROOT, NAMES)) == []
    assert problems(make("broker", MIDDLE, NAMES), chain=MIDDLE.pem) == []
    assert problems(make("broker", MIDDLE, NAMES), ca=MIDDLE.pem + ROOT.pem) == []
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert problems(make("broker", ROOT, NAMES, private=key)) == []


def test_one_spelling_of_a_name_is_as_good_as_another() -> None:
    assert problems(make("broker", ROOT, NAMES), ["BROKER.example.com", "fd00:0::0011"]) == []


def test_a_wildcard_covers_one_label() -> None:
    made = make("broker", ROOT, ["*.example.com"])
    assert problems(made, ["broker.example.com"]) == []
    assert "lacks a.b.example.com" in problems(made, ["a.b.example.com"])[0]
    assert "lacks example.com" in problems(made, ["example.com"])[0]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda: problems(make("broker", ROOT, NAMES), key=ROOT.key),
            "key_file: does not fit the certificate of file. Set it to the key that the certificate was made for",
        ),
        (
            lambda: problems(made := make("broker", ROOT, NAMES), key=made.encrypted("passphrase")),
            "key_file: is encrypted. Set it to the key of the certificate, in PEM and without a passphrase",
        ),
        (
            lambda: problems(make("broker", ROOT, NAMES), key="-----BEGIN PRIVATE KEY-----\nAAAA"),
            "key_file: has no private key in PEM.",
        ),
        (
            lambda: problems(make("broker", MIDDLE, NAMES)),
            "file: the chain of CN=Middle does not lead to a root certificate of ca_file. Append the intermediate",
        ),
        (
            # OpenSSL does not trust it alone.
            lambda: problems(make("broker", MIDDLE, NAMES), ca=MIDDLE.pem),
            "file: the chain of CN=Middle does not lead to a root certificate",
        ),
        (
            # The same name, but another key.
            lambda: problems(make("broker", make("Root", ca=True), NAMES)),
            "file: the chain of CN=Root does not lead to a root certificate",
        ),
        (
            lambda: problems(make("broker", make("host", ROOT), NAMES), chain=make("host", ROOT).pem),
            "does not lead to a root certificate",
        ),
        (
            lambda: problems(make("broker", ROOT, ["broker.example.com"])),
            "file: it lacks 10.0.0.11, fd00::11, which clients use. It has broker.example.com. Order a certificate",
        ),
        (lambda: problems(make("broker.example.com", ROOT), ["broker.example.com"]), "It has none."),
        (
            lambda: problems(make("broker", ROOT, NAMES, begin=NOW + DAY)),
            "file: it is not valid before 2030-06-02 12:00 UTC",
        ),
        (
            lambda: problems(make("broker", ROOT, NAMES, end=NOW)),
            "file: it expired at 2030-06-01 12:00 UTC. Set it to a renewed certificate",
        ),
        (
            lambda: problems(make("broker", ROOT, NAMES, end=NOW + 13 * DAY)),
            "file: it expires at 2030-06-14 12:00 UTC, in less than 14 days. Set it to a renewed certificate",
        ),
        (lambda: problems(make("broker", ROOT, NAMES), ["10.0.0.300"]), "'10.0.0.300' is neither a DNS name nor"),
        (lambda: problems(make("broker", ROOT, NAMES), ca="nothing"), "ca_file: has no certificate in PEM"),
        (lambda: problems(make("broker", ROOT, NAMES), ca=make("x").pem), "CN=x is not a certificate authority"),
    ],
)
def test_a_certificate_that_does_not_fit_is_a_problem(call: Callable[[], list[str]], expected: str) -> None:
    (problem,) = call()
    assert expected in problem


def test_all_problems_are_reported_at_once() -> None:
    made = make("broker", make("Other", ca=True), end=NOW)
    assert len(problems(made, key=ROOT.key)) == 4


def test_a_file_without_a_certificate_is_a_problem() -> None:
    pem = Pem("nothing", None, ROOT.pem)
    assert [problem.what for problem in certificate_problems(WHERE, pem, NAMES, NOW)] == ["has no certificate in PEM"]


def test_an_expired_authority_is_a_problem_unless_another_is_trusted() -> None:
    expired = make("Old", ca=True, end=NOW - DAY)
    assert "it expired at 2030-05-31" in str(ca_problems("ca_file", expired.pem, NOW)[0])
    assert ca_problems("ca_file", expired.pem + ROOT.pem, NOW) == []


@pytest.mark.parametrize("name", ["", "a b", "-a.example.com", "a..b", "1.2.3", "user@host", "*.*.com", "a" * 64])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is neither a DNS name nor an IP address"):
        canonical_name(name)


def test_a_certificate_is_renewed_in_its_last_third() -> None:
    (leaf,) = read_chain(make("broker", begin=NOW - 60 * DAY, end=NOW + 30 * DAY).pem)
    assert renewal_due(leaf, NOW)
    assert not renewal_due(leaf, NOW - DAY)


def test_a_diff_shows_names_and_dates() -> None:
    line = "10.0.0.11, broker.example.com, fd00::11: issued by CN=Root, expires at 2030-08-20 12:00 UTC\n"
    assert describe(make("broker", ROOT, NAMES).pem) == line
    assert describe("") == ""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The paths of a certificate's files."""
    made = make("broker", ROOT, NAMES)
    paths = {}
    for name, text in {"certificate": made.pem, "key": made.key, "ca": ROOT.pem}.items():
        path = tmp_path / name
        path.write_text(text)
        paths[name] = str(path)
    return paths


def of_fleet(hosts: dict[str, dict[str, Any]]) -> list[str]:
    return [str(problem) for problem in fleet_problems(hosts, SecretStore(Path("/nonexistent")), 90, NOW)]


def test_hosts_may_share_a_certificate(files: dict[str, str]) -> None:
    hosts: dict[str, dict[str, Any]] = {
        "a": {**files, "names": ["10.0.0.11"]},
        "b": {**files, "names": ["fd00::11"]},
        "c": {**files},
    }
    assert of_fleet(hosts) == []
    hosts["b"]["names"] = ["10.0.0.12"]
    (problem,) = of_fleet(hosts)
    assert "certificate_file of a, b: it lacks 10.0.0.12" in problem


def test_a_fleet_with_its_own_authority_has_no_problem() -> None:
    assert of_fleet({"a": {"names": ["10.0.0.11"]}, "b": {"certificate": "", "names": []}}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"key": ""}, "certificate_file, certificate_key_file of a: only one of them is set"),
        ({"key": "/nonexistent"}, "certificate_key_file of a: /nonexistent can't be read"),
        ({"ca": ""}, "certificate_ca_file of a: must not be empty"),
        ({"command": ["sign"]}, "certificate_file, certificate_command of a: both are set"),
        ({"names": ["a b"]}, "certificate_names of a: 'a b' is neither"),
        ({"certificate": "", "key": ""}, "certificate_ca_file of a: has no effect"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(
    files: dict[str, str], changes: dict[str, Any], expected: str
) -> None:
    (problem,) = of_fleet({"a": {**files, "names": ["10.0.0.11"], **changes}})
    assert expected in problem


def test_hosts_that_trust_different_authorities_are_refused(files: dict[str, str]) -> None:
    problem = of_fleet({"a": {**files, "names": ["10.0.0.11"]}, "b": {"names": ["10.0.0.12"]}})[0]
    assert "certificate_ca_file: hosts trust different authorities" in problem


def test_a_command_needs_an_authority_that_exists(files: dict[str, str]) -> None:
    host = {"names": ["10.0.0.11"], "command": ["sign"]}
    assert of_fleet({"a": {**host, "ca": files["ca"]}}) == []
    assert "certificate_ca_file of a: has no certificate" in of_fleet({"a": {**host, "ca": files["key"]}})[0]


@pytest.mark.parametrize(
    ("root", "leaf", "lacking"),
    [
        (True, True, []),
        (False, True, ["CN=R lacks KeyUsage, SubjectKeyIdentifier"]),
        (True, False, ["CN=broker lacks AuthorityKeyIdentifier"]),
        (False, False, ["CN=broker lacks AuthorityKeyIdentifier", "CN=R lacks KeyUsage, SubjectKeyIdentifier"]),
    ],
)
def test_what_newer_pythons_refuse_is_a_problem(tmp_path: Path, root: bool, leaf: bool, lacking: list[str]) -> None:
    times: dict[str, Any] = {"begin": datetime.now(UTC) - DAY, "end": datetime.now(UTC) + DAY}
    authority = make("R", ca=True, strict=root, **times)
    made = make("broker", authority, ["broker"], strict=leaf, **times)
    found = strict_problems("file", Pem(made.pem, None, authority.pem))
    assert [problem.what.partition(", so")[0] for problem in found] == lacking
    handshake(made, authority.pem, "broker", tmp_path, strict=False)
    if lacking:
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(made, authority.pem, "broker", tmp_path, strict=True)
    else:
        handshake(made, authority.pem, "broker", tmp_path, strict=True)


def test_a_fleet_is_checked_strictly_on_demand(files: dict[str, str]) -> None:
    hosts: dict[str, dict[str, Any]] = {"a": {**files, "names": ["10.0.0.11"]}}
    told = [str(problem) for problem in fleet_problems(hosts, SecretStore(Path("/nonexistent")), 90, NOW, strict=True)]
    assert [text.partition(" lacks")[0] for text in told] == [
        "certificate_file of a: CN=broker",
        "certificate_file of a: CN=Root",
    ]
