"""Drain this host: stop its workers, and interrupt their tasks at a deadline.

The module celery_drain, the service of interruption notices and the command celery_drain_host share it. A marker file
in the application's directory keeps the host drained, and has what the next call of the module must know.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .strays import Stray, stop_strays, strays, supervisord
from .supervisor import Process, SocketServer, SupervisorError, program_file, program_in

POLL_SECONDS = 0.5
# Seconds before the deadline at which workers get SIGQUIT. They hand back their tasks within a second or two.
HAND_BACK_SECONDS = 10


@dataclass(frozen=True)
class Deadline:
    """When the tasks of a drain are interrupted.

    Attributes:
        began: when the drain began, in seconds since the epoch.
        at: when workers are killed, in seconds since the epoch.
    """

    began: float
    at: float

    def signal_due(self, now: float, handed_back: float) -> signal.Signals | None:
        """Return the signal that is due: SIGQUIT, after which workers hand back their tasks, SIGKILL, or none.

        Half of a short time is left for SIGQUIT.

        Args:
            now: seconds since the epoch.
            handed_back: when workers got SIGQUIT, in seconds since the epoch; 0: they did not.
        """
        if now < max(self.at - HAND_BACK_SECONDS, (self.began + self.at) / 2):
            return None
        if not handed_back:
            return signal.SIGQUIT
        return signal.SIGKILL if now > max(self.at, handed_back + HAND_BACK_SECONDS / 2) else None


def write_json(path: Path, value: object) -> None:
    """Write a file atomically that all may read."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        os.fchmod(handle, 0o644)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class HostDrain:
    """A drain of this host.

    Attributes:
        since: when it began, in seconds since the epoch; 0 before begin.
        changed: whether it changed anything.
        interrupted: programs that got SIGQUIT or SIGKILL.
        left: programs that still run.
        strays_left: workers that outlived their supervisord, and still run.
    """

    def __init__(  # noqa: PLR0917 - as in the module's options
        self,
        app: str,
        marker: Path,
        programs: Collection[str],
        without_cold_shutdown: Collection[str],
        directory: str,
        socket: str,
    ) -> None:
        """Prepare a drain.

        Args:
            app: the application's name.
            marker: file that says that the host is drained.
            programs: programs of the host's workers, running or not.
            without_cold_shutdown: those of them that lose their tasks by SIGQUIT.
            directory: of Supervisor's programs.
            socket: of Supervisor.
        """
        self._app, self._directory, self._socket = app, Path(directory), socket
        self._programs, self._without_cold_shutdown = frozenset(programs), frozenset(without_cold_shutdown)
        self.marker = marker
        self.since, self._handed_back = 0.0, 0.0
        self.changed = False
        self.interrupted: set[str] = set()
        self.left: dict[str, Process] = {}
        self.strays_left: list[Stray] = []
        self._stopped_strays: set[Stray] = set()

    def read(self) -> bool:
        """Read the marker of an earlier call; return whether there is one."""
        try:
            state = json.loads(self.marker.read_text(encoding="utf-8"))
            self.since, self._handed_back = float(state["since"]), float(state.get("handed_back", 0))
        except (FileNotFoundError, ValueError, KeyError):
            return False
        return True

    def begin(self, *, write: bool = True) -> None:
        """Begin the drain, or continue that of an earlier call.

        Args:
            write: write the marker.
        """
        if not self.read():
            self.since, self._handed_back, self.changed = time.time(), 0.0, True
            if write:
                self._write()

    def _write(self) -> None:
        write_json(self.marker, {"since": self.since, "handed_back": self._handed_back})

    def running(self) -> dict[str, Process]:
        """Return the programs that Supervisor has.

        Raises:
            SupervisorError: it does not answer.
        """
        return self._running(SocketServer(self._socket))

    def _running(self, server: SocketServer) -> dict[str, Process]:
        return {name: process for name, process in server.processes().items() if name in self._programs}

    def _strays(self) -> list[Stray]:
        return [stray for stray in strays(supervisord()) if stray.program in self._programs]

    def step(self, deadline: Deadline | None) -> bool:
        """Stop all workers warm, remove the stopped ones from Supervisor, and interrupt tasks if it is time.

        Returns:
            Whether all workers have stopped. Call it again until they have.

        Raises:
            SupervisorError: Supervisor does not answer.
        """
        server = SocketServer(self._socket)
        for name in self._programs:
            program_file(self._directory, self._app, "worker", name).unlink(missing_ok=True)
        server.reread()
        for name, process in self._running(server).items():
            self.changed = True
            if process.stopped:
                server.remove(name)
            elif process.state != "STOPPING":
                server.stop(name)
        stop_strays([stray for stray in self._strays() if stray not in self._stopped_strays])
        self._stopped_strays.update(self._strays())
        self.left, self.strays_left = self._running(server), self._strays()
        if not (self.left or self.strays_left):
            return True
        if deadline:
            self._interrupt(server, deadline)
        return False

    def _interrupt(self, server: SocketServer, deadline: Deadline) -> None:
        """Send SIGQUIT shortly before the deadline, and SIGKILL at it."""
        due = deadline.signal_due(time.time(), self._handed_back)
        if due == signal.SIGQUIT:
            self._handed_back = time.time()
            self._write()
            handing_back = self.left.keys() - self._without_cold_shutdown
            for name in handing_back:
                server.quit(name)
            found = [stray for stray in self.strays_left if stray.program not in self._without_cold_shutdown]
            stop_strays(found, signal.SIGQUIT)
            self.interrupted |= {*handing_back, *(stray.program for stray in found)}
        elif due == signal.SIGKILL:
            for name in self.left:
                server.kill(name)
            stop_strays(self.strays_left, signal.SIGKILL)
            self.interrupted |= {*self.left, *(stray.program for stray in self.strays_left)}


