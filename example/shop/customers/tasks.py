"""Short tasks about customers."""

# Celery has no types, so `app.task` has none.
# mypy: allow-untyped-decorators
from __future__ import annotations

import uuid

from celery import Task

from shop.celery import app

FAN_OUT_SMALLEST = 10
FAN_OUT_LARGEST = 20


class CustomerServiceUnavailableError(Exception):
    """The customers' service did not answer. Trying again later may help."""


@app.task(
    name="customers.sync",
    bind=True,
    autoretry_for=(CustomerServiceUnavailableError,),
    retry_backoff=1,
    retry_backoff_max=60,
    # Without jitter, all that failed together would come back together.
    retry_jitter=True,
    max_retries=5,
)
def sync(self: Task, customer: int, transient_errors: int = 0) -> int:
    """Fetch one customer from the customers' service.

    Running it again fetches the same state again, so a repeat is harmless.

    Args:
        customer: the customer's number.
        transient_errors: how many first attempts find the service away.

    Raises:
        CustomerServiceUnavailableError: on those attempts. Celery tries again, later each time.
    """
    if self.request.retries < transient_errors:
        raise CustomerServiceUnavailableError(f"customer {customer}, attempt {self.request.retries + 1}")
    return customer


@app.task(name="customers.fan_out", bind=True)
def fan_out(self: Task, first_customer: int, count: int = FAN_OUT_SMALLEST) -> list[str]:
    """Send one `customers.sync` for each of `count` customers and return the ids of those tasks.

    It never waits for them: a task that waits for tasks holds a process and can block its own queue.

    Args:
        first_customer: the first customer's number.
        count: how many customers, from 10 to 20.

    Raises:
        ValueError: `count` is outside that range.
    """
    if not FAN_OUT_SMALLEST <= count <= FAN_OUT_LARGEST:
        raise ValueError(f"count is {count}, must be from {FAN_OUT_SMALLEST} to {FAN_OUT_LARGEST}")
    parent = uuid.UUID(self.request.id)
    ids = []
    for customer in range(first_customer, first_customer + count):
        # The ids follow from the parent's. Should the parent be run twice, a child that was sent twice is
        # seen to be the same one.
        task_id = str(uuid.uuid5(parent, str(customer)))
        sync.apply_async((customer,), task_id=task_id)
        ids.append(task_id)
    return ids


@app.task(name="customers.noop")
def noop() -> None:
    """Do nothing, to measure what a task costs by itself."""


@app.task(name="customers.fail")
def fail(reason: str = "as asked") -> None:
    """Fail for good, as a task with a bug does.

    Raises:
        RuntimeError: always. No retry helps, so none is made.
    """
    raise RuntimeError(reason)
