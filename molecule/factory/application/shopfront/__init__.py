from celery import Celery, Task
from flask import Flask
from kombu import Queue


def make_celery(flask_app):
    class ContextTask(Task):
        def __call__(self, *args, **kwargs):
            with flask_app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(flask_app.name, task_cls=ContextTask)
    celery_app.conf.update(
        task_routes={"shopfront.tasks.ship": {"queue": "shipping"}, "shopfront.tasks.pay*": {"queue": "payments"}},
        task_default_queue="shopfront",
    )
    celery_app.config_from_object(flask_app.config["CELERY"])
    celery_app.conf.update(
        task_queues=[Queue("shopfront"), Queue("shipping"), Queue("payments")],
        task_time_limit=7200,
        timezone="Europe/Lisbon",
    )
    celery_app.set_default()
    flask_app.extensions["celery"] = celery_app
    return celery_app


def create_app():
    flask_app = Flask(__name__)
    flask_app.config.from_mapping(
        CURRENCY="EUR",
        CELERY={
            "broker_url": "redis://localhost",
            "result_backend": "redis://localhost",
            "imports": ["shopfront.tasks"],
        },
    )
    make_celery(flask_app)
    return flask_app
