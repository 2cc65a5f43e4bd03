"""Run a round on a worker's host: send no-op tasks, start a worker, and print the time of its first to its last task.

The broker's URL comes on standard input; which settings, how many tasks, and options of the worker, are the arguments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 300


def ends(ledger: Path) -> list[dict[str, str]]:
    """Return the ledger's lines of tasks that were started or done."""
    lines = (line for path in ledger.glob("*.jsonl") for line in path.read_text(encoding="utf-8").splitlines())
    return [entry for entry in map(json.loads, lines) if entry["event"] in ("started", "done")]


def wait_for(count: int, ledger: Path) -> list[dict[str, str]]:
    """Wait until this number of tasks is done.

    Raises:
        TimeoutError: they are not.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        lines = ends(ledger)
        if sum(line["event"] == "done" for line in lines) == count:
            return lines
        time.sleep(0.5)
    raise TimeoutError(f"{count} tasks are not done after {TIMEOUT_SECONDS} s")


def declare(app: Any, name: str) -> None:  # noqa: ANN401 - Celery has no types
    """Declare a queue and the exchange of events, which the fleet has declared for its own vhost only."""
    from celery.events.event import event_exchange  # noqa: PLC0415 - reads the environment

    queue = app.amqp.queues[name]
    with app.connection_for_write() as connection:
        for entity in (event_exchange, queue.exchange, queue):
            entity.no_declare = False
            entity(connection.default_channel).declare()


def main() -> None:
    settings, tasks, options = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    os.environ["CELERY_BROKER_URL"] = sys.stdin.read().strip()
    if settings == "defaults":
        del os.environ["CELERY_LOADER"]
        # Celery's default is what the system trusts.
        os.environ["SSL_CERT_FILE"] = "/etc/celery-fleet/tls/ca.crt"
    with tempfile.TemporaryDirectory() as directory:
        ledger = Path(directory)
        os.environ["SHOP_LEDGER_DIR"] = directory
        from shop.celery import app  # noqa: PLC0415 - reads what is set above

        queue = "customers" if settings == "rendered" else "celery"
        if settings == "rendered":
            declare(app, queue)
        command = ["celery", "-A", "shop.celery:app", "worker", "--concurrency=2", f"--queues={queue}", *options]
        for _ in range(tasks):
            app.send_task("customers.noop", queue=queue)
        log = ledger / "worker.log"
        with log.open("w", encoding="utf-8") as output:
            worker = subprocess.Popen(
                [*command, f"--hostname=bench-{settings}@%h", "--loglevel=WARNING"], stdout=output, stderr=output
            )
        try:
            lines = wait_for(tasks, ledger)
        except TimeoutError:
            print(log.read_text(encoding="utf-8"), file=sys.stderr)
            raise
        finally:
            worker.terminate()
            worker.wait()
        times = sorted(datetime.fromisoformat(line["time"]) for line in lines)
        print(json.dumps({"tasks": tasks, "seconds": (times[-1] - times[0]).total_seconds()}))


if __name__ == "__main__":
    main()
