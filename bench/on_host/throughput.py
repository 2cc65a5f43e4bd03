"""Time no-op tasks through a broker: send all, start a worker, and time its first to its last task.

What to do comes as JSON on standard input; a JSON object a round goes to standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import task_postrun, task_prerun
from kombu import pools

from bench.on_host.brokers import SERVERS, application, wait_until

APP = "bench.on_host.throughput:app"
TASK = "customers.noop"
CONCURRENCY = 2


def worker_application() -> Celery:
    """Return the application of the worker, configured by its environment."""
    options = json.loads(os.environ["BENCH_OPTIONS"])
    made = application(options["settings"], options["queue"], options["url"])

    @made.task(name=TASK)  # type: ignore[untyped-decorator] # Celery has no types
    def noop() -> None:
        """Do nothing."""

    # The time of each begin and end, in files of each child's own.
    @task_prerun.connect(weak=False)  # type: ignore[untyped-decorator]
    def begun(**_: object) -> None:
        note("begun")

    @task_postrun.connect(weak=False)  # type: ignore[untyped-decorator]
    def ended(**_: object) -> None:
        note("ended")

    def note(what: str) -> None:
        with Path(options["directory"], f"{what}-{os.getpid()}").open("a", encoding="ascii") as file:
            file.write(f"{time.time()}\n")

    return made


def times(directory: Path, what: str) -> list[float]:
    return [float(line) for path in directory.glob(f"{what}-*") for line in path.read_text("ascii").split()]


def measure(options: dict[str, Any], tasks: int) -> dict[str, Any]:
    """Return the seconds from the first task's start to the last one's end."""
    with SERVERS[options["kind"]](options) as broker, tempfile.TemporaryDirectory() as directory:
        sender = application(options["settings"], options["queue"], broker.url)
        broker.declare(sender)
        for _ in range(tasks):
            sender.send_task(TASK, queue=options["queue"]["name"])
        given = {key: options[key] for key in ("settings", "queue")} | {"url": broker.url, "directory": directory}
        arguments = [f"--concurrency={CONCURRENCY}", f"--queues={options['queue']['name']}", "--loglevel=WARNING"]
        arguments += [
            "--hostname=bench@%h",
            "-Ofair",
            "--prefetch-multiplier=1",
            "--without-gossip",
            "--without-mingle",
        ]
        log = Path(directory, "worker.log")
        with log.open("w", encoding="utf-8") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", APP, "worker", "--task-events", *arguments],
                env=os.environ | {"BENCH_OPTIONS": json.dumps(given), "C_FORCE_ROOT": "1"},
                stdout=output,
                stderr=output,
            )
        try:
            wait_until(lambda: len(times(Path(directory), "ended")) >= tasks, f"{tasks} tasks are done")
        except TimeoutError:
            print(log.read_text(encoding="utf-8"), file=sys.stderr)
            raise
        finally:
            worker.terminate()
            worker.wait()
        ended = times(Path(directory), "ended")
        if len(ended) != tasks:
            raise RuntimeError(f"{len(ended)} tasks ended instead of {tasks}")
        pools.reset()  # type: ignore[no-untyped-call]
        return {"version": broker.version, "seconds": max(ended) - min(times(Path(directory), "begun"))}


def main() -> None:
    options = json.load(sys.stdin)
    print(json.dumps(measure(options, options["tasks"])), flush=True)


if __name__ == "__main__":
    main()
elif "BENCH_OPTIONS" in os.environ:
    app = worker_application()
