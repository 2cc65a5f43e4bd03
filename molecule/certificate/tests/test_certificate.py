"""Hosts have certificates that clients accept, which are replaced in time and always fit their keys."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.plugin_utils._authority import open_authority
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from shared.confidential import assert_nobody_reads
from shared.playbook import changed, changes, converge, converge_host, failures

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
SECRETS = SCENARIO.parents[1] / ".lab" / f"fleet-{SCENARIO.name}" / "secrets"
CA = SECRETS / "ca"
DIRECTORY = "/etc/celery-fleet/tls"
ADDRESSES = {"debian12": "10.90.33.11", "debian13": "10.90.33.12"}
DAY = timedelta(days=1)
# Signs the request on stdin with the CA in the directory of its argument, for the names that it asks for.
SIGN = """
import subprocess, sys
from pathlib import Path
ca = Path(sys.argv[1])
print(subprocess.run(
    ["openssl", "x509", "-req", "-CA", ca / "root.crt", "-CAkey", ca / "root.key", "-days", "30",
     "-copy_extensions", "copy"],
    stdin=sys.stdin, stdout=subprocess.PIPE, check=True, text=True).stdout)
"""


@pytest.fixture
def restored(host: Any) -> Iterator[None]:
    """Leave the host as converge.yml makes it."""
    yield
    converge_host(host)


@pytest.fixture
def first_host(host: Any) -> None:
    """Run a test on one host only, because the controller refuses what it is about."""
    if host.backend.host != "debian12":
        pytest.skip("The controller decides, so one host is enough")


def read(host: Any, name: str) -> str:
    content: str = host.file(f"{DIRECTORY}/{name}").content_string
    return content


def serial(host: Any) -> int:
    return x509.load_pem_x509_certificate(read(host, "host.crt").encode()).serial_number


def fits(host: Any) -> bool:
    """Return whether the key on the host is that of the certificate."""
    return bool(
        host.check_output(f"openssl pkey -in {DIRECTORY}/host.key -pubout")
        == host.check_output(f"openssl x509 -in {DIRECTORY}/host.crt -noout -pubkey")
    )


def assert_verified(host: Any, *names: str) -> None:
    """Fail unless a client with ca.crt accepts the host's certificate by each of the names."""
    serve = f"openssl s_server -accept 8443 -cert {DIRECTORY}/host.crt -key {DIRECTORY}/host.key -quiet"
    host.check_output(f"systemd-run --quiet --unit s-server {serve}")
    try:
        host.check_output("for _ in $(seq 100); do ss -Htln | grep -q :8443 && exit; sleep .1; done; exit 1")
        for name in names:
            check = "-verify_ip" if re.fullmatch(r"[0-9.]+", name) else "-verify_hostname"
            connect = f"openssl s_client -connect 127.0.0.1:8443 -x509_strict -CAfile {DIRECTORY}/ca.crt"
            host.check_output(f"{connect} {check} {name} -verify_return_error </dev/null")
        assert host.run(f"{connect} -verify_ip 10.90.33.99 -verify_return_error </dev/null").rc != 0
    finally:
        host.check_output("systemctl stop s-server")


def test_clients_accept_the_certificate(host: Any) -> None:
    name = host.backend.host
    assert_verified(host, name, ADDRESSES[name])
    assert fits(host)


def test_only_the_group_reads_the_key(host: Any) -> None:
    expected = {"ca.crt": ("root", 0o644), "host.crt": ("root", 0o644), "host.key": ("celery-fleet-tls", 0o640)}
    for name, (group, mode) in expected.items():
        file = host.file(f"{DIRECTORY}/{name}")
        assert (file.user, file.group, file.mode) == ("root", group, mode), name
    directory = host.file(DIRECTORY)
    assert (directory.user, directory.group, directory.mode) == ("root", "root", 0o755)
    assert sorted(host.check_output(f"ls -A {DIRECTORY}").split()) == sorted(expected)
    assert "prime256v1" in host.check_output(f"openssl pkey -in {DIRECTORY}/host.key -noout -text")


def test_no_key_is_where_it_does_not_belong(host: Any) -> None:
    assert (CA.stat().st_mode & 0o777, (CA / "ca.key").stat().st_mode & 0o777) == (0o700, 0o600)
    # The second line of a key, as the first is the same in all keys.
    secrets = [text.splitlines()[2] for text in ((CA / "ca.key").read_text(), read(host, "host.key"))]
    assert_nobody_reads(host, secrets, "ps -ewwo args")
    # sudo logs this command to the journal.
    host.check_output(f"umask 077; printf %s {shlex.quote(secrets[0])} >/root/ca-secret")
    assert not host.run("grep -rlFf /root/ca-secret /etc /var /root --exclude=ca-secret --exclude-dir=journal").stdout
    host.check_output("rm /root/ca-secret")
    for path in CA.parent.rglob("*"):
        assert path.is_dir() or secrets[1] not in path.read_text(), path


