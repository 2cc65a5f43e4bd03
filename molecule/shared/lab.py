"""Operations on the lab's hosts from outside."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shared.deployed import wait_until

PODMAN = ["podman"] if os.geteuid() == 0 else ["sudo", "podman"]
# Prints the ports of an address that accept a connection.
SCAN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
for port in range(1, 65536):
    with socket.socket(family) as probe:
        probe.settimeout(20)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""
# Listens on all addresses, like a service that the fleet does not know.
SERVE = "systemd-run --quiet --unit serve-{0} python3 -m http.server {0} --bind :: --directory /srv"


def container(name: str) -> str:
    """Return the name of the container of a host."""
    return f"fleet-{os.environ['MOLECULE_SCENARIO_NAME']}-{name}"


def reboot(host: Any, name: str) -> None:
    """Shut a host down cleanly, boot it, and wait until all of its services are up or have failed."""
    subprocess.run([*PODMAN, "stop", "--time", "600", container(name)], check=True, capture_output=True)
    start(host, name)


def cut_off(name: str) -> None:
    """Kill a host, as by a power failure."""
    subprocess.run([*PODMAN, "kill", container(name)], check=True, capture_output=True)


def start(host: Any, name: str) -> None:
    """Boot a host, and wait until all of its services are up or have failed."""
    subprocess.run([*PODMAN, "start", container(name)], check=True, capture_output=True)
    wait_until(lambda: booted(host), f"{name} does not boot", interval=0.2)


def booted(host: Any) -> bool:
    """Return whether all services of a host are up or have failed."""
    try:
        return host.run("systemctl is-system-running --wait").stdout.strip() in ("running", "degraded")
    except RuntimeError:  # SSH is not up yet
        return False


# Each moves the data of stopped services.
SMALL_DISK = """
set -eu
systemctl stop {services}
mv {directory} {directory}.kept
mkdir {directory}
mount -t tmpfs -o size=300m tmpfs {directory}
cp -aT {directory}.kept {directory}
rm -r {directory}.kept
systemctl start {services}
"""
WHOLE_DISK = """
set -eu
systemctl stop {services}
cp -aT {directory} {directory}.kept
umount {directory}
rmdir {directory}
mv {directory}.kept {directory}
systemctl start {services}
"""


@contextmanager
def small_disk(name: str, directory: str, services: str) -> Iterator[None]:
    """Have a directory of a host on a file system of its own, of 300 MB, during the block.

    Args:
        services: those that use it, each of which restarts.
    """
    # A host may not mount what it likes.
    run = [*PODMAN, "exec", "--privileged", container(name), "sh", "-c"]
    subprocess.run([*run, SMALL_DISK.format(directory=directory, services=services)], check=True)
    try:
        yield
    finally:
        subprocess.run([*run, WHOLE_DISK.format(directory=directory, services=services)], check=True)


def open_to_foreigner(name: str, address: str) -> set[int]:
    """Return the ports of a host that are open for another one, which is not in the inventory.

    Args:
        address: of the host in the lab's network.
    """
    network = container(name).removesuffix(f"-{name}")
    inspect = [*PODMAN, "inspect", "--format", "{{.Image}}", container(name)]
    image = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
    # As in lab/create.yml.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = ["--ulimit", f"nofile={files}:{files}", "--ulimit", "nproc=32768:32768"]
    run = [*PODMAN, "run", "--rm", *limits, "--network", network, image, "python3", "-c", SCAN, address]
    return {int(port) for port in subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()}
