from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
os.environ.pop("CELERY_LOADER", None)
# Publishing goes into this process, to nobody.
os.environ["CELERY_BROKER_URL"] = "memory://"

import django
import pytest

django.setup()

from shop.celery import app
from shop.ledger.__main__ import read


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """Give each test a ledger of its own, and a function to read it."""
    monkeypatch.setenv("SHOP_LEDGER_DIR", str(tmp_path))
    return lambda: [json.loads(line) for line in read([tmp_path])]


@pytest.fixture
def eager() -> Iterator[None]:
    """Run tasks where they are sent, and let their errors stay in their results."""
    app.conf.task_always_eager = True
    app.conf.task_eager_propagates = False
    yield
    app.conf.task_always_eager = False
