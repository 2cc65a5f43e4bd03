"""Production defaults for Celery 5.7, each with its reason.

Sources: Celery's documentation (userguide/configuration, userguide/optimizing), and runs of each case against RabbitMQ
3.10 and 4.0. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A value of a Celery setting.

    Attributes:
        reason: why it is the default here.
        firm: whether it applies whatever the application sets. Otherwise, it applies where that sets nothing.
        declared: whether it is one of celery_settings.
    """

    value: object
    reason: str
    firm: bool = True
    declared: bool = False


def celery_settings(*, broker: Mapping[str, Any], app_name: str, default_queue: str) -> dict[str, Setting]:
    """Return the settings that all of an application's processes share, senders included.

    Args:
        broker: the plan's broker.
        app_name: also names the exchange.
        default_queue: takes the tasks that no route names.
    """
    return _COMMON | _routing(app_name, default_queue) | _BROKERS[broker["kind"]](broker)


def _routing(app_name: str, default_queue: str) -> dict[str, Setting]:
    return {
        "task_default_queue": Setting(default_queue, "for tasks that no route names"),
        "task_default_routing_key": Setting(default_queue, "a queue is bound by its own name"),
        "task_default_exchange": Setting(app_name, "one exchange an application"),
        "task_create_missing_queues": Setting(
            False, "a typo in a route fails where it is sent, instead of filling a queue that nobody consumes"
        ),
    }


_COMMON = {
    "task_serializer": Setting("json", "pickle lets whoever can publish run code", firm=False),
    "result_serializer": Setting("json", "as above", firm=False),
    "event_serializer": Setting("json", "as above", firm=False),
    "accept_content": Setting(["json"], "anything else is refused", firm=False),
    "timezone": Setting("UTC", "one clock for all hosts", firm=False),
    "enable_utc": Setting(True, "one clock for all hosts", firm=False),
    "task_always_eager": Setting(False, "a fleet's tasks run in its workers, not where they are sent"),
    "task_acks_late": Setting(
        True, "a task whose worker dies runs again; so tasks must bear to run twice. Early: task_acks_late=False on it"
    ),
    "task_reject_on_worker_lost": Setting(
        True, "also where only its child process was killed; the delivery limit ends a task that kills each time"
    ),
    # Celery copies them to each task, whose own limits go before those of the worker that runs it.
    "task_time_limit": Setting(None, "set, it would replace the limit of each worker"),
    "task_soft_time_limit": Setting(None, "as above"),
    "result_expires": Setting(3600, "an unread result does not stay for a day", firm=False),
    "worker_prefetch_multiplier": Setting(1, "no long task holds up others behind it; each worker sets its own"),
    "task_send_sent_event": Setting(True, "only this event names the queue", firm=False),
    "worker_hijack_root_logger": Setting(False, "the application's own logging stays", firm=False),
    "worker_proc_alive_timeout": Setting(
        30, "a child takes more than Celery's 4 s to start on a busy host", firm=False
    ),
    "broker_connection_retry_on_startup": Setting(True, "a worker that starts before its broker waits for it"),
    "broker_connection_max_retries": Setting(None, "a worker never gives up on its broker"),
    "broker_pool_limit": Setting(10, "connections that a process keeps for sending", firm=False),
    "task_publish_retry": Setting(True, "sending survives a restart of the broker"),
    "task_publish_retry_policy": Setting(
        {"max_retries": 20, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 5},
        "a minute and a half; Celery's own gives up after 0.6 s",
    ),
}

_RABBITMQ = {
    "worker_cancel_long_running_tasks_on_connection_loss": Setting(
        True, "the broker gives an unacknowledged task to another worker at once; it must not run in both"
    ),
    "broker_heartbeat": Setting(
        10, "a host that is gone is noticed, and its tasks are given to others, in 20 s instead of two minutes"
    ),
    "broker_transport_options": Setting(
        {"confirm_publish": True, "read_timeout": 15, "write_timeout": 15},
        "a task counts as sent once the broker has it; a connection that went silent is given up",
    ),
    "broker_channel_error_retry": Setting(False, "a worker whose message timed out ends and is restarted, not stuck"),
    "task_queue_max_priority": Setting(None, "each queue has its own max_priority, or none"),
    "task_default_queue_type": Setting("quorum", "classic queues of RabbitMQ 4 block a worker behind tasks for later"),
    "task_default_exchange_type": Setting("topic", "tasks for later need it"),
    "task_create_missing_queue_type": Setting("quorum", "as above"),
    "task_create_missing_queue_exchange_type": Setting("topic", "as above"),
    "worker_detect_quorum_queues": Setting(True, "tasks for later wait in the broker, not in a worker"),
    "control_queue_exclusive": Setting(
        False, "an exclusive one is locked by the connection that broke, and the worker ends when it comes back"
    ),
    "control_queue_durable": Setting(True, "RabbitMQ 4.3 refuses queues that are neither durable nor exclusive"),
    "event_queue_exclusive": Setting(False, "as for the control queue"),
    "event_queue_durable": Setting(True, "as for the control queue"),
}


def _rabbitmq(_broker: Mapping[str, Any]) -> dict[str, Setting]:
    return _RABBITMQ


def _redis(broker: Mapping[str, Any]) -> dict[str, Setting]:
    prefix = broker["key_prefix"]
    return {
        "broker_transport_options": Setting(
            {
                "visibility_timeout": broker["visibility_timeout"],
                "global_keyprefix": prefix,
                "queue_order_strategy": "priority",
                "socket_timeout": 10,
                "socket_connect_timeout": 5,
                "socket_keepalive": True,
                "health_check_interval": 10,
            },
            "a long task does not run twice, fleets may share a broker, and a connection that went silent is given up",
        ),
        "task_default_exchange_type": Setting("direct", "a queue is bound by its own name"),
        "worker_cancel_long_running_tasks_on_connection_loss": Setting(
            False, "the task is nobody else's until the visibility timeout, and its end is mostly still acknowledged"
        ),
        "result_backend_transport_options": Setting({"global_keyprefix": prefix}, "as for the broker"),
        "redis_socket_timeout": Setting(10, "as for the broker"),
        "redis_socket_connect_timeout": Setting(5, "as for the broker"),
        "redis_socket_keepalive": Setting(True, "as for the broker"),
        "redis_retry_on_timeout": Setting(True, "a result is written once more after a connection broke"),
    }


_BROKERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Setting]]] = {"rabbitmq": _rabbitmq, "redis": _redis}
