"""What tests do to the lab's hosts from outside."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

BOOT_SECONDS = 60
PODMAN = ["podman"] if os.geteuid() == 0 else ["sudo", "podman"]


def container(name: str) -> str:
    """Name the container of one of the scenario's hosts."""
    return f"fleet-{os.environ['MOLECULE_SCENARIO_NAME']}-{name}"


def reboot(host: Any, name: str) -> None:
    """Shut a host down in order, boot it, and return once all its services are up or have failed.

    Raises:
        TimeoutError: if it is not up after BOOT_SECONDS.
    """
    subprocess.run([*PODMAN, "stop", "--time", "600", container(name)], check=True, capture_output=True)
    start(host, name)


def cut_off(name: str) -> None:
    """End a host at once, as one that loses its power."""
    subprocess.run([*PODMAN, "kill", container(name)], check=True, capture_output=True)


def start(host: Any, name: str) -> None:
    """Boot a host and return once all its services are up or have failed.

    Raises:
        TimeoutError: if it is not up after BOOT_SECONDS.
    """
    subprocess.run([*PODMAN, "start", container(name)], check=True, capture_output=True)
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        try:
            state = host.run("systemctl is-system-running --wait").stdout.strip()
        except RuntimeError:  # SSH is not up yet
            time.sleep(0.2)
            continue
        if state in ("running", "degraded"):
            return
        time.sleep(0.2)
    raise TimeoutError(f"{name} did not boot within {BOOT_SECONDS} s")
