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

from shared.deployed import wait_until

# Writes all packets of an interface to a file, until a file exists. 3: ETH_P_ALL.
RECORD = """
import socket, sys
from pathlib import Path
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
packets.bind((sys.argv[1], 0))
packets.settimeout(0.2)
with open(sys.argv[2], "wb") as file:
    while not Path(sys.argv[3]).exists():
        try:
            file.write(packets.recv(1 << 16))
        except TimeoutError:
            file.flush()
"""


def _interface(gateway: str) -> str:
    listed = json.loads(subprocess.check_output(["ip", "-json", "address"]))
    return next(str(each["ifname"]) for each in listed if any(own.get("local") == gateway for own in each["addr_info"]))


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
        command = [*become, "python3", "-c", RECORD, _interface(gateway), str(file), str(stop)]
        with subprocess.Popen(command) as recorder:
            try:
                wait_until(file.exists, f"nothing is recorded: {shlex.join(command[:2])}", interval=0.1)
                yield lambda: content
            finally:
                stop.touch()
                recorder.wait()
        content = file.read_bytes()
