import os
from pathlib import Path

from .celery import app


def note(task, result):
    line = f"{task.request.id} {task.name} {task.request.delivery_info['routing_key']} {os.environ['CELERY_APP_RELEASE']}\n"
    with (Path(os.environ["CELERY_APP_STATE_DIR"]) / "ledger").open("a") as file:
        file.write(line)
    return result


@app.task(bind=True)
def add(self, x, y):
    return note(self, x + y)


@app.task(bind=True)
def mul(self, x, y):
    return note(self, x * y)


@app.task(bind=True)
def xsum(self, numbers):
    return note(self, sum(numbers))
