"""The application of the worker that bench/monitoring.py times.

It has a fleet's settings, a task that does nothing, and reports where its environment asks for them.
"""

from __future__ import annotations

import json
import os

from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime import report
from celery import Celery

from bench.on_host.brokers import application

APP = "bench.monitoring_worker:app"
TASK = "customers.noop"


def worker_application() -> Celery:
    """Return the application of the worker, configured by its environment."""
    options = json.loads(os.environ["BENCH_OPTIONS"])
    made = application(options["settings"], options["queue"], options["url"])
    # As the fleet's settings do.
    report.install()

    @made.task(name=TASK)  # type: ignore[untyped-decorator] # Celery has no types
    def noop() -> None:
        """Do nothing."""

    return made


if "BENCH_OPTIONS" in os.environ:
    app = worker_application()
