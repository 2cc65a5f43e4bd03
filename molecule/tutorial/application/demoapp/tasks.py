import os

from celery import shared_task
from django.template.loader import render_to_string

from demoapp.models import Run, Widget


def note(task):
    queue = task.request.delivery_info["routing_key"]
    release = os.environ.get("CELERY_APP_RELEASE", "")
    Run.objects.create(task=task.name, uuid=task.request.id, queue=queue, release=release)


@shared_task(bind=True)
def add(self, x, y):
    note(self)
    return x + y


@shared_task(bind=True)
def count_widgets(self):
    note(self)
    return Widget.objects.count()


@shared_task(bind=True)
def rename_widget(self, widget_id, name):
    note(self)
    Widget.objects.filter(id=widget_id).update(name=name)


@shared_task(bind=True)
def write_mail(self, widget_id):
    note(self)
    widget = Widget.objects.get(id=widget_id)
    Widget.objects.create(name=render_to_string("mail.txt", {"name": widget.name}))
