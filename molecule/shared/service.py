"""A systemd service on a host of a scenario."""

from __future__ import annotations

from typing import Any

from shared.deployed import wait_until


def main_pid(host: Any, unit: str) -> str:
    """Return the process id of a service; 0 if it is not running."""
    return str(host.check_output("systemctl show --property MainPID --value %s", unit)).strip()


def kill(host: Any, unit: str) -> None:
    """Kill a service, and wait until systemd has restarted it."""
    before = main_pid(host, unit)
    host.check_output("kill -KILL %s", before)
    wait_until(lambda: main_pid(host, unit) not in (before, "0"), "it stays dead")


def assert_confined(host: Any, unit: str, memory: int) -> None:
    """Fail if a service could gain privileges, or has no limit of memory.

    Args:
        memory: its limit of memory in bytes.
    """
    lines = host.check_output("cat /proc/%s/status", main_pid(host, unit)).splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert int(status["CapBnd"], 16) == 0
    assert host.check_output("systemctl show --property MemoryMax --value %s", unit) == str(memory)


def assert_sandboxed(host: Any, *units: str) -> None:
    """Fail if systemd's exposure level of a service, from 0 to 10, is 5 or more."""
    for unit in units:
        result = host.run("systemd-analyze security --no-pager --threshold=50 %s", unit)
        assert result.rc == 0, result.stdout[-300:]


def new_backup(host: Any) -> str:
    """Have the broker's host make a backup and return its path. It is the only one that is kept, and root's."""
    before = host.check_output("ls /var/backups/celery-fleet")
    host.check_output("systemctl start celery-fleet-broker-backup.service")
    (name,) = host.check_output("ls /var/backups/celery-fleet").split()
    assert name not in before
    owners = host.check_output("stat -c '%U %a' /var/backups/celery-fleet /var/backups/celery-fleet/*")
    assert owners.splitlines() == ["root 700", "root 600"]
    written = host.check_output("cat /var/lib/celery-fleet/metrics/celery-broker-backup.prom")
    moment = host.check_output(f"stat -c %Y /var/backups/celery-fleet/{name}")
    assert f"celery_broker_backup_timestamp_seconds {moment}" in written
    return f"/var/backups/celery-fleet/{name}"