def drain_of(config: Mapping[str, Any]) -> HostDrain:
    """Return the drain of a host by its configuration, with workers that Supervisor got since."""
    app, directory = config["app"], Path(config["directory"])
    found = {program_in(path) for path in directory.glob(f"{app}.worker.*.conf")}
    return HostDrain(
        app,
        Path(config["marker"]),
        found | set(config["programs"]),
        config["without_cold_shutdown"],
        config["directory"],
        config["socket"],
    )


def log(text: str) -> None:
    """Write a line to the terminal or the journal."""
    print(text, flush=True)


def report(drain: HostDrain, *, done: bool, interrupted: Collection[str]) -> None:
    """Log the workers that were interrupted since the last report, and the end.

    Args:
        interrupted: those that were before.
    """
    if names := sorted(drain.interrupted - set(interrupted)):
        log(f"Interrupted the tasks of {', '.join(names)} shortly before the deadline")
    if done:
        log("All workers have stopped. Undrain the host by playbooks/undrain.yml")


def run(drain: HostDrain, deadline: Deadline | None) -> None:
    """Drain the host until all workers have stopped.

    Raises:
        SupervisorError: Supervisor does not answer, and the deadline is over.
    """
    done = False
    while not done:
        before = set(drain.interrupted)
        try:
            done = drain.step(deadline)
        except SupervisorError:
            # It may be restarting.
            if not deadline or time.time() > deadline.at:
                raise
        report(drain, done=done, interrupted=before)
        if not done:
            time.sleep(POLL_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="celery_drain_host", description="Drain this host: its workers finish their tasks and stay stopped."
    )
    parser.add_argument("config", help=argparse.SUPPRESS)
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="seconds after which workers are killed. Ten seconds before, they return their tasks to the broker. "
        "Without it, wait for the last task.",
    )
    options = parser.parse_args()
    if options.deadline is not None and options.deadline <= 0:
        parser.error(f"--deadline: {options.deadline:g} is not a positive number of seconds. Set it to e.g. 100")
    if os.geteuid():
        parser.error("only root can stop the workers. Run it by sudo")
    drain = drain_of(json.loads(Path(options.config).read_text(encoding="utf-8")))
    drain.begin()
    now = time.time()
    log(f"Draining this host{f' within {options.deadline:g} s' if options.deadline else ''}")
    try:
        run(drain, Deadline(now, now + options.deadline) if options.deadline else None)
    except SupervisorError as error:
        sys.exit(f"{error}. The host stays drained")
    except KeyboardInterrupt:
        sys.exit("Stopped waiting. The host stays drained, and its workers finish their tasks")


if __name__ == "__main__":
    main()
