"""Unknown variables of an inventory whose names look like the collection's."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem

PREFIX = "celery_"
_OF_ROLES = """
    celery_alerts celery_allow_untested_platforms celery_app_activate celery_app_artifact_dir
    celery_app_broker_url celery_app_child_caps celery_app_environment celery_app_hooks
    celery_app_hooks_release celery_app_identity celery_app_import_on_controller
    celery_app_incompatible_tasks celery_app_index_url celery_app_keep_current celery_app_memory
    celery_app_module celery_app_name celery_app_packages celery_app_queues celery_app_requirements
    celery_app_result_backend celery_app_routes celery_app_settings celery_app_settings_template
    celery_app_source celery_app_source_sha256 celery_app_version celery_app_wheelhouse
    celery_app_wrapper_template celery_beat_enabled celery_beat_group celery_beat_identity
    celery_beat_log_level celery_beat_program_template celery_broker celery_broker_address
    celery_broker_backup_schedule celery_broker_backups celery_broker_ca
    celery_broker_group celery_broker_listen_addresses celery_broker_memory
    celery_broker_metrics_address celery_broker_port celery_broker_previous celery_broker_previous_group
    celery_broker_tls_port celery_broker_url
    celery_certificate_targets celery_default_queue celery_docs_url
    celery_exporter_beat celery_exporter_identity celery_exporter_interval celery_exporter_programs
    celery_exporter_textfile_dir celery_firewall celery_firewall_broker_sources celery_firewall_closed_ports
    celery_firewall_page_sources celery_firewall_ports celery_firewall_ssh_sources celery_fleet_name
    celery_flower_control celery_flower_group celery_hooks celery_interruption_identity
    celery_interruption_notices celery_interruption_programs celery_key_prefix
    celery_longest_countdown celery_monitor_group celery_producer_broker_url celery_producer_config_dir
    celery_producer_file_group celery_producer_group celery_producer_identity celery_producer_queues
    celery_producer_result_backend celery_producer_routes celery_producer_settings
    celery_producer_settings_template celery_queue_defaults celery_queues celery_replay_cache_memory
    celery_rollout_auto_rollback
    celery_rollout_batches celery_rollout_beat_host celery_rollout_hooks
    celery_rollout_hosts celery_rollout_identity celery_rollout_keep_releases celery_rollout_label
    celery_rollout_lock_hosts celery_rollout_margins celery_rollout_observe_seconds
    celery_rollout_observe_tasks celery_rollout_only_programs celery_rollout_program_template
    celery_rollout_queues celery_rollout_report_dir celery_rollout_restart_before celery_rollout_staged
    celery_rollout_start_timeout celery_rollout_state_dir celery_rollout_stop_method
    celery_rollout_take_over celery_rollout_version celery_secrets_dir celery_secrets_encrypted celery_settings
    celery_signing_directory celery_signing_group celery_signing_key celery_signing_operator_key
    celery_signing_replay_cache celery_signing_trusted celery_app_signing celery_app_signing_files
    celery_producer_signing celery_producer_signing_key
    celery_signed_messages celery_signed_messages_window
    celery_task_log_agents celery_task_log_cloudwatch_access_key celery_task_log_cloudwatch_credentials
    celery_task_log_cloudwatch_endpoint celery_task_log_cloudwatch_group
    celery_task_log_cloudwatch_metrics celery_task_log_cloudwatch_region
    celery_task_log_cloudwatch_secret_key celery_task_log_file celery_task_log_file_backups
    celery_task_log_file_size celery_task_log_identity celery_task_log_journal_size
    celery_task_log_retention_days celery_task_log_sink celery_task_log_textfile_dir celery_tls
    celery_visibility_timeout celery_watchdog_identity celery_watchdog_interval celery_watchdog_programs
    celery_watchdog_timeout celery_web_processes celery_worker_defaults celery_worker_identity
    celery_worker_program_template celery_worker_programs celery_worker_start_timeout
    celery_worker_stop_timeout celery_workers
"""
#: Variables of the roles, as their argument specs list them.
OF_ROLES = frozenset(_OF_ROLES.split())
_OF_PLAYBOOKS = """
    celery_broker_backup_dir celery_broker_backup_file celery_broker_install_updates celery_broker_replaced
    celery_broker_restore_replace
    celery_doctor_file celery_doctor_max_skew celery_doctor_min_disk_free celery_doctor_window_hours
    celery_drain_deadline celery_drain_force celery_host_address celery_host_interruption_notices
    celery_host_memory celery_host_names
    celery_logs_grep celery_logs_lines celery_logs_programs celery_plan celery_plan_build celery_plan_probe
    celery_restart_programs celery_restart_queues celery_rotate celery_rotate_finish celery_run_command
    celery_secret_command celery_status_file
"""
#: Variables of the playbooks.
OF_PLAYBOOKS = frozenset(_OF_PLAYBOOKS.split())
# Similarity above which a name is a typing error. Others may be variables of the user's own.
_TYPING_ERROR = 0.9


def unknown_variables(names: Iterable[str], problems: list[Problem]) -> list[str]:
    """Return warnings about unknown variables. Probable typing errors are problems.

    Args:
        names: names that begin with celery_.
    """
    known, warnings = OF_ROLES | OF_PLAYBOOKS, []
    for name in sorted(set(names) - known):
        if meant := get_close_matches(name, known, n=1, cutoff=_TYPING_ERROR):
            fix = f"Correct it to {meant[0]}, or rename your own variable"
            problems.append(Problem(name, f"is not a variable of the collection (did you mean {meant[0]!r}?)", fix))
        else:
            warnings.append(f"{name} is not a variable of the collection, and has no effect here")
    return warnings
