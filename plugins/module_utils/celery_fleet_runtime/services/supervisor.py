"""A client of Supervisor's XML-RPC interface.

Source: Supervisor's documentation (api.html).
"""

from __future__ import annotations

import contextlib
import os
import signal
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOPPED_STATES = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})
# Fault codes of supervisor.xmlrpc.Faults.
NOT_RUNNING = 70
ALREADY_STARTED = 60


class SupervisorError(Exception):
    """Supervisor does not answer, or refuses a command. The text is for the user."""


@dataclass(frozen=True)
class Process:
    """The process of a program, as Supervisor reports it.

    Attributes:
        pid: 0 if it is not running.
        reason: Supervisor's reason why it is not running.
        started: when it was last started, in seconds since the epoch.
        ended: when it last exited, in seconds since the epoch.
    """

    name: str
    state: str
    pid: int
    reason: str
    logfile: str
    started: float = 0.0
    ended: float = 0.0

    @property
    def stopped(self) -> bool:
        return self.state in STOPPED_STATES


@dataclass(frozen=True)
class Reread:
    """The difference between Supervisor's configuration files and its running configuration."""

    added: frozenset[str]
    changed: frozenset[str]
    removed: frozenset[str]


def program_file(directory: Path, app_name: str, kind: str, name: str) -> Path:
    """Return the path of a program's configuration file."""
    return directory / f"{app_name}.{kind}.{name}.conf"


def program_in(file: Path) -> str:
    """Return the name of the program of a configuration file, the inverse of program_file."""
    return file.name.split(".", 2)[-1].removesuffix(".conf")


class SocketServer:
    """Supervisor at its Unix socket."""

    def __init__(self, socket: str) -> None:
        from supervisor.xmlrpc import SupervisorTransport  # noqa: PLC0415 - only installed with Supervisor

        transport = SupervisorTransport(None, None, f"unix://{socket}")
        self._rpc: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor
        self._socket = socket

    def _call(self, method: str, *args: object, ignore: int = 0) -> Any:  # noqa: ANN401 - XML-RPC gives anything
        try:
            return getattr(self._rpc, method)(*args)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == ignore:
                return None
            raise SupervisorError(f"Supervisor refused {method}{args}: {fault.faultString}") from fault
        except OSError as error:
            raise SupervisorError(
                f"Supervisor does not answer at {self._socket}: {error}. Check it: systemctl status supervisor"
            ) from error

    def reread(self) -> Reread:
        added, changed, removed = self._call("reloadConfig")[0]
        return Reread(frozenset(added), frozenset(changed), frozenset(removed))

    def processes(self) -> dict[str, Process]:
        return {
            info["group"]: Process(
                info["group"],
                info["statename"],
                info["pid"],
                info["spawnerr"],
                info["stdout_logfile"],
                float(info["start"]),
                float(info["stop"]),
            )
            for info in self._call("getAllProcessInfo")
        }

    def stop(self, name: str) -> None:
        self._call("stopProcess", name, False, ignore=NOT_RUNNING)

    def quit(self, name: str) -> None:
        """Send SIGQUIT to the main process of a worker, which hands its tasks back to the broker and exits."""
        process = self.processes().get(name)
        if process and process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGQUIT)

    def kill(self, name: str) -> None:
        """Send SIGKILL to a program and its children. Children alone would finish their tasks."""
        process = self.processes().get(name)
        if process and process.pid:
            # Supervisor makes each program the leader of a process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def start(self, name: str) -> None:
        self._call("startProcess", name, False, ignore=ALREADY_STARTED)

    def add(self, name: str) -> None:
        self._call("addProcessGroup", name)

    def remove(self, name: str) -> None:
        self._call("removeProcessGroup", name)
