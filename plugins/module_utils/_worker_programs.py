"""The Supervisor programs of a host's workers, one for each slot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def worker_programs(
    workers: Iterable[Mapping[str, Any]], render: Callable[[Mapping[str, Any]], str], *, only_handover: bool
) -> list[dict[str, Any]]:
    """Return the options of celery_activate for the programs of workers.

    Args:
        workers: programs of the plan's host.
        render: returns the configuration file of a program, from the worker with the name and argv of the program.
        only_handover: leave config empty for workers with one slot.
    """
    return [
        {
            "name": slot["name"],
            "slot_of": worker["name"],
            "node": slot["expanded_node"],
            "queues": worker["queues"],
            "environment": worker.get("environment", {}),
            "config": render(_program(worker, slot)) if len(worker["slots"]) > 1 or not only_handover else "",
        }
        for worker in workers
        for slot in worker["slots"]
    ]


def _program(worker: Mapping[str, Any], slot: Mapping[str, Any]) -> dict[str, Any]:
    command, *arguments = worker["argv"]
    return {**worker, "name": slot["name"], "argv": [command, f"--hostname={slot['node']}", *arguments]}
