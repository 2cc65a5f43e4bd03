"""What celery_settings may not set, and what its values may not hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem

# Settings that celery_settings must not contain, because the plan sets them, and the variables to set instead.
_DERIVED_SETTINGS = {
    "task_queues": "celery_queues",
    "task_routes": "tasks of celery_queues",
    "task_default_queue": "celery_default_queue",
    "task_time_limit": "time_limit of celery_queues",
    "task_soft_time_limit": "soft_time_limit of celery_queues",
    "task_queue_max_priority": "max_priority of celery_queues",
    "broker_url": "celery_broker and its address and password",
    "broker_use_ssl": "celery_tls",
    "redis_backend_use_ssl": "celery_tls",
}
# Settings that celery_settings must not contain, because the broker's permissions depend on their values.
_FIXED_SETTINGS = {
    "control_exchange",
    "event_exchange",
    "event_queue_prefix",
    "task_create_missing_queues",
    "task_default_exchange",
    "task_default_exchange_type",
    "task_default_routing_key",
}
_SETTING_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PASSWORD_IN_URL = re.compile(r"://[^/\s:@]*:[^/\s@]+@")


def check_settings(overrides: Mapping[str, Any], problems: list[Problem]) -> None:
    """Refuse settings that the plan decides, names that are none of Celery's, and values that are not safe."""
    for name, value in sorted(overrides.items()):
        if name in _DERIVED_SETTINGS:
            problems.append(
                Problem(
                    f"celery_settings.{name}",
                    "is set by the plan",
                    f"Set {_DERIVED_SETTINGS[name]} instead",
                )
            )
        elif name in _FIXED_SETTINGS:
            what = "must keep its default, because the broker's permissions depend on it"
            problems.append(Problem(f"celery_settings.{name}", what, "Remove it"))
        elif not _SETTING_NAME.fullmatch(name):
            fix = f"Rename it to {name.lower()}" if _SETTING_NAME.fullmatch(name.lower()) else "Remove it"
            problems.append(Problem(f"celery_settings.{name}", "is not the name of a Celery setting", fix))
        if _PASSWORD_IN_URL.search(str(value)):
            what = "contains a password, and settings are in a file that every user of a host can read"
            fix = "Set it in celery_app_environment, e.g. CELERY_RESULT_BACKEND"
            problems.append(Problem(f"celery_settings.{name}", what, fix))
    options = overrides.get("broker_transport_options")
    if isinstance(options, Mapping) and "visibility_timeout" in options:
        problems.append(
            Problem(
                "celery_settings.broker_transport_options.visibility_timeout",
                "is set by the plan",
                "Set celery_visibility_timeout instead",
            )
        )
    if str(overrides.get("worker_prefetch_multiplier")) == "0":
        problems.append(
            Problem(
                "celery_settings.worker_prefetch_multiplier",
                "0 lets one worker prefetch the whole queue",
                "Set it to 1 for long tasks, 4 for short ones",
            )
        )
