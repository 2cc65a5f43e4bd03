"""The playbooks renew certificates, and replace the authority, while no client refuses a service."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from shared.confidential import assert_nobody_reads
from shared.deployed import connect, wait_until
from shared.playbook import PLAYBOOKS, failures, run_playbook, started_playbook

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
SECRETS = SCENARIO.parents[1] / ".lab" / f"fleet-{SCENARIO.name}" / "secrets"
CA = SECRETS / "ca"
ADDRESSES = {"debian12": "10.90.33.11", "debian13": "10.90.33.12"}
DIRECTORY = "/etc/celery-fleet/tls"
FILES = {
    name: f"{DIRECTORY}/{file}" for name, file in (("ca", "ca.crt"), ("certificate", "host.crt"), ("key", "host.key"))
}
PORTS = (9443, 9444)
# Of the administrator of Redis.
PASSWORD = "Swordfish-1"


def plan() -> dict[str, Any]:
    """Return a plan as far as the playbooks need it."""
    hosts = {
        name: {
            "duties": [duty],
            "certificate_names": [name, ADDRESSES[name]],
            "tls_pages": [{"address": ADDRESSES[name], "port": 9443}],
        }
        for name, duty in (("debian12", "redis"), ("debian13", "rabbitmq"))
    }
    members = {name: {"listen_addresses": [ADDRESSES[name]]} for name in hosts}
    broker = {"members": members, "tls_port": 9444, "kind": "redis", "flavor": "redis", "sentinel": None}
    files = FILES | {"group": "celery-fleet-tls"}
    sources = {name: {"names": host["certificate_names"]} for name, host in hosts.items()}
    rest = {"tls": files, "secrets_dir": str(SECRETS), "producers": [], "signing": {}, "app": {"name": "shop"}}
    return {"hosts": hosts, "broker": broker, "certificate_hosts": sources, "strict_certificates": True, **rest}


def play(name: str, *options: str, **variables: Any) -> Any:
    """Run a playbook of a fleet without deriving a plan."""
    variables = {"celery_plan": plan(), "redis_administrator_password": PASSWORD} | variables
    return run_playbook(PLAYBOOKS / name, "--skip-tags", "always", *options, **variables)


def changes(run: Any) -> dict[str, int]:
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr
    return {host: int(number) for host, number in re.findall(r"^(\w+) +: ok=\d+ +changed=(\d+)", run.stdout, re.M)}


def fingerprints(name: str, *, served: bool = True) -> set[str]:
    """Return the fingerprints of what the services of a host serve, or of its file."""
    host, address = connect(name), ADDRESSES[name]
    shown = "openssl x509 -noout -fingerprint -sha256"
    if not served:
        return {host.check_output(f"{shown} -in {FILES['certificate']}")}
    command = f"openssl s_client -connect {address}:%s </dev/null 2>/dev/null | {shown}"
    return {host.check_output(command % port) for port in PORTS}


@pytest.fixture(scope="module")
def services() -> Iterator[None]:
    """Services and clients on both hosts."""
    assert run_playbook(SCENARIO / "services.yml", password=PASSWORD).returncode == 0
    for name in ADDRESSES:
        wait_until(partial(serves_its_file, name), "a service does not start")
        host = connect(name)
        host.check_output("systemctl restart tls-client; rm -f /run/tls-client*")
    yield
    for name in ADDRESSES:
        connect(name).check_output("systemctl stop tls-client nginx redis-server rabbitmq-server || true")


def serves_its_file(name: str) -> bool:
    return fingerprints(name) == fingerprints(name, served=False)


def connections(host: Any) -> int:
    """Return how often the client of a host has connected."""
    return int(host.run("cat /run/tls-client").stdout or 0)


def connects(host: Any, number: int) -> bool:
    return connections(host) >= number


def assert_no_refusal() -> None:
    """Fail if a client refused a service since the last call."""
    for name in ADDRESSES:
        host = connect(name)
        wait_until(partial(connects, host, connections(host) + 8), f"the client of {name} does not connect")
        assert host.run("cat /run/tls-client.failures").stdout == ""


@pytest.mark.usefixtures("services")
def test_a_converged_fleet_is_left_alone() -> None:
    assert set(changes(play("renew.yml")).values()) == {0}


@pytest.mark.usefixtures("services")
def test_services_serve_a_renewed_certificate() -> None:
    before = {name: fingerprints(name) for name in ADDRESSES}
    check = play("renew.yml", "--check", certificate_days=60)
    assert set(changes(check).values()) == {1}
    assert before == {name: fingerprints(name) for name in ADDRESSES}
    run = play("renew.yml", "--diff", "-vvv", certificate_days=60)
    # The certificate, nginx and the broker.
    assert set(changes(run).values()) == {3}
    assert PASSWORD not in run.stdout + run.stderr
    assert_nobody_reads(connect("debian12"), [PASSWORD], "ps -ewwo args")
    for name, old in before.items():
        assert fingerprints(name) == fingerprints(name, served=False) != old
    assert set(changes(play("renew.yml", certificate_days=60)).values()) == {0}
    assert_no_refusal()


@pytest.mark.usefixtures("services")
def test_a_service_that_missed_a_renewal_is_reloaded() -> None:
    assert set(changes(play("renew.yml", "--limit", "debian12")).values()) == {3}
    old = fingerprints("debian13")
    run = run_playbook(SCENARIO / "converge.yml", "--limit", "debian13")
    assert run.returncode == 0
    assert fingerprints("debian13", served=False) != old
    assert changes(play("renew.yml")) == {"debian12": 0, "debian13": 2}
    assert fingerprints("debian13") == fingerprints("debian13", served=False)
    assert_no_refusal()


def authorities() -> dict[str, str]:
    return {name: connect(name).file(FILES["ca"]).content_string for name in ADDRESSES}


@pytest.mark.usefixtures("services")
def test_the_authority_is_replaced_only_on_all_hosts() -> None:
    before = {path.name: path.read_text() for path in CA.iterdir()}
    told = failures(play("renew_ca.yml", "--limit", "debian12"))
    assert "debian13: not in this run" in told["debian12"]
    assert "no certificate authority of its own" in failures(play("renew_ca.yml", certificate_ca_file="/x"))["debian12"]
    assert {path.name: path.read_text() for path in CA.iterdir()} == before
    assert play("renew_ca.yml", "--check").returncode == 0
    assert {path.name: path.read_text() for path in CA.iterdir()} == before


@pytest.mark.usefixtures("services")
def test_the_authority_is_replaced_while_no_client_refuses_a_service() -> None:
    before, old = authorities(), (CA / "ca.crt").read_text()
    served = {name: fingerprints(name) for name in ADDRESSES}
    run = play("renew_ca.yml")
    assert run.returncode == 0, run.stdout[-3000:]
    new = (CA / "ca.crt").read_text()
    assert new != old
    assert set(authorities().values()) == {new}
    assert set(before.values()) == {old}
    for name in ADDRESSES:
        assert fingerprints(name) == fingerprints(name, served=False) != served[name]
    assert sorted(path.name for path in CA.iterdir()) == [".lock", "ca.crt", "ca.key", "trusted.crt"]
    assert_no_refusal()
    assert set(changes(play("renew.yml")).values()) == {0}


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize(
    "task",
    [
        "Make the next certificate authority",
        "Activate the next certificate authority",
        "Ensure that RabbitMQ serves the current certificate",
        "Ensure that all hosts trust only the new authority",
    ],
)
def test_a_replacement_that_was_killed_is_continued(task: str) -> None:
    old = (CA / "ca.crt").read_text()
    variables = {"celery_plan": plan(), "redis_administrator_password": PASSWORD}
    with started_playbook(PLAYBOOKS / "renew_ca.yml", "--skip-tags", "always", **variables) as run:
        run.wait_for(re.escape(f"TASK [{task}]"))
        run.kill()
    assert_no_refusal()
    # What an ordinary run does in between must not refuse clients either.
    assert play("renew.yml").returncode == 0
    assert_no_refusal()
    assert play("renew_ca.yml").returncode == 0
    assert (CA / "ca.crt").read_text() != old
    assert set(authorities().values()) == {(CA / "ca.crt").read_text()}
    assert not (CA / "next.crt").exists()
    assert_no_refusal()
