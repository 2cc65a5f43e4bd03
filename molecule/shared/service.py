"""A service of systemd on one of a scenario's hosts."""

from __future__ import annotations

from typing import Any

from shared.deployed import wait_until


def main_pid(host: Any, unit: str) -> str:
    """Return its process id; 0 if it does not run."""
    return str(host.check_output("systemctl show --property MainPID --value %s", unit)).strip()


def kill(host: Any, unit: str) -> None:
    """Kill it, and return once systemd has started it again."""
    before = main_pid(host, unit)
    host.check_output("kill -KILL %s", before)
    wait_until(lambda: main_pid(host, unit) not in (before, "0"), "it stays dead")


def assert_confined(host: Any, unit: str, memory: int) -> None:
    """Fail if it could get at more than it has.

    Args:
        memory: bytes that it may take.
    """
    lines = host.check_output("cat /proc/%s/status", main_pid(host, unit)).splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert int(status["CapBnd"], 16) == 0
    assert host.check_output("systemctl show --property MemoryMax --value %s", unit) == str(memory)
