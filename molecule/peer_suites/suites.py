"""The suites that run on each broker: which of their tests, and which of those not, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """Tests of a project, as its sdist has them.

    Attributes:
        root: the directory that they are in, below the application's.
        tests: files and parts of them, in their order.
        least: how many of them pass.
        deselected: those that do not run, with the reason. A name stands for all that it begins.
        setup: what a shell does before. There, $url is the broker's URL without its scheme and database.
        options: of pytest.
    """

    root: str
    tests: tuple[str, ...]
    least: int
    deselected: Mapping[str, str]
    setup: str
    options: tuple[str, ...] = ()


_INTEGRATION = "t/integration"
_CANVAS = f"{_INTEGRATION}/test_canvas.py"
_INSPECT = f"{_INTEGRATION}/test_inspect.py"
_TASKS = f"{_INTEGRATION}/test_tasks.py"
_WORKER = f"{_INTEGRATION}/test_worker.py"

_TOPOLOGY = "expects Celery's own exchange, and a task that is acknowledged before it runs"
_ENVIRONMENT = "sets another result backend, but that of the environment applies"
_UNRESTRICTED = "fails with a user who may do everything and Celery's own settings, too"
_SLOW = "takes more than 20 s, and uses nothing of the broker that others do not"
_OTHER_REDIS = "asks the Redis beside the broker for channels of the result backend"
_OWN_COMMAND = "looks at keys as the application's user, by a command that Celery and kombu do not use"
_NO_PASSWORD = "opens a connection without user and password"

# The other tests of test_worker.py are about Django, or want a broker that is not there.
_CELERY_TESTS = (
    _INSPECT,
    _TASKS,
    f"{_INTEGRATION}/test_group_chains.py",
    _CANVAS,
    f"{_WORKER}::test_concurrency_auto_sizes_prefork_pool",
    f"{_WORKER}::test_pidbox_reset_after_repeated_control_errors",
)
_CELERY_DESELECTED = {
    f"{_INSPECT}::test_Inspect::test_active": _TOPOLOGY,  # and test_active_queues
    f"{_INSPECT}::test_Inspect::test_query_task": _TOPOLOGY,
    f"{_INSPECT}::test_Inspect::test_scheduled": _TOPOLOGY,
    f"{_INSPECT}::test_Inspect::test_report_with_multiserver_result_backend": _ENVIRONMENT,
    f"{_TASKS}::test_tasks::test_task_sent_event_respects_publish_retry_limit": (
        "sets task_publish_retry_policy, but the fleet's applies"
    ),
    f"{_TASKS}::test_trace_log_arguments": _UNRESTRICTED,
    f"{_TASKS}::test_task_replacement::test_replaced_task_nesting_level_0": (
        "clears what the worker noted, if the task comes before its sender goes on"
    ),
    f"{_TASKS}::test_tasks::test_retry": _SLOW,
    f"{_TASKS}::test_tasks::test_revoke_keeps_state_of_task_started_elsewhere": _SLOW,
    f"{_CANVAS}::test_chord::test_chord_on_error": _UNRESTRICTED,
    f"{_CANVAS}::test_chord::test_mutable_errback_called_by_chord_from_group_fail_multiple_on_body_failure": (
        "waits for the first of 42 tasks and expects the others to be done by then"
    ),
    f"{_CANVAS}::test_chord::test_error_propagates_from_chord": _SLOW,
    f"{_CANVAS}::test_chord::test_nested_chord_header_link_error": _SLOW,
    f"{_CANVAS}::test_chord::test_disabling_flag_allow_error_cb_on_chord_header": _SLOW,
    f"{_CANVAS}::test_chord::test_enabling_flag_allow_error_cb_on_chord_header": _SLOW,
    f"{_CANVAS}::test_chord::test_flag_allow_error_cb_on_chord_header_on_upgraded_chord": _SLOW,
    f"{_CANVAS}::test_chord::test_generator": _SLOW,
    f"{_CANVAS}::test_chord::test_large_header": _SLOW,
    f"{_CANVAS}::test_chord::test_chain_to_a_chord_with_large_header": _SLOW,
}
_REDIS_BACKEND = f"{_INTEGRATION}/test_redis_backend.py"
_REDIS_DESELECTED = {
    f"{_REDIS_BACKEND}::test_decode_responses_disables_compression": _ENVIRONMENT,
    f"{_REDIS_BACKEND}::test_failure_expires": _OWN_COMMAND,
    f"{_REDIS_BACKEND}::test_chord_expires": _OWN_COMMAND,
    f"{_REDIS_BACKEND}::test_chord_part_return_records_each_header_task_once": _OWN_COMMAND,
    f"{_TASKS}::test_task_redis_result_backend::test_asyncresult_forget_cancels_subscription": _OTHER_REDIS,
    f"{_TASKS}::test_task_redis_result_backend::test_asyncresult_get_cancels_subscription": _OTHER_REDIS,
}
_CELERY_SETUP = "export TEST_BROKER=$CELERY_BROKER_URL TEST_BACKEND=$CELERY_RESULT_BACKEND"
_CELERY_OPTIONS = ("-p", "celery.contrib.pytest")

_KOMBU_REDIS = f"{_INTEGRATION}/test_redis.py"
_KOMBU_BRPOP = f"{_INTEGRATION}/test_redis_brpop_qos.py"
_KOMBU_REDIS_DESELECTED = {
    f"{_KOMBU_REDIS}::test_failed_health_check_raises_connection_error": _OWN_COMMAND,
    f"{_KOMBU_REDIS}::test_RedisBrpopHealthCheck": _NO_PASSWORD,
    f"{_KOMBU_REDIS}::test_SentinelManagerClose::test_disconnect_pools_closes_both_managers": _NO_PASSWORD,
    f"{_KOMBU_BRPOP}::test_hub_pauses_pending_brpop_until_ack": _OWN_COMMAND,
    f"{_KOMBU_BRPOP}::test_drain_events_resumes_pending_brpop_without_resending": _OWN_COMMAND,
}
# The suite takes a host and a port, and neither user nor vhost.
_KOMBU_SETUP = (
    "export RABBITMQ_HOST=${url%:*} RABBITMQ_5672_TCP=${url##*:} REDIS_HOST=${url%:*} REDIS_6379_TCP=${url##*:}"
)

SUITES: dict[str, dict[str, Suite]] = {
    "rabbitmq": {
        "celery": Suite("", _CELERY_TESTS, 297, _CELERY_DESELECTED, _CELERY_SETUP, _CELERY_OPTIONS),
        "kombu": Suite("suites/kombu", (f"{_INTEGRATION}/test_py_amqp.py",), 51, {}, _KOMBU_SETUP),
    },
    "redis": {
        "celery": Suite(
            "",
            # First, since it counts the channels that the others leave open.
            (_REDIS_BACKEND, *_CELERY_TESTS),
            297,
            _CELERY_DESELECTED | _REDIS_DESELECTED,
            _CELERY_SETUP,
            _CELERY_OPTIONS,
        ),
        "kombu": Suite("suites/kombu", (_KOMBU_REDIS, _KOMBU_BRPOP), 118, _KOMBU_REDIS_DESELECTED, _KOMBU_SETUP),
    },
}
