"""What each of Celery's worker pools can do.

Source: Celery 5.7's documentation (userguide/workers, userguide/concurrency), checked by running each option with each
pool: an option that a pool ignores is ignored without a word, and --autoscale ends a worker of the threads pool.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pool:
    """A worker pool and the options that it honours.

    Attributes:
        green: its tasks are green threads of one process.
        hard_limit: --time-limit ends a task that takes longer.
        soft_limit: --soft-time-limit raises SoftTimeLimitExceeded in it.
        child_limits: --max-memory-per-child and --max-tasks-per-child replace children.
        autoscale: --autoscale grows and shrinks the pool.
        concurrency: how many tasks at once when the declaration does not say; None: one a processor.
        prefetch_multiplier: messages reserved per slot when the declaration does not say.
        drain_factor: a warm stop takes up to this many times the longest task. Green pools may start one more task
            for each spawn that was blocked when the signal came.
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
    """Return the names of the pools that honour an option (an attribute of Pool), for a message."""
    return " or ".join(pool.name for pool in POOLS.values() if getattr(pool, option))
