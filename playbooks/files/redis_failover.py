"""Make a replica the primary of the servers of Redis or Valkey. Runs as root on a server's host, or on the primary's.

    redis_failover.py redis|valkey MASTER_NAME ADMINISTRATOR SERVERS role|check|failover|leave|joined

Writes wait while the replicas get the last ones, so that none is lost. Nothing changes if a replica is not in sync.
A host leaves before its server is stopped: another one is the primary then. It has joined once its server has all data.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Replicas report what they have each second.
PAUSE_SECONDS = 10
SYNC_SECONDS = 4
FAILOVER_SECONDS = 180


class Servers:
    """The server and the Sentinel of this host."""

    def __init__(self, flavor: str, name: str, administrator: str) -> None:
        self.name = name
        self._cli = [f"{flavor}-cli", "-e", "--user", administrator, "--no-auth-warning"]
        self._server = (f"/run/{flavor}/{flavor}.sock", Path("/var/lib/celery-fleet", flavor))
        sentinel = Path("/var/lib/celery-fleet", f"{flavor}-sentinel")
        self._sentinel = (f"/var/lib/{flavor}/sentinel/sentinel.sock", sentinel)

    def _run(self, target: tuple[str, Path], *command: str) -> str:
        socket, state = target
        password = (state / "administrator.password").read_text(encoding="utf-8")
        done = subprocess.run(
            [*self._cli, "-s", socket, *command],
            env=os.environ | {"REDISCLI_AUTH": password},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.replace("\r", "")

    def server(self, *command: str) -> str:
        """Return the server's answer."""
        return self._run(self._server, *command)

    def sentinel(self, *command: str) -> str:
        """Return the Sentinel's answer."""
        return self._run(self._sentinel, "sentinel", *command)

    def replication(self) -> dict[str, str]:
        """Return what INFO replication says."""
        return dict(re.findall(r"(?m)^(\w+):(.*)$", self.server("info", "replication")))


def behind(info: dict[str, str]) -> list[int]:
    """Return how many bytes each replica that is online lacks."""
    replicas = [value for key, value in info.items() if re.fullmatch(r"slave\d+", key) and "state=online" in value]
    return [int(info["master_repl_offset"]) - int(value.split("offset=")[1].split(",")[0]) for value in replicas]


def wait(check: Callable[[], object], seconds: float) -> bool:
    """Poll until check returns a true value, for so many seconds at most, and return whether it did."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def in_order(servers: Servers, replicas: int) -> None:
    """Exit unless all replicas are there and the Sentinels can fail over."""
    online = len(behind(servers.replication()))
    if online < replicas:
        sys.exit(f"Nothing was changed: {online} of {replicas} replicas are online. Run playbooks/doctor.yml")
    servers.sentinel("ckquorum", servers.name)


def followers(servers: Servers) -> int:
    """Return how many replicas have the data of the primary, as the Sentinel has it."""
    text = servers.sentinel("replicas", servers.name)
    return len(re.findall(r"(?m)^master-link-status\nok$", text))


def fail_over(servers: Servers, replicas: int) -> str:
    """Make a replica the primary, and say which."""

    def primary() -> str:
        return servers.sentinel("get-master-addr-by-name", servers.name).split("\n")[0]

    former = primary()
    servers.server("client", "pause", str(PAUSE_SECONDS * 1000), "write")
    if not wait(lambda: not any(behind(servers.replication())), SYNC_SECONDS):
        servers.server("client", "unpause")
        sys.exit("Nothing was changed: a replica does not get the last writes in time. Rerun when there is less load")
    servers.sentinel("failover", servers.name)
    if not wait(lambda: primary() != former, FAILOVER_SECONDS):
        sys.exit(f"The Sentinels did not fail over within {FAILOVER_SECONDS} s. Read the log of this host's Sentinel")

    if not wait(lambda: followers(servers) >= replicas, FAILOVER_SECONDS):
        sys.exit(f"{primary()} is the primary, but not all replicas follow it yet. Run playbooks/doctor.yml")
    return f"{primary()} is the primary"


def leave(servers: Servers, replicas: int) -> str:
    """Return once the others can do without this host's server, which is a replica then."""
    servers.sentinel("ckquorum", servers.name)
    if servers.replication()["role"] == "master":
        in_order(servers, replicas)
        return fail_over(servers, replicas)
    if not wait(lambda: followers(servers) >= replicas, FAILOVER_SECONDS):
        sys.exit(f"Nothing was changed: {followers(servers)} of {replicas} replicas follow. Run playbooks/doctor.yml")
    return "The others can do without it"


def joined(servers: Servers) -> str:
    """Return once this host's server has the data of the primary."""

    def in_sync() -> bool:
        with suppress(SystemExit):  # it is starting
            info = servers.replication()
            return info["role"] == "master" or info["master_link_status"] == "up"
        return False

    if not wait(in_sync, FAILOVER_SECONDS):
        sys.exit("The server does not get the data of the primary. Run playbooks/doctor.yml")
    return "It has the data of the primary"


def main(flavor: str, name: str, administrator: str, number: str, step: str) -> None:
    servers = Servers(flavor, name, administrator)
    if step == "role":
        # A server that is down has no role. The primary counts it as missing.
        with suppress(SystemExit):
            print(servers.replication()["role"])
        return
    replicas = int(number) - 1
    if step == "leave":
        print(leave(servers, replicas))
    elif step == "joined":
        print(joined(servers))
    else:
        in_order(servers, replicas)
        print("It can fail over" if step == "check" else fail_over(servers, replicas))


if __name__ == "__main__":
    main(*sys.argv[1:])
