"""The replay cache: which messages workers have begun or finished, in a Redis server that all workers share.

A broker delivers a message again when its worker has died, so a message that was received before is not a replay as
such. A worker therefore claims a message before it starts its task, and marks it as done before it acknowledges it. A
claim is valid while its worker lives, which the worker proves by a lease.

Standard library only: an application whose broker is RabbitMQ need not have the package redis.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEASE_SECONDS = 20
#: How often the lease is renewed.
RENEW_SECONDS = 5.0
TIMEOUT_SECONDS = 3.0
#: After a failure, no connection is tried for this time: each attempt stops the worker's event loop.
DOWN_SECONDS = 10.0
#: As DOWN_SECONDS, with Sentinels. An attempt that meets a dead Sentinel and a dead primary takes 4.5 s of them.
FAILOVER_SECONDS = 5.0
#: As the broker's clients, see sentinel_options.
SENTINEL_TIMEOUT_SECONDS = 1.5
DONE = "done"
#: Prefix of the owner of a claim who has no lease.
GONE = "gone "
# Errors of a server that is not the primary any more, or is cut off from its replicas.
_NOT_PRIMARY = ("READONLY", "NOREPLICAS", "MASTERDOWN")
# Returns who has the message if this worker can't claim it, else an empty string. A claim of an earlier process of the
# same program is taken over at once: the process is gone. So is that of the process in ARGV[5].
_CLAIM = """
local owner = redis.call('GET', KEYS[1])
if owner == 'done' or owner == ARGV[1] then return owner end
if owner and string.sub(owner, 1, #ARGV[2]) ~= ARGV[2] then
  if redis.call('EXISTS', ARGV[3] .. owner) == 1 then return owner end
  if owner ~= ARGV[5] then return 'gone ' .. owner end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[4])
