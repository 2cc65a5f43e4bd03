"""The program that backs up the broker."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
from program import load


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return load("roles/broker_backup/files/celery_fleet_broker_backup.py")


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
