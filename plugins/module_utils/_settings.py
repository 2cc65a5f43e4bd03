"""Production defaults for Celery 5.7, each with its reason.

Sources: Celery's documentation (userguide/configuration, userguide/optimizing), and tests of each case with RabbitMQ
3.10 and 4.0. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq_cluster import HEARTBEAT, NET_TICKTIME
from ansible_collections.fleet.celery.plugins.module_utils._tls import client_settings


@dataclass(frozen=True)
class Setting:
    """The value of a Celery setting.

    Attributes:
        reason: reason for the value, rendered as a comment above it.
        firm: whether it overrides the application's value. Otherwise, the application's value overrides it.
        declared: whether celery_settings sets it.
    """

    value: object
    reason: str
    firm: bool = True
    declared: bool = False


def celery_settings(
    *, broker: Mapping[str, Any], app_name: str, default_queue: str, ca: str = ""
) -> dict[str, Setting]:
    """Return the settings that all processes of an application share, producers included.

    Args:
        broker: the plan's broker.
        app_name: name of the application, and of its exchange.
        default_queue: queue of tasks without a route.
        ca: file of the authorities that clients of the broker trust; empty: connections have no TLS.
    """
    return _COMMON | _routing(app_name, default_queue) | _BROKERS[broker["kind"]](broker, ca) | _tls(broker["kind"], ca)


def _routing(app_name: str, default_queue: str) -> dict[str, Setting]:
    return {
        "task_default_queue": Setting(default_queue, "the queue of tasks without a route"),
        "task_default_routing_key": Setting(default_queue, "the routing key of a queue is its name"),
        "task_default_exchange": Setting(app_name, "each application has one exchange"),
        "task_create_missing_queues": Setting(
            False, "a typo in a route fails in the producer, instead of filling a queue that no worker consumes"
        ),
    }


def _tls(kind: str, ca: str) -> dict[str, Setting]:
    """Return the settings of connections, which override those of an application that had another broker."""
    if not ca:
        return {name: Setting(None, "the broker has no TLS") for name in client_settings(kind, ca)}
    reason = "clients verify the broker's certificate and name; with other forms, kombu verifies less, or nothing"
    settings = {name: Setting(options, reason) for name, options in client_settings(kind, ca).items()}
    return settings | {
        "broker_connection_timeout": Setting(15, "on a busy host, a handshake takes more than 4 s", firm=False)
    }


#: How often, and after how many seconds each, sending is tried again: for a minute and a quarter.
_RETRY = {"max_retries": 20, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 5}
#: The same for a process that has no connection to the broker yet, where kombu 5.7 gives up after six seconds.
_CONNECT_RETRY = _RETRY | {"connect_retries_timeout": 90}

_COMMON = {
    "task_serializer": Setting("json", "with pickle, anyone who can publish a message can run code", firm=False),
    "result_serializer": Setting("json", "see task_serializer", firm=False),
    "event_serializer": Setting("json", "see task_serializer", firm=False),
    "accept_content": Setting(["json"], "workers refuse other serializers, such as pickle", firm=False),
    "timezone": Setting("UTC", "all hosts use the same time zone", firm=False),
    "enable_utc": Setting(True, "all hosts use the same time zone", firm=False),
    "task_always_eager": Setting(False, "tasks run in workers, not in the process that sends them"),
    "task_acks_late": Setting(
        True, "a task whose worker dies runs again, so tasks must be idempotent; set acks_late=False on others"
    ),
    "task_reject_on_worker_lost": Setting(
        True, "a task whose child process is killed runs again, up to the delivery limit of a quorum queue"
    ),
    # Celery copies these to each task, and a task's limits override the limits of its worker.
    "task_time_limit": Setting(None, "it would override the time limit of each worker"),
    "task_soft_time_limit": Setting(None, "it would override the soft time limit of each worker"),
    "result_expires": Setting(3600, "results expire after an hour instead of a day", firm=False),
    "worker_prefetch_multiplier": Setting(
        1, "tasks do not wait behind a long one in a worker's prefetch; each worker sets its own"
    ),
    "task_send_sent_event": Setting(True, "no other event contains the queue of a task", firm=False),
    "worker_hijack_root_logger": Setting(False, "the application configures its own logging", firm=False),
    "worker_proc_alive_timeout": Setting(
        30, "on a busy host, a child needs more than Celery's default of 4 s to start", firm=False
    ),
    "broker_connection_retry_on_startup": Setting(True, "a worker that starts before its broker waits for it"),
    "broker_connection_max_retries": Setting(None, "a worker reconnects to its broker without a limit"),
    "broker_pool_limit": Setting(10, "maximum number of a process's connections for publishing", firm=False),
    "task_publish_retry": Setting(True, "publishing survives a restart of the broker"),
    "task_publish_retry_policy": Setting(
        _RETRY,
        "publishing is retried for a minute and a quarter, instead of Celery's default of 0.6 s",
    ),
}

_RABBITMQ = {
    "worker_cancel_long_running_tasks_on_connection_loss": Setting(
        True, "the broker redelivers an unacknowledged task at once; it must not run in two workers at the same time"
    ),
    "broker_heartbeat": Setting(
        10, "the broker redelivers the tasks of a failed host within 20 s instead of two minutes"
    ),
    "broker_transport_options": Setting(
        {"confirm_publish": True, "read_timeout": 15, "write_timeout": 15} | _CONNECT_RETRY,
        "a task is sent once the broker has confirmed it; a connection that does not respond is closed",
    ),
    "broker_channel_error_retry": Setting(
        False, "after a consumer timeout, a worker ends and is restarted, instead of being stuck"
    ),
    "task_queue_max_priority": Setting(None, "celery_queues sets max_priority for each queue"),
    "task_default_queue_type": Setting(
        "quorum", "with classic queues of RabbitMQ 4, tasks with a countdown block a worker"
    ),
    "task_default_exchange_type": Setting("topic", "tasks with a countdown need a topic exchange"),
    "task_create_missing_queue_type": Setting("quorum", "see task_default_queue_type"),
    "task_create_missing_queue_exchange_type": Setting("topic", "see task_default_exchange_type"),
    "worker_detect_quorum_queues": Setting(True, "tasks with a countdown wait in the broker, not in a worker"),
    "control_queue_exclusive": Setting(
        False, "a lost connection keeps the lock on an exclusive queue, and the worker would end when it reconnects"
    ),
    "control_queue_durable": Setting(True, "RabbitMQ 4.3 refuses queues that are neither durable nor exclusive"),
    "event_queue_exclusive": Setting(False, "see control_queue_exclusive"),
    "event_queue_durable": Setting(True, "see control_queue_durable"),
}


def _rabbitmq(broker: Mapping[str, Any], _ca: str) -> dict[str, Setting]:
    if broker.get("hosts", 1) == 1:
        return _RABBITMQ
    return _RABBITMQ | {
        "broker_heartbeat": Setting(
            HEARTBEAT,
            f"two of them are longer than the {NET_TICKTIME * 5 / 4:g} s in which the broker's hosts notice that one "
            "has failed; until then, a worker that starts may wait",
        ),
        "control_queue_durable": Setting(True, "it is a quorum queue, which no host of the broker has alone"),
        "control_queue_expires": Setting(
            120, "a worker that waits for a failed host must not lose the queue before it consumes it, and end"
        ),
    }


def sentinel_options(broker: Mapping[str, Any], ca: str) -> dict[str, Any]:
    """Return the transport options of clients that ask Sentinels. The user and the password are those of the URL.

    Given sentinel_kwargs, redis-py takes no option of the connection to Redis for those to the Sentinels.
    """
    if not (sentinel := broker.get("sentinel")):
        return {}
    options: dict[str, Any] = {"socket_timeout": 5, "socket_connect_timeout": 1.5}
    if ca:
        options |= {"ssl": True, **client_settings("redis", ca)["broker_use_ssl"]}
    return {"master_name": sentinel["master_name"], "sentinel_kwargs": options}


def _redis(broker: Mapping[str, Any], ca: str) -> dict[str, Setting]:
    prefix = broker["key_prefix"]
    sentinel = sentinel_options(broker, ca)
    # kombu waits once it has tried the URL of each Sentinel, and counts each of these attempts.
    urls = len(broker["sentinel"]["addresses"]) if sentinel else 1
    attempts = {"max_retries": _RETRY["max_retries"] * urls}
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
                **_CONNECT_RETRY,
                **attempts,
                **sentinel,
            },
            "a long task does not run twice, fleets may share a broker, a connection that does not respond is closed",
        ),
        "task_publish_retry_policy": replace(_COMMON["task_publish_retry_policy"], value=_RETRY | attempts),
        "task_default_exchange_type": Setting("direct", "the routing key of a queue is its name"),
        "worker_cancel_long_running_tasks_on_connection_loss": Setting(
            False, "no other worker gets the task before the visibility timeout, so it can mostly still be acknowledged"
        ),
        "result_backend_transport_options": Setting(
            {"global_keyprefix": prefix, **sentinel}, "see broker_transport_options"
        ),
        "redis_socket_timeout": Setting(10, "see broker_transport_options"),
        "redis_socket_connect_timeout": Setting(5, "see broker_transport_options"),
        "redis_socket_keepalive": Setting(True, "see broker_transport_options"),
        "redis_retry_on_timeout": Setting(True, "after a connection error, a result is written again"),
    }


_BROKERS: dict[str, Callable[[Mapping[str, Any], str], dict[str, Setting]]] = {"rabbitmq": _rabbitmq, "redis": _redis}
