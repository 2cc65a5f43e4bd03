"""Tells of tasks as the processes of a program do: tell.py PROCESSES TASKS.

Prints how many the journal did not take, of all that were ever told on this host.
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

from celery_fleet_runtime.counts import read_counts  # type: ignore[import-not-found]
from celery_fleet_runtime.report import Report, Run  # type: ignore[import-not-found]

COUNTS = Path("/var/lib/shop/counts")
ENVIRONMENT = {
    "CELERY_FLEET_COUNTS": str(COUNTS),
    "CELERY_FLEET_JOURNAL": "/run/systemd/journal.shop/socket",
    "SUPERVISOR_PROCESS_NAME": "shop-email",
    "CELERY_APP_RELEASE": "1.0.0",
}


def tell(tasks: int) -> None:
    report = Report(ENVIRONMENT)
    for number in range(tasks):
        name = "customers.sync" if number % 2 else "mailer.send"
        # Longer than what journalctl shows of a field unless it is told to.
        failed = number % 100 == 1
        run = Run("email", name, 0.0, 0.5, exception="KeyError: 'ü'" + "ü" * 900 if failed else "")
        report._log(str(uuid.uuid4()), run, "FAILURE" if failed else "SUCCESS", 0.25)


def main() -> None:
    processes, tasks = int(sys.argv[1]), int(sys.argv[2])
    children = []
    for _ in range(processes):
        child = os.fork()
        if not child:
            tell(tasks)
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    print(sum(counts.untold for counts in read_counts(COUNTS).values()))


if __name__ == "__main__":
    main()
