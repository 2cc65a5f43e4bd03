from celery import Celery

app = Celery("peers", include=["t.integration.tasks"])
