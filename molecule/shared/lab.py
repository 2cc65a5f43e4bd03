"""Operations on the lab's hosts from outside."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from shared.deployed import wait_until

PODMAN = ["podman"] if os.geteuid() == 0 else ["sudo", "podman"]


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
