#!/usr/bin/env python3
"""Restart a worker of this host that runs, but takes no tasks: warm, through Supervisor, and with its reason said.

A worker may go on without its queue after its broker was away (celery/celery#8030, #8091, #8990, #10205). The workers
report in files of their own; a process of the application's user asks the broker for the depths of its queues. This one
evaluates both, and talks to Supervisor alone.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# The application's configuration directory, which is root's, is on the path.
from celery_fleet_alive import Alive, is_fresh, read_alive  # type: ignore[import-not-found]  # module_utils/_alive.py

# As long as a release waits for a worker to be at work.
START_SECONDS = 180.0
# At the beginning of what celery_observe.py tells.
MARK = "celery-fleet "
MOST_DOUBLINGS = 6
SLOW_INTERVALS = 2.5


@dataclass(frozen=True)
class Sight:
    """What was seen of a worker at one time.

    Attributes:
        at: seconds, of a clock that does not jump.
        pid: its process.
        answered: it said how it is; what follows is known only then.
        done: tasks that it took since it started.
        active: tasks that it is at work on.
        held: tasks that it has received and not begun, as under a rate limit.
        waiting: messages in the queues that it consumes.
    """

    at: float
    pid: int
    answered: bool
    done: int = 0
    active: int = 0
    held: int = 0
    waiting: int = 0


def stuck(sights: list[Sight], patience: float) -> str:
    """Return why a worker is to be restarted; an empty text if it is not.

    Args:
        sights: the latest last, without a gap in which the broker was away.
        patience: seconds that it must have looked so.
    """
    if not sights or sights[-1].at - sights[0].at < patience or len({sight.pid for sight in sights}) > 1:
        return ""
    last = sights[-1]
    if not any(sight.answered for sight in sights):
        return f"it has not answered for {last.at - sights[0].at:.0f} s"
    idle = all(sight.answered and not (sight.active or sight.held) and sight.waiting for sight in sights)
    if idle and len({sight.done for sight in sights}) == 1:
        return f"it has taken no task for {last.at - sights[0].at:.0f} s, while {last.waiting} wait in its queues"
    return ""


class Memory:
    """The recent sights of each worker, and how often it was restarted in vain."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._sights: dict[str, list[Sight]] = {}
        self._restarts: dict[str, int] = {}
        self._answered: dict[str, int] = {}

    def has_answered(self, name: str, pid: int, *, now: bool) -> bool:
        """Return whether a process of a worker has ever answered, now included."""
        if now:
            self._answered[name] = pid
        return self._answered.get(name) == pid

    def forget(self) -> None:
        """Begin anew, since for a while nothing was seen."""
        self._sights.clear()

    def add(self, name: str, sight: Sight) -> str:
        """Note a sight and return why the worker is to be restarted, if it is."""
        sights = [*self._sights.get(name, []), sight]
        if sight.done:
            self._restarts.pop(name, None)
        # What a restart did not mend, another does not mend sooner.
        restarts = self._restarts.get(name, 0)
        patience = self._patience * 2 ** min(restarts, MOST_DOUBLINGS)
        # One more than patience spans, so that the span can be as long.
        while len(sights) > 2 and sight.at - sights[1].at >= patience:  # noqa: PLR2004
            sights.pop(0)
        reason = stuck(sights, patience)
        self._sights[name] = [] if reason else sights
        if reason:
            self._restarts[name] = restarts + 1
        return reason


class Supervisor:
    """Supervisor of this host."""

    def __init__(self, socket: str) -> None:
        from supervisor.xmlrpc import SupervisorTransport  # noqa: PLC0415 - there only where Supervisor is

        self._transport: Callable[[], Any] = partial(SupervisorTransport, None, None, f"unix://{socket}")

    def _call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - XML-RPC gives anything
        server: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=self._transport())
        return getattr(server.supervisor, method)(*arguments)

    def running(self) -> dict[str, tuple[int, float]]:
        """Return process and seconds of life of each program that runs and is not being stopped."""
        return {
            info["group"]: (info["pid"], info["now"] - info["start"])
            for info in self._call("getAllProcessInfo")
            if info["statename"] == "RUNNING"
        }

    def restart(self, name: str) -> None:
        """Stop a program warm, wait until it has ended, and start it."""
        self._call("stopProcess", name, True)
        self._call("startProcess", name, False)


