"""Refusals of a restore."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._broker_restore import restore_problems

REDIS = {"kind": "redis", "flavor": "valkey", "host": "broker1", "backups": 3, "members": {"broker1": {}}}
RABBITMQ = {**REDIS, "kind": "rabbitmq", "flavor": "rabbitmq"}
EMPTY = {"rc": 0, "stdout": "# Keyspace\n"}
FULL = {"rc": 0, "stdout": "# Keyspace\ndb0:keys=4,expires=0\ndb1:keys=3,expires=3\n"}


def refusals(broker: dict[str, Any], file: str, **given: Any) -> str:
    options: dict[str, Any] = {"found": True, "keyspace": EMPTY if broker["kind"] == "redis" else {}, "replace": False}
    return "\n".join(restore_problems(broker, file, **options | given))


@pytest.mark.parametrize(
    ("broker", "file", "given"),
    [
        (REDIS, "redis.rdb", {}),
        (REDIS, "/srv/redis.rdb", {"keyspace": FULL, "replace": True}),
        (REDIS, "redis.rdb", {"keyspace": {"rc": 1}, "replace": True}),
        (RABBITMQ, "rabbitmq.json", {}),
        ({**RABBITMQ, "members": {"a": {}, "b": {}, "c": {}}}, "rabbitmq.json", {}),
    ],
)
def test_a_backup_can_be_restored(broker: dict[str, Any], file: str, given: dict[str, Any]) -> None:
    assert refusals(broker, file, **given) == ""


@pytest.mark.parametrize(
    ("broker", "file", "given", "error"),
    [
        (RABBITMQ, "", {}, "celery_broker_backup_file: is not set"),
        (RABBITMQ, "backups/x.json", {}, "backups/x.json is a relative path"),
        (RABBITMQ, "x.json", {"found": False}, "x.json does not exist in /var/backups/celery-fleet of broker1"),
        (RABBITMQ, "/srv/x.json", {"found": False}, "/srv/x.json does not exist on this machine"),
        (RABBITMQ, "x.rdb", {}, "x.rdb is no backup of rabbitmq, whose files end with .json"),
        ({**RABBITMQ, "backups": 0}, "x.json", {}, "celery_broker_backups: is 0"),
        (REDIS, "x.rdb", {"keyspace": FULL}, "7 keys of valkey would be replaced"),
        (REDIS, "x.rdb", {"keyspace": {"rc": 1, "stderr": "Could not\nconnect"}}, "(Could not connect)"),
        ({**REDIS, "members": {"a": {}, "b": {}}}, "x.rdb", {"replace": True}, "has a copy of each key on 2 hosts"),
    ],
)
def test_a_backup_that_can_not_be_restored_is_refused(
    broker: dict[str, Any], file: str, given: dict[str, Any], error: str
) -> None:
    assert error in refusals(broker, file, **given)


def test_all_errors_are_reported_at_once() -> None:
    told = restore_problems({**REDIS, "backups": 0}, "/x.json", found=False, keyspace=FULL, replace=False)
    assert len(told) == 4
