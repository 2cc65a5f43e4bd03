"""The actions that bring a host's programs in Supervisor to the desired state.

All programs are stopped without waiting and polled afterwards, so they
stop at the same time. supervisorctl's `stop a b` and `update` stop one group after another (Supervisor/supervisor#723).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import (
    Process,
    Reread,
    SocketServer,
    SupervisorError,
    program_in,
)

#: Options of the modules that talk to Supervisor, documented in doc_fragments/supervisor.py.
OPTIONS: dict[str, dict[str, Any]] = {
    "directory": {"type": "path", "default": "/etc/supervisor/conf.d"},
    "socket": {"type": "path", "default": "/run/supervisor.sock"},
}
# Fault codes of supervisor.xmlrpc.Faults.
CANT_REREAD = 92


def run_module(module: Any, run: Callable[[], dict[str, Any]]) -> None:  # noqa: ANN401 - an AnsibleModule, which has no types
    """Run a module, and exit with its result, or fail with the message of a SupervisorError."""
    try:
        result = run()
    except SupervisorError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


class Server(Protocol):
    """The commands of Supervisor that are used here. Tests have a simulated one."""

    def reread(self) -> Reread: ...
    def processes(self) -> dict[str, Process]: ...
    def stop(self, name: str) -> None: ...
    def start(self, name: str) -> None: ...
    def add(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...


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
