"""Restart stuck workers of this host: workers that run, but receive no tasks. Log the reason of each warm restart.

A worker may lose its consumers after an outage of its broker (celery/celery#8030, #8091, #8990, #10205). Workers write
heartbeats to files, and observe polls the depths of queues as the application's user. This process evaluates
both, and connects to Supervisor only.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..alive import Alive, is_fresh, read_alive
from . import observe
from .supervisor import SocketServer, SupervisorError

# As long as a release waits for a worker to become ready.
START_SECONDS = 180.0
MOST_DOUBLINGS = 6
SLOW_INTERVALS = 2.5
STOP_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Sample:
    """A sample of a worker's state.

    Attributes:
        at: seconds of the monotonic clock.
        pid: process ID.
        answered: whether its heartbeat is fresh. Otherwise, done, active and held are unknown.
        done: tasks that were received since its start.
        active: running tasks.
        held: tasks that were received and not started, such as under a rate limit.
        waiting: messages in the queues that it consumes.
    """

    at: float
    pid: int
    answered: bool
    done: int = 0
    active: int = 0
    held: int = 0
    waiting: int = 0


def stuck(samples: list[Sample], patience: float) -> str:
    """Return why a worker must be restarted; an empty text if it is healthy.

    Args:
        samples: samples in order of time, all since the last outage of the broker.
        patience: seconds for which a worker must be stuck.
    """
    if not samples or samples[-1].at - samples[0].at < patience or len({sample.pid for sample in samples}) > 1:
        return ""
    last = samples[-1]
    if not any(sample.answered for sample in samples):
        return f"it has not answered for {last.at - samples[0].at:.0f} s"
    idle = all(sample.answered and not (sample.active or sample.held) and sample.waiting for sample in samples)
    if idle and len({sample.done for sample in samples}) == 1:
        return (
            f"it has received no task for {last.at - samples[0].at:.0f} s, while {last.waiting} messages wait in its "
            "queues"
        )
    return ""


class History:
    """The recent samples of each worker, and the number of its restarts without effect."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._samples: dict[str, list[Sample]] = {}
        self._restarts: dict[str, int] = {}
        self._answered: dict[str, int] = {}

    def has_answered(self, name: str, pid: int, *, now: bool) -> bool:
        """Return whether a worker's process has ever had a fresh heartbeat.

        Args:
            now: whether it has one now.
        """
        if now:
            self._answered[name] = pid
        return self._answered.get(name) == pid

    def clear(self) -> None:
        """Remove all samples after a gap in the observations."""
        self._samples.clear()

    def add(self, name: str, sample: Sample) -> str:
        """Add a sample. Return why the worker must be restarted, or an empty text."""
        samples = [*self._samples.get(name, []), sample]
        if sample.done:
            self._restarts.pop(name, None)
        # Back off: what one restart did not fix, the next one is unlikely to fix.
        restarts = self._restarts.get(name, 0)
        patience = self._patience * 2 ** min(restarts, MOST_DOUBLINGS)
        # Keep one sample more, so that the samples span the patience.
        while len(samples) > 2 and sample.at - samples[1].at >= patience:  # noqa: PLR2004
            samples.pop(0)
        reason = stuck(samples, patience)
        self._samples[name] = [] if reason else samples
        if reason:
            self._restarts[name] = restarts + 1
        return reason


def running(socket: str) -> dict[str, tuple[int, float]]:
    """Return process ID and uptime in seconds of each program in the state RUNNING."""
    now = time.time()
    # A connection of its own each time, as supervisord may have been restarted.
    processes = SocketServer(socket).processes().values()
    return {each.name: (each.pid, now - each.started) for each in processes if each.state == "RUNNING"}


def log(text: str) -> None:
    """Write a line to the journal."""
    print(text, flush=True)


def restart(socket: str, name: str) -> None:
    """Restart a program warm, and log the outcome."""
    server = SocketServer(socket)
    try:
        server.stop(name)
        while not server.processes()[name].stopped:
            time.sleep(STOP_POLL_SECONDS)
        server.start(name)
    except SupervisorError as error:
        log(f"Restart of {name} failed: {error}")
    else:
        log(f"Restarted {name}")


