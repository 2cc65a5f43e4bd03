"""The options that each of Celery's worker pools supports.

Source: Celery 5.7's documentation (userguide/workers, userguide/concurrency), checked by running each option with each
pool. A pool ignores other options silently, and --autoscale crashes a worker with the threads pool.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pool:
    """A worker pool and the options that it supports.

    Attributes:
        green: whether its tasks are green threads of one process. SIGQUIT loses them on Redis.
        hard_limit: whether --time-limit ends a task.
        soft_limit: whether --soft-time-limit raises SoftTimeLimitExceeded in a task.
        child_limits: whether --max-memory-per-child and --max-tasks-per-child replace children.
        autoscale: whether --autoscale resizes the pool.
        concurrency: default concurrency; None: the number of processors.
        prefetch_multiplier: default prefetch multiplier.
        drain_factor: a warm shutdown takes up to this many times the longest task. A green pool may start one more task
            for each spawn that was blocked at the signal.
    """

    name: str
    green: bool = False
    hard_limit: bool = False
    soft_limit: bool = False
    child_limits: bool = False
    autoscale: bool = False
    concurrency: int | None = 1
    prefetch_multiplier: int = 1
    drain_factor: int = 1


POOLS = {
    pool.name: pool
    for pool in (
        Pool("prefork", hard_limit=True, soft_limit=True, child_limits=True, autoscale=True, concurrency=None),
        Pool("threads", concurrency=10),
        Pool(
            "gevent",
            green=True,
            hard_limit=True,
            autoscale=True,
            concurrency=100,
            prefetch_multiplier=4,
            drain_factor=2,
        ),
        Pool("eventlet", green=True, autoscale=True, concurrency=100, prefetch_multiplier=4, drain_factor=2),
        Pool("solo"),
    )
}


def pools_that(option: str) -> str:
    """Return the names of the pools that support an option (an attribute of Pool), for a message."""
    return " or ".join(pool.name for pool in POOLS.values() if getattr(pool, option))
