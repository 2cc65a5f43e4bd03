"""Django settings. What differs between machines comes from the environment."""

from __future__ import annotations

import os
import secrets

# Without a key in the environment each process makes its own. The shop signs nothing that outlives one.
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY") or secrets.token_urlsafe(50)
DEBUG = False
ALLOWED_HOSTS: list[str] = []
USE_TZ = True
TIME_ZONE = "UTC"

INSTALLED_APPS = [
    "shop",
    "shop.customers",
    "shop.mailer",
    "shop.video",
    "shop.reports",
]

# The dummy backend composes each message and needs no mail server.
EMAIL_BACKEND = os.environ.get("SHOP_EMAIL_BACKEND", "django.core.mail.backends.dummy.EmailBackend")
DEFAULT_FROM_EMAIL = "orders@shop.example"

# For a developer's machine. On a fleet's host the rendered settings take the place of these.
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "amqp://localhost")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ROUTES = {
    "customers.*": {"queue": "customers"},
    "email.*": {"queue": "email"},
    "video.*": {"queue": "video"},
    "reports.*": {"queue": "reports"},
    "ticks.*": {"queue": "ticks"},
}
