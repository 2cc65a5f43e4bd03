"""An application with the fleet's loader and settings."""

# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.exceptions import Reject

app = Celery("probe", loader="celery_fleet_runtime.loader:Loader")
app.conf.update(result_backend="rpc://")


@app.task(name="add", ignore_result=False)
def add(left: int, right: int) -> int:
    return left + right


@app.task(name="retry_after", bind=True, ignore_result=False)
def retry_after(self: Any, *countdowns: int) -> str:
    if self.request.retries < len(countdowns):
        raise self.retry(countdown=countdowns[self.request.retries])
    return "retried"


@app.task(name="refused")
def refused() -> None:
    raise Reject("by the task", requeue=False)


@app.task(name="put_back")
def put_back() -> None:
    raise Reject("for another worker", requeue=True)
