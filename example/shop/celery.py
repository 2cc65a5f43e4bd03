"""The Celery application: `celery -A shop.celery:app worker`.

Tasks import `app` from here, so that whoever imports a task (a view, a management command, a shell)
publishes it through this application and its settings.
"""

from __future__ import annotations

import os

from celery import Celery

from shop import ledger

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")

# Set on the application itself: the schedule belongs to the project, whichever settings were loaded above.
app.conf.beat_schedule = {
    "heartbeat": {
        "task": "ticks.heartbeat",
        "schedule": 15.0,
        # A heartbeat that waited this long says nothing any more: drop it instead of running a backlog.
        "options": {"expires": 60},
    },
}
app.autodiscover_tasks()
ledger.connect()