return ''
"""
# Another worker may have taken the claim over.
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class ReplayCache:
    """A connection to the replay cache, with the name of this process."""

    def __init__(self, path: Path) -> None:
        """Read where the cache is.

        Args:
            path: JSON file with address, port, user, password, key_prefix, and ca, the file of the trusted
                authorities; empty without TLS. With Sentinels, sentinel has their addresses, port and master_name.
                It is read again for each connection, as passwords change.
        """
        self._path = path
        self._prefix = str(self._read()["key_prefix"])
        # Not the process ID alone, which another process has after a restart of the host.
        self._program = f"{socket.gethostname()}/{os.environ.get('SUPERVISOR_PROCESS_NAME') or os.getpid()}/"
        self.owner = f"{self._program}{os.getpid()}.{time.time_ns()}"
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._down_until = 0.0
        # Number of failed attempts: each one asks another Sentinel first, as one that is cut off may be wrong.
        self._failures = 0

    def claim(self, nonce: str, seconds: float, gone: str = "") -> str:
        """Claim a message, and return who has it instead: DONE, the owner of a claim, or empty if this process has it.

        An owner without a lease is returned with the prefix GONE.

        Args:
            seconds: for which the message is valid.
            gone: owner without a lease whose claim is taken over.

        Raises:
            OSError: the cache can't be reached, or refuses the claim.
        """
        arguments = (self.owner, self._program, self._lease(""), str(max(1, int(seconds))), gone)
        return self._execute("EVAL", _CLAIM, "1", self._key(nonce), *arguments)

    def finish(self, nonce: str, seconds: float) -> None:
        """Mark a message as done. Raises OSError as claim does."""
        self._execute("SET", self._key(nonce), DONE, "EX", str(max(1, int(seconds))))

    def release(self, nonce: str) -> None:
        """Give a claim back, so that another worker may start the message. Raises OSError as claim does."""
        self._execute("EVAL", _RELEASE, "1", self._key(nonce), self.owner)

    def renew(self) -> None:
        """Renew the lease of this process. Raises OSError as claim does."""
        # A full server extends a key, and makes none.
        if self._execute("EXPIRE", self._lease(self.owner), str(LEASE_SECONDS)) != "1":
            self._execute("SET", self._lease(self.owner), "1", "EX", str(LEASE_SECONDS))

    def end(self) -> None:
        """End the lease of this process. Raises OSError as claim does."""
        self._execute("DEL", self._lease(self.owner))

    def _key(self, nonce: str) -> str:
        return f"{self._prefix}m:{nonce}"

    def _lease(self, owner: str) -> str:
        return f"{self._prefix}w:{owner}"

    def _read(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        return config

    def _execute(self, *command: str) -> str:
        """Execute a command, on a new connection if the present one is broken."""
        # With threads and green threads as the pool, several acknowledge messages at the same time.
        with self._lock:
            if self._connection:
                with contextlib.suppress(ConnectionError):
                    return self._connection.execute(*command)
                self._connection.close()
                self._connection = None
            if time.monotonic() < self._down_until:
                raise ConnectionError("it did not respond a moment ago")
            config = self._read()
            self._down_until = time.monotonic() + (FAILOVER_SECONDS if config.get("sentinel") else DOWN_SECONDS)
            self._failures += 1
            self._connection = _Connection(*_server(config, self._failures - 1), config)
            reply = self._connection.execute(*command)
            self._down_until = 0.0
            self._failures -= 1
            return reply


def _server(config: Mapping[str, Any], first: int) -> tuple[str, int]:
    """Return the address and the port of the server: with Sentinels, of the primary that one of them knows.

    Args:
        first: number of the Sentinel that is asked first.

    Raises:
        ConnectionError: no Sentinel knows a primary.
    """
    sentinel = config.get("sentinel")
    if not sentinel:
        return str(config["address"]), int(config["port"])
    addresses, problems = sentinel["addresses"], []
    for number in range(len(addresses)):
        address = str(addresses[(first + number) % len(addresses)])
        try:
            connection = _Connection(address, int(sentinel["port"]), config, SENTINEL_TIMEOUT_SECONDS)
            try:
                found = connection.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", sentinel["master_name"])
            finally:
                connection.close()
        except OSError as error:
            problems.append(f"{address}: {error}")
            continue
        host, _, port = found.partition(" ")
        if port:
            return host, int(port)
        problems.append(f"{address}: it monitors no {sentinel['master_name']}")
    raise ConnectionError(f"No Sentinel knows the primary: {'; '.join(problems)}")


class _Connection:
    """A connection to a Redis server or a Sentinel, which sends one command after the other (RESP 2)."""

    def __init__(self, address: str, port: int, config: Mapping[str, Any], timeout: float = TIMEOUT_SECONDS) -> None:
        plain = socket.create_connection((address, port), timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = plain
            if config["ca"]:
                context = ssl.create_default_context(cafile=config["ca"])
                self._socket = context.wrap_socket(plain, server_hostname=address)
            self._file = self._socket.makefile("rb")
            self.execute("AUTH", config["user"], config["password"])
        except BaseException:
            plain.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def execute(self, *command: str) -> str:
        """Return the reply to a command; empty for nil. The parts of a list are separated by spaces.

        Raises:
            ConnectionError: the connection is broken, or the server is not the primary.
            OSError: the server reports an error.
        """
        words = [word.encode() for word in command]
        try:
            self._socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
            return self._reply()
        except (TimeoutError, ssl.SSLError) as error:
            raise ConnectionError(str(error)) from error

    def _reply(self) -> str:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("The replay cache closed the connection")
        kind, text = line[:1], line[1:-2].decode()
        if kind == b"-":
            if text.startswith(_NOT_PRIMARY):
                raise ConnectionError(f"The server is not the primary of the replay cache: {text}")
            raise OSError(f"The replay cache refuses a command: {text}")
        if kind == b"$" and text != "-1":
            content = self._file.read(int(text) + 2)
            if not content.endswith(b"\r\n"):
                raise ConnectionResetError("The replay cache closed the connection")
            return content[:-2].decode()
        if kind == b"*":
            return " ".join([self._reply() for _ in range(int(text))])
        return "" if kind == b"$" else text
