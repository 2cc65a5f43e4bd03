"""What crosses a network of the lab."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shared.deployed import wait_until

# Writes all packets of interfaces to a file, until another file exists. 3: ETH_P_ALL.
RECORD = """
import select, socket, sys
from pathlib import Path
file, stop, *names = sys.argv[1:]
ports = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) for _ in names]
for port, name in zip(ports, names):
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
    port.bind((name, 0))
with open(file, "wb") as packets:
    while not Path(stop).exists():
        for port in select.select(ports, [], [], 0.2)[0]:
            packets.write(port.recv(1 << 16))
"""


def _listed(*command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(subprocess.check_output(["ip", "-json", *command]))
    return found


def _ports(gateway: str) -> list[str]:
    """Return the interfaces of the hosts. What they send each other does not pass the bridge's own interface."""
    bridge = next(each for each in _listed("address") if any(own.get("local") == gateway for own in each["addr_info"]))
    return [each["ifname"] for each in _listed("link", "show", "master", bridge["ifname"])]


@contextmanager
def captured(gateway: str) -> Iterator[Callable[[], bytes]]:
    """Record all packets of the lab's network during the block. What it yields returns them after the block.

    Args:
        gateway: address of this machine in the network.
    """
    content = b""
    with TemporaryDirectory() as directory:
        file, stop = Path(directory, "packets"), Path(directory, "stop")
        become = [] if os.geteuid() == 0 else ["sudo"]
        command = [*become, "python3", "-c", RECORD, str(file), str(stop), *_ports(gateway)]
        with subprocess.Popen(command) as recorder:
            try:
                wait_until(file.exists, f"nothing is recorded: {shlex.join(command[:2])}", interval=0.1)
                yield lambda: content
            finally:
                stop.touch()
                recorder.wait()
        content = file.read_bytes()