@pytest.mark.usefixtures("restored")
def test_a_new_certificate_has_a_new_key_and_no_secret_in_the_output(host: Any) -> None:
    before, key = serial(host), read(host, "host.key")
    run = converge_host(host, "--diff", "-vvv", certificate_days=60)
    assert changed(run) == 1
    assert serial(host) != before
    assert read(host, "host.key") != key
    assert fits(host)
    for text in (read(host, "host.key"), (CA / "ca.key").read_text()):
        assert text.splitlines()[2] not in run.stdout + run.stderr
    assert "PRIVATE KEY" not in run.stdout + run.stderr
    assert "its lifetime differs" in run.stdout
    assert changed(converge_host(host, certificate_days=60)) == 0


@pytest.mark.usefixtures("restored")
def test_other_names_need_a_new_certificate(host: Any) -> None:
    names = ["broker.example.com", "*.fleet.example.com", "10.90.33.50", "fd00::50"]
    assert changed(converge_host(host, names=names)) == 1
    assert_verified(host, "broker.example.com", "a.fleet.example.com", "10.90.33.50")
    assert changed(converge_host(host, names=names)) == 0


def sign(host: Any, begin: datetime) -> None:
    """Give the host a certificate for its key and names that began at another time."""
    name = host.backend.host
    csr = host.check_output(f"openssl req -new -key {DIRECTORY}/host.key -subj /CN=x")
    made = open_authority(SecretStore(CA), datetime.now(UTC)).sign(csr, [name, ADDRESSES[name]], 90, begin)
    host.check_output("echo %s > %s", made, f"{DIRECTORY}/host.crt")


def test_a_certificate_in_its_last_third_is_renewed(host: Any) -> None:
    sign(host, datetime.now(UTC) - 59 * DAY)
    assert changed(converge_host(host)) == 0
    sign(host, datetime.now(UTC) - 61 * DAY)
    before = serial(host)
    run = converge_host(host, "--check", "--diff")
    assert changed(run) == 1
    assert "it is in the last third of its lifetime" in run.stdout
    assert serial(host) == before
    assert changed(converge_host(host)) == 1
    assert serial(host) != before
    assert_verified(host, ADDRESSES[host.backend.host])


@pytest.mark.parametrize(
    "command",
    [
        # As after an interruption between the two files.
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out host.key",
        "rm host.key",
        "rm host.crt",
        "truncate -s 100 host.crt",
        "truncate -s 100 host.key",
        "openssl pkey -in host.key -aes256 -passout pass:secret -out other && mv other host.key",
    ],
)
def test_a_pair_that_does_not_fit_is_repaired(host: Any, command: str) -> None:
    host.check_output(f"cd {DIRECTORY} && {command}")
    assert changed(converge_host(host)) == 1
    assert fits(host)
    assert host.file(f"{DIRECTORY}/host.key").mode == 0o640


def test_modes_and_trust_are_repaired_without_a_new_certificate(host: Any) -> None:
    before = serial(host)
    for command in ("chmod 0644 host.key", "chown nobody host.crt", "echo >> ca.crt", "rm ca.crt"):
        host.check_output(f"cd {DIRECTORY} && {command}")
        assert changed(converge_host(host)) == 1, command
        assert host.file(f"{DIRECTORY}/host.key").mode == 0o640
        assert host.file(f"{DIRECTORY}/host.crt").user == "root"
        assert read(host, "ca.crt") == (CA / "trusted.crt").read_text()
    assert serial(host) == before


@pytest.mark.usefixtures("restored")
def test_a_host_that_is_only_a_client_gets_no_certificate(host: Any) -> None:
    host.check_output(f"rm -r {DIRECTORY}")
    assert changed(converge_host(host, names=[])) == 1
    assert host.check_output(f"ls -A {DIRECTORY}") == "ca.crt"
    assert changed(converge_host(host, names=[])) == 0


def test_the_authority_is_made_once_for_all_hosts(host: Any, tmp_path: Path) -> None:
    run = converge(celery_secrets_dir=str(tmp_path / "new"))
    assert changes(run) == {1}
    assert (tmp_path / "new" / "ca" / "trusted.crt").read_text() == read(host, "ca.crt")
    assert_verified(host, ADDRESSES[host.backend.host])
    assert changes(converge()) == {1}


