from django.db import models


class Widget(models.Model):
    name = models.CharField(max_length=140)


class Run(models.Model):
    """What ran, on which queue and release."""

    task = models.CharField(max_length=140)
    uuid = models.CharField(max_length=40)
    queue = models.CharField(max_length=140)
    release = models.CharField(max_length=140)
    at = models.DateTimeField(auto_now_add=True)
