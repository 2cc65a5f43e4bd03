import os

from celery import shared_task
from flask import current_app


@shared_task(bind=True)
def ship(self, parcel):
    return [self.request.delivery_info["routing_key"], os.environ["CELERY_APP_RELEASE"], parcel]


@shared_task(bind=True)
def pay_invoice(self, amount):
    return [self.request.delivery_info["routing_key"], os.environ["CELERY_APP_RELEASE"], current_app.config["CURRENCY"]]


@shared_task(bind=True)
def greet(self, name):
    return [self.request.delivery_info["routing_key"], os.environ["CELERY_APP_RELEASE"], name]
