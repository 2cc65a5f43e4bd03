"""Why a backup of the broker can't be restored. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem

#: Directory of the backups on the broker's host.
BACKUPS = "/var/backups/celery-fleet"
_FILE = "celery_broker_backup_file"
_KEYS = re.compile(r"keys=(\d+)")


def restore_problems(
    broker: Mapping[str, Any], file: str, *, found: bool, keyspace: Mapping[str, Any], replace: bool
) -> list[str]:
    """Return all reasons for which a backup can't be restored; empty if it can.

    Args:
        broker: the plan's.
        file: name of a file of the broker's host, or path of one of the controller.
        found: whether there is such a file.
        keyspace: result of the command INFO keyspace; empty for RabbitMQ.
        replace: whether the snapshot may replace what the server holds.
    """
    redis = broker["kind"] == "redis"
    problems = [*_file_problems(broker, file, found=found)]
    if not broker["backups"]:
        what = "is 0, so the broker's host lacks the program that restores a backup"
        problems.append(Problem("celery_broker_backups", what, "Set it to 3 and run site.yml"))
    if redis and len(broker["members"]) > 1:
        what = f"has a copy of each key on {len(broker['members'])} hosts, so no backup can be restored"
        fix = "No backup is needed if one of them fails: see docs/redis-sentinel.md"
        problems.append(Problem(f"the broker on {', '.join(broker['members'])}", what, fix))
    elif redis and not replace and (held := _held(broker, keyspace)):
        problems.append(Problem("celery_broker_restore_replace", held, "Set it to true to replace them"))
    return list(map(str, problems))


def _file_problems(broker: Mapping[str, Any], file: str, *, found: bool) -> list[Problem]:
    host = broker["host"]
    if not file:
        fix = f"Set it to the name of a file in {BACKUPS} of {host}, or to the path of a file on this machine"
        return [Problem(_FILE, "is not set", fix)]
    if "/" in file and not file.startswith("/"):
        fix = f"Set it to an absolute path on this machine, or to the name of a file in {BACKUPS} of {host}"
        return [Problem(_FILE, f"{file} is a relative path", fix)]
    problems = []
    if not found:
        where = "on this machine" if file.startswith("/") else f"in {BACKUPS} of {host}"
        problems.append(Problem(_FILE, f"{file} does not exist {where}", "Correct it"))
    suffix = ".rdb" if broker["kind"] == "redis" else ".json"
    if not file.endswith(suffix):
        what = f"{file} is no backup of {broker['flavor']}, whose files end with {suffix}"
        problems.append(Problem(_FILE, what, "Choose another file"))
    return problems


def _held(broker: Mapping[str, Any], keyspace: Mapping[str, Any]) -> str:
    """Return what of the server a snapshot would replace; empty if it holds nothing."""
    flavor = broker["flavor"]
    if keyspace.get("rc") != 0:
        said = " ".join(f"{keyspace.get('stdout', '')} {keyspace.get('stderr', '')}".split())
        return f"{flavor} does not say how many keys it holds, all of which would be replaced ({said})"
    keys = sum(map(int, _KEYS.findall(str(keyspace["stdout"]))))
    return f"{keys} keys of {flavor} would be replaced, queued tasks and results included" if keys else ""