class Root:
    """A root certificate of the user's own, with files for a host."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Own Root")])
        usage = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._builder(self.name, self.key, timedelta(365)).add_extension(usage, critical=True)
        self.path = self._write("root.crt", certificate)
        self._write_key("root.key", self.key)

    def files(self, host: str, names: list[str], days: int = 365) -> dict[str, str]:
        """Make a certificate, and return the variables for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        extension = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = self._builder(subject, key, timedelta(days)).add_extension(extension, critical=False)
        return {
            "certificate_file": self._write(f"{host}.crt", builder),
            "certificate_key_file": self._write_key(f"{host}.key", key),
            "certificate_ca_file": self.path,
        }

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(serial_number=x509.random_serial_number())
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .not_valid_before(now - DAY)
            .not_valid_after(now + lifetime)
        )

    def _write(self, name: str, builder: x509.CertificateBuilder) -> str:
        path = self.directory / name
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return str(path)

    def _write_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> str:
        path = self.directory / name
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(path)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


@pytest.mark.usefixtures("restored")
def test_own_files_replace_the_certificate(host: Any, root: Root) -> None:
    name = host.backend.host
    given = root.files(name, ["own.example.com"])
    run = converge_host(host, "--diff", "-vvv", names=["own.example.com"], **given)
    assert changed(run) == 1
    key = Path(given["certificate_key_file"]).read_text()
    assert key.splitlines()[2] not in run.stdout + run.stderr
    assert (read(host, "host.crt"), read(host, "host.key")) == (Path(given["certificate_file"]).read_text(), key)
    assert read(host, "ca.crt") == Path(root.path).read_text()
    assert host.file(f"{DIRECTORY}/host.key").mode == 0o640
    assert changed(converge_host(host, names=["own.example.com"], **given)) == 0
    renewed = root.files(name, ["own.example.com"])
    assert changed(converge_host(host, names=["own.example.com"], **renewed)) == 1


@pytest.mark.usefixtures("first_host")
def test_own_files_that_do_not_fit_are_refused(host: Any, root: Root) -> None:
    name, before = host.backend.host, serial(host)
    given = root.files(name, ["own.example.com"], days=5)
    given["certificate_key_file"] = str(root.directory / "root.key")
    told = failures(converge_host(host, names=["other.example.com"], **given))[name]
    assert "certificate_key_file: does not fit the certificate of certificate_file" in told
    assert "it lacks other.example.com" in told
    assert "in less than 14 days" in told
    assert serial(host) == before
    assert fits(host)
    del given["certificate_key_file"]
    assert "only one of them is set" in failures(converge_host(host, **given))[name]


@pytest.mark.usefixtures("restored")
def test_a_command_signs(host: Any, root: Root) -> None:
    given = {
        "certificate_ca_file": root.path,
        "certificate_command": [sys.executable, "-c", SIGN, str(root.directory)],
    }
    assert changed(converge_host(host, **given)) == 1
    assert "Own Root" in host.check_output(f"openssl x509 -in {DIRECTORY}/host.crt -noout -issuer")
    assert fits(host)
    assert host.run(f"openssl verify -CAfile {DIRECTORY}/ca.crt {DIRECTORY}/host.crt").rc == 0
    assert changed(converge_host(host, **given)) == 0


@pytest.mark.usefixtures("first_host")
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["false"], "certificate_command failed with exit code 1"),
        (["/nonexistent"], "certificate_command: [Errno 2] No such file or directory"),
        (["true"], "output of certificate_command: has no certificate in PEM"),
        (["cat", "{root}"], "output of certificate_command: it lacks"),
        (["sh", "-c", "echo not today >&2; exit 3"], "exit code 3: not today"),
    ],
)
def test_a_command_that_does_not_sign_changes_nothing(host: Any, root: Root, command: list[str], expected: str) -> None:
    before = serial(host)
    command = [argument.replace("{root}", root.path) for argument in command]
    run = converge_host(host, certificate_ca_file=root.path, certificate_command=command)
    assert expected in failures(run)[host.backend.host]
    assert serial(host) == before
    assert fits(host)


@pytest.mark.usefixtures("first_host")
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"names": ["10.90.33.300"]}, "certificate_names: '10.90.33.300' is neither a DNS name nor an IP address"),
        ({"names": ["a,DNS:b"]}, "certificate_names: 'a,DNS:b' is neither"),
        ({"certificate_command": ["sign"]}, "certificate_ca_file: must not be empty"),
        ({"certificate_days": 0}, "certificate_days: 0 is too small"),
        ({"certificate_days": 5000}, "before a certificate of 5000 days would. Replace it by playbooks/renew_ca.yml"),
    ],
)
def test_refused_options_change_nothing(host: Any, variables: dict[str, Any], expected: str) -> None:
    before = serial(host)
    assert expected in failures(converge_host(host, **variables))[host.backend.host]
    assert serial(host) == before


@pytest.mark.usefixtures("first_host")
def test_a_lost_key_of_the_authority_stops_the_run(host: Any) -> None:
    key = CA / "ca.key"
    key.rename(key.with_suffix(".away"))
    try:
        assert "ca.key: is missing, but ca.crt exists" in failures(converge_host(host))[host.backend.host]
    finally:
        key.with_suffix(".away").rename(key)
