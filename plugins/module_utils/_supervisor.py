"""Supervisor over its XML-RPC interface, and the decision what to do with a host's programs.

Source: Supervisor's documentation (api.html). Stopping without waiting and polling afterwards ends all programs at the
same time, where supervisorctl's `stop a b` and `update` take one group after another (Supervisor/supervisor#723).
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

#: Of the modules that talk to it; doc_fragments/supervisor.py describes them.
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
    """Supervisor can't be reached, or doesn't do what it is told; the text is for the user."""


def answer(module: Any, run: Callable[[], dict[str, Any]]) -> None:  # noqa: ANN401 - an AnsibleModule, which has no types
    """End a module with what this returns, or with what Supervisor did not do."""
    try:
        result = run()
    except SupervisorError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


@dataclass(frozen=True)
class Process:
    """A program's process as Supervisor sees it.

    Attributes:
        pid: 0 if it doesn't run.
        reason: Supervisor's own word on why it doesn't run.
        started: when it was last started, in seconds since the epoch; ended: when it last ended.
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
    """What Supervisor's configuration files hold that its memory doesn't yet."""

    added: frozenset[str]
    changed: frozenset[str]
    removed: frozenset[str]


class Server(Protocol):
    """What is used of Supervisor; a test can stand in for it."""

    def reread(self) -> Reread: ...
    def processes(self) -> dict[str, Process]: ...
    def stop(self, name: str) -> None: ...
    def start(self, name: str) -> None: ...
    def add(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...


class SocketServer:
    """Supervisor behind its UNIX socket."""

    def __init__(self, socket: str) -> None:
        from supervisor.xmlrpc import SupervisorTransport  # noqa: PLC0415 - there only where Supervisor is

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
                f"Supervisor doesn't answer at {self._socket}: {error}. Is it running? systemctl status supervisor"
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
        """Have a worker end at once and hand back what it is at, by SIGQUIT to itself alone."""
        process = self.processes().get(name)
        if process and process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGQUIT)

    def kill(self, name: str) -> None:
        """End a program and all that it started at once, by SIGKILL: children left alone would end their tasks."""
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
    """What makes a host's programs be as they should, in the order of the fields."""

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
    """Return what must be done so that exactly the desired programs run, each on what is on disk now.

    Args:
        desired: the names of the programs that should run.
        owned: whether a program that is in no file any more may be removed.
        reread: what the files hold that Supervisor's memory doesn't.
        processes: what Supervisor runs now.
        stale: programs that run on something else than what is on disk.
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
        check: what is still missing.
        timeout: seconds.

    Raises:
        SupervisorError: with what was still missing at the end.
    """
    deadline = time.monotonic() + timeout
    while missing := check():
        if time.monotonic() > deadline:
            raise SupervisorError(f"after {timeout:.0f} s: {missing}")
        time.sleep(interval)


def carry_out(server: Server, actions: Actions, *, stop_timeout: float, start_timeout: float) -> None:
    """Do what was decided: stop all at once and warm, wait for the last, then start all at once and wait for RUNNING.

    Args:
        stop_timeout: seconds that the slowest program may take to end its tasks.
        start_timeout: seconds until each is RUNNING.

    Raises:
        SupervisorError: if a program doesn't end or doesn't stay up, with the end of its log.
    """
    for name in actions.stop:
        server.stop(name)

    def still_stopping() -> str:
        processes = server.processes()
        left = [name for name in actions.stop if name in processes and not processes[name].stopped]
        return f"still ending their tasks: {', '.join(left)}" if left else ""

    wait(still_stopping, stop_timeout)
    for name in actions.remove:
        server.remove(name)
    for name in actions.add:
        server.add(name)
    for name in actions.start:
        server.start(name)
    wait_for_running(server, (*actions.add, *actions.start), start_timeout)


def wait_for_running(server: Server, names: Iterable[str], timeout: float) -> None:
    """Wait until the programs are RUNNING, which Supervisor says once they have stayed up for startsecs.

    Raises:
        SupervisorError: with each one's state and the end of its log.
    """
    names = tuple(names)

    def not_running() -> str:
        processes = server.processes()
        down = [processes[name] for name in names if name in processes and processes[name].state != "RUNNING"]
        return "\n".join(f"{item.name} is {item.state} {item.reason}\n{log_tail(item.logfile)}" for item in down)

    wait(not_running, timeout)


def program_file(directory: Path, app_name: str, kind: str, name: str) -> Path:
    """Return the file of an application's program in the directory that Supervisor includes."""
    return directory / f"{app_name}.{kind}.{name}.conf"


def program_in(file: Path) -> str:
    """Return the name of the program that is in a file which program_file named."""
    return file.name.split(".", 2)[-1].removesuffix(".conf")


def programs_of(app_name: str, socket: Path, directory: Path) -> tuple[dict[str, Process], dict[str, Process]]:
    """Return an application's programs by name, and those that ended and are gone; none where Supervisor does not run.

    It remembers the slot that a worker had before a handover, though that has ended and has no file.

    Args:
        directory: of the programs' files.

    Raises:
        SupervisorError: it does not answer.
    """
    if not socket.exists():
        return {}, {}
    found = SocketServer(str(socket)).processes()
    mine = {name: process for name, process in sorted(found.items()) if name.startswith(f"{app_name}-")}
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
    """Return a program's name, its state, and the release that its process was started on; an empty one if it has none.

    Raises:
        SupervisorError: which release that is may not be read.
    """
    release = environment_of(process.pid).get("CELERY_APP_RELEASE", "") if process.pid else ""
    return {"name": process.name, "state": process.state, "release": release}


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty if it is gone.

    Raises:
        SupervisorError: if it may not be read: even root can't where it has no CAP_SYS_PTRACE.
    """
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError as error:
        raise SupervisorError(f"{error}: whether a program runs on what is on disk can't be told") from error
    except OSError:
        return {}
    pairs = (item.partition("=") for item in raw.decode(errors="replace").split("\0") if item)
    return {name: value for name, _, value in pairs}