def say(text: str) -> None:
    """Write a line for the journal."""
    print(text, flush=True)


def restart(supervisor: Supervisor, name: str) -> None:
    """Restart a program and say how it went."""
    try:
        supervisor.restart(name)
    except (OSError, xmlrpc.client.Fault) as error:
        say(f"{name} could not be restarted: {error}")
    else:
        say(f"{name} is restarted")


def judge(
    seen: dict[str, Any],
    config: dict[str, Any],
    running: dict[str, tuple[int, float]],
    reports: dict[str, Alive],
    memory: Memory,
) -> dict[str, str]:
    """Return the programs to restart, each with its reason.

    Args:
        seen: what celery_observe.py told.
        config: the workers of this host.
        running: as Supervisor.running gives it.
        reports: those of workers whose event loop turns, by program.
    """
    if not seen["broker"]:
        memory.forget()
        return {}
    reasons = {}
    for worker in config["workers"]:
        pid, life = running.get(worker["program"], (0, 0.0))
        report = reports.get(worker["program"])
        # A large application takes its time to start.
        started = memory.has_answered(worker["program"], pid, now=bool(report))
        if not pid or life < (config["patience"] if started else max(config["patience"], START_SECONDS)):
            continue
        # Of a queue that it was told to consume no more, it takes nothing.
        consumed = report.queues if report else worker["queues"]
        waiting = sum(seen["waiting"].get(name, 0) for name in worker["queues"] if name in consumed)
        done, active, held = (report.done, report.active, report.held) if report else (0, 0, 0)
        sight = Sight(time.monotonic(), pid, bool(report), done, active, held, waiting)
        if reason := memory.add(worker["program"], sight):
            reasons[worker["program"]] = reason
    return reasons


def observations(command: list[str], silence: float) -> Any:  # noqa: ANN401 - JSON gives anything
    """Yield what the observer tells; None when it said nothing for too long, or ended, and was started anew."""
    while True:
        lines: queue.Queue[str | None] = queue.Queue()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

            def read(process: subprocess.Popen[str] = process, lines: queue.Queue[str | None] = lines) -> None:
                for line in process.stdout or ():
                    lines.put(line)
                lines.put(None)

            threading.Thread(target=read, daemon=True).start()
            try:
                while (line := lines.get(timeout=silence)) is not None:
                    # The application may print, too.
                    if line.startswith(MARK):
                        yield json.loads(line.removeprefix(MARK))
            except (queue.Empty, ValueError):
                pass
            finally:
                process.kill()
        yield None
        time.sleep(1)


def main() -> None:
    path = sys.argv[1]
    # Ends as by an exception, so that the observer ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    supervisor = Supervisor(config["socket"])
    memory = Memory(config["patience"])
    counts = Path(config["counts"])
    user = config["user"]
    # Not runuser, which would stay between the two, where a signal to end does not reach the other.
    command = [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--init-groups",
        f"{config['bin']}/celery_run",
        "python",
    ]
    command += [f"{config['bin']}/celery_observe.py", config["app"], path]
    away = ""
    busy: dict[str, threading.Thread] = {}
    say(f"Watching {', '.join(worker['program'] for worker in config['workers'])}")
    told = time.monotonic()
    for seen in observations(command, silence=6 * config["interval"]):
        late = time.monotonic() - told > SLOW_INTERVALS * config["interval"]
        told = time.monotonic()
        if seen is None or late:
            # Where the observer itself is slow, so may be the answers of workers that are well.
            memory.forget()
            continue
        error = "" if seen["broker"] else seen["error"]
        if bool(error) != bool(away):
            say(f"The broker can't be asked: {error}" if error else "The broker can be asked again")
        away = error
        running = supervisor.running()
        reports = {name: read_alive(counts, name, pid) for name, (pid, _) in running.items()}
        fresh = {name: report for name, report in reports.items() if report and is_fresh(report)}
        for name, reason in judge(seen, config, running, fresh, memory).items():
            if name in busy and busy[name].is_alive():
                continue
            say(f"Restarting {name}, warm: {reason}")
            busy[name] = threading.Thread(target=restart, args=(supervisor, name))
            busy[name].start()


if __name__ == "__main__":
    main()