def report_broker(directory: Path, *, reachable: bool) -> None:
    """Write for the exporter whether this host reaches the broker. Ignore disk errors: the next poll follows."""
    temporary = directory / "broker.part"
    with contextlib.suppress(OSError):
        temporary.write_text(str(int(reachable)), encoding="utf-8")
        temporary.replace(directory / "broker")


def judge(
    seen: dict[str, Any],
    config: dict[str, Any],
    programs: dict[str, tuple[int, float]],
    reports: dict[str, Alive],
    history: History,
) -> dict[str, str]:
    """Return the programs to restart, each with its reason.

    Args:
        seen: an observation.
        config: the watchdog's configuration, with the workers of this host.
        programs: process ID and uptime of each program.
        reports: fresh heartbeats by program.
    """
    if not seen["broker"]:
        history.clear()
        return {}
    reasons = {}
    for worker in config["workers"]:
        pid, life = programs.get(worker["program"], (0, 0.0))
        report = reports.get(worker["program"])
        # A large application needs a long time to start.
        started = history.has_answered(worker["program"], pid, now=bool(report))
        if not pid or life < (config["patience"] if started else max(config["patience"], START_SECONDS)):
            continue
        # Remote control may have cancelled the consumer of a queue.
        consumed = report.queues if report else worker["queues"]
        waiting = sum(seen["waiting"].get(name, 0) for name in worker["queues"] if name in consumed)
        done, active, held = (report.done, report.active, report.held) if report else (0, 0, 0)
        sample = Sample(time.monotonic(), pid, bool(report), done, active, held, waiting)
        if reason := history.add(worker["program"], sample):
            reasons[worker["program"]] = reason
    return reasons


def observations(command: list[str], silence: float) -> Any:  # noqa: ANN401 - JSON contains any type
    """Yield the observer's observations, and None before each restart of the observer.

    Args:
        command: the observer's argument list.
        silence: seconds without output after which the observer is restarted.
    """
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
                    # Skip output of the application.
                    if line.startswith(observe.MARK):
                        yield json.loads(line.removeprefix(observe.MARK))
            except (queue.Empty, ValueError):
                pass
            finally:
                process.kill()
        yield None
        time.sleep(1)


def main() -> None:
    path = sys.argv[1]
    # By an exception, so that the observer is killed, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    socket = config["socket"]
    history = History(config["patience"])
    counts = Path(config["counts"])
    runtime = Path(os.environ["RUNTIME_DIRECTORY"])
    user = config["user"]
    # Not runuser, which would remain as a parent process and not pass on signals.
    command = [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--init-groups",
        f"{config['bin']}/celery_run",
        *("python", "-m", observe.__name__, config["app"], path),
    ]
    last_error = ""
    busy: dict[str, threading.Thread] = {}
    log(f"Watching {', '.join(worker['program'] for worker in config['workers'])}")
    previous = time.monotonic()
    for seen in observations(command, silence=6 * config["interval"]):
        late = time.monotonic() - previous > SLOW_INTERVALS * config["interval"]
        previous = time.monotonic()
        if seen is not None:
            report_broker(runtime, reachable=seen["broker"])
        if seen is None or late:
            # If the observer is slow, heartbeats of healthy workers may be late, too.
            history.clear()
            continue
        error = "" if seen["broker"] else seen["error"]
        if bool(error) != bool(last_error):
            log(f"The broker is unavailable: {error}" if error else "The broker is available again")
        last_error = error
        programs = running(socket)
        reports = {name: read_alive(counts, name, pid) for name, (pid, _) in programs.items()}
        fresh = {name: report for name, report in reports.items() if report and is_fresh(report)}
        for name, reason in judge(seen, config, programs, fresh, history).items():
            if name in busy and busy[name].is_alive():
                continue
            log(f"Restarting {name}, warm: {reason}")
            busy[name] = threading.Thread(target=restart, args=(socket, name))
            busy[name].start()


if __name__ == "__main__":
    main()
