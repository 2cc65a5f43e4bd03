"""The program that backs up the broker."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[3] / "roles/broker_backup/files/celery_fleet_broker_backup.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("celery_fleet_broker_backup", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_backup_has_no_shovel_of_a_move(program: ModuleType) -> None:
    limits = {"component": "vhost-limits", "name": "limits", "vhost": "shop", "value": {}}
    own = {"component": "shovel", "name": "my own", "vhost": "shop", "value": {}}
    moving = {**own, "name": "celery-fleet.customers", "value": {"src-uri": ["amqp://shop-admin:secret@10.0.0.1"]}}
    definitions = {"users": [], "vhosts": [], "parameters": [limits, moving, own]}
    kept = program.without_shovels(json.dumps(definitions))
    assert json.loads(kept) == {**definitions, "parameters": [limits, own]}


def test_what_is_not_json_is_no_backup(program: ModuleType) -> None:
    with pytest.raises(program.BackupError, match="exports no definitions"):
        program.without_shovels("Error: unable to connect")
