"""A client of Supervisor's XML-RPC interface, and the actions that bring a host's programs to the desired state.

Source: Supervisor's documentation (api.html). All programs are stopped without waiting and polled afterwards, so they
stop at the same time. supervisorctl's `stop a b` and `update` stop one group after another (Supervisor/supervisor#723).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

#: Options of the modules that talk to Supervisor, documented in doc_fragments/supervisor.py.
OPTIONS: dict[str, dict[str, Any]] = {
    "directory": {"type": "path", "default": "/etc/supervisor/conf.d"},
    "socket": {"type": "path", "default": "/run/supervisor.sock"},
}
STOPPED_STATES = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})
# Fault codes of supervisor.xmlrpc.Faults.
CANT_REREAD = 92
NOT_RUNNING = 70
ALREADY_STARTED = 60


class SupervisorError(Exception):
    """Supervisor does not answer, or refuses a command. The text is for the user."""


def run_module(module: Any, run: Callable[[], dict[str, Any]]) -> None:  # noqa: ANN401 - an AnsibleModule, which has no types
    """Run a module, and exit with its result, or fail with the message of a SupervisorError."""
    try:
        result = run()
    except SupervisorError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


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


class Server(Protocol):
    """The commands of Supervisor that are used here. Tests have a simulated one."""

    def reread(self) -> Reread: ...
    def processes(self) -> dict[str, Process]: ...
    def stop(self, name: str) -> None: ...
    def start(self, name: str) -> None: ...
    def add(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...


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


@dataclass(frozen=True)
class Actions:
    """The actions that bring a host's programs to the desired state, in the order of the fields."""

    stop: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    start: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        return bool(self.stop or self.remove or self.add or self.start)


def decide(
    desired: Iterable[str],
    owned: Callable[[str], bool],
    reread: Reread,
    processes: Mapping[str, Process],
    stale: Iterable[str],
) -> Actions:
    """Return the actions after which exactly the desired programs run, each on what is on disk.

    Args:
        desired: names of the programs that must run.
        owned: returns whether a program without a configuration file may be removed.
        reread: difference between Supervisor's configuration files and its running configuration.
        processes: the programs that Supervisor has.
        stale: programs whose release, environment or settings differ from those on disk.
    """
    wanted = set(desired)
    removed = {name for name in reread.removed if owned(name) and name not in wanted}
    changed = reread.changed & wanted
    added = reread.added & wanted
    restarted = (set(stale) & wanted) - changed - added
    down = {name for name in wanted & processes.keys() if processes[name].stopped} - changed - restarted
    gone = removed | changed
    return Actions(
        stop=tuple(sorted(name for name in gone | restarted if name in processes)),
        remove=tuple(sorted(name for name in gone if name in processes)),
        add=tuple(sorted(changed | added)),
        start=tuple(sorted(restarted | down)),
    )


def wait(check: Callable[[], str], timeout: float, *, interval: float = 0.2) -> None:
    """Wait until check returns an empty text.

    Args:
        check: returns what is still waited for.
        timeout: seconds.

    Raises:
        SupervisorError: the timeout is over.
    """
    deadline = time.monotonic() + timeout
    while missing := check():
        if time.monotonic() > deadline:
            raise SupervisorError(f"Timed out after {timeout:.0f} s: {missing}")
        time.sleep(interval)


def carry_out(server: Server, actions: Actions, *, stop_timeout: float, start_timeout: float) -> None:
    """Carry out actions: stop all programs warm at once, wait for the last one, start all, and wait for RUNNING.

    Args:
        stop_timeout: seconds within which all programs must end their tasks.
        start_timeout: seconds within which all programs must be RUNNING.

    Raises:
        SupervisorError: a program does not stop, or does not stay up.
    """
    for name in actions.stop:
        server.stop(name)

    def still_stopping() -> str:
        processes = server.processes()
        left = [name for name in actions.stop if name in processes and not processes[name].stopped]
        return f"still finishing their tasks: {', '.join(left)}" if left else ""

    wait(still_stopping, stop_timeout)
    for name in actions.remove:
        server.remove(name)
    for name in actions.add:
        server.add(name)
    for name in actions.start:
        server.start(name)
    wait_for_running(server, (*actions.add, *actions.start), start_timeout)


def wait_for_running(server: Server, names: Iterable[str], timeout: float) -> None:
    """Wait until programs are RUNNING, which is after they have stayed up for startsecs.

    Raises:
        SupervisorError: the timeout is over; with the state and the end of the log of each program.
    """
    names = tuple(names)

    def not_running() -> str:
        processes = server.processes()
        down = [processes[name] for name in names if name in processes and processes[name].state != "RUNNING"]
        return "\n".join(f"{item.name} is {item.state} {item.reason}\n{log_tail(item.logfile)}" for item in down)

    wait(not_running, timeout)


def program_file(directory: Path, app_name: str, kind: str, name: str) -> Path:
    """Return the path of a program's configuration file."""
    return directory / f"{app_name}.{kind}.{name}.conf"


def program_in(file: Path) -> str:
    """Return the name of the program of a configuration file, the inverse of program_file."""
    return file.name.split(".", 2)[-1].removesuffix(".conf")


def programs_of(app_name: str, socket: Path, directory: Path) -> tuple[dict[str, Process], dict[str, Process]]:
    """Return an application's programs by name, and apart those that have stopped and have no configuration file.

    Supervisor keeps the slot that a worker had before a handover, though it has stopped and has no file. Both are empty
    where Supervisor is not running.

    Args:
        directory: directory of the programs' configuration files.

    Raises:
        SupervisorError: Supervisor does not answer.
    """
    if not socket.exists():
        return {}, {}
    processes = SocketServer(str(socket)).processes()
    mine = {name: process for name, process in sorted(processes.items()) if name.startswith(f"{app_name}-")}
    files = {program_in(path) for path in directory.glob("*.conf")}
    gone = {name: process for name, process in mine.items() if process.stopped and name not in files}
    return {name: process for name, process in mine.items() if name not in gone}, gone


def log_tail(path: str, lines: int = 15) -> str:
    """Return the last lines of a log file, indented; an empty text if there is none."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def state_of(process: Process) -> dict[str, str]:
    """Return the name, the state and the release of a program; the release is empty if it is not running.

    Raises:
        SupervisorError: the environment of its process can't be read.
    """
    release = environment_of(process.pid).get("CELERY_APP_RELEASE", "") if process.pid else ""
    return {"name": process.name, "state": process.state, "release": release}


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty if it has exited.

    Raises:
        SupervisorError: the environment can't be read. Root needs CAP_SYS_PTRACE for that.
    """
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError as error:
        raise SupervisorError(
            f"The release of process {pid} can't be read: {error}. Grant root CAP_SYS_PTRACE on this host"
        ) from error
    except OSError:
        return {}
    pairs = (item.partition("=") for item in raw.decode(errors="replace").split("\0") if item)
    return {name: value for name, _, value in pairs}
