"""Filters of the collection. Their logic is in module_utils; each has its documentation in a file beside this one."""

from __future__ import annotations

import base64
import hashlib
import json
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.fleet.celery.plugins.module_utils._batches import read_sizes
from ansible_collections.fleet.celery.plugins.module_utils._broker_restore import restore_problems
from ansible_collections.fleet.celery.plugins.module_utils._environment import environment_text
from ansible_collections.fleet.celery.plugins.module_utils._facts import host_facts
from ansible_collections.fleet.celery.plugins.module_utils._forwarder import forwarder_config
from ansible_collections.fleet.celery.plugins.module_utils._hooks import hook_failures
from ansible_collections.fleet.celery.plugins.module_utils._own_broker import url_parts, url_password
from ansible_collections.fleet.celery.plugins.module_utils._platforms import platform_of
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.module_utils._retire import retire_problems
from ansible_collections.fleet.celery.plugins.module_utils._role_options import redis_memory
from ansible_collections.fleet.celery.plugins.module_utils._rollout import staging_failures
from ansible_collections.fleet.celery.plugins.module_utils._sentinel import initial_primary
from ansible_collections.fleet.celery.plugins.module_utils._shovels import celery_shovels, shovel_uris
from ansible_collections.fleet.celery.plugins.module_utils._supervisor_text import command, escape
from ansible_collections.fleet.celery.plugins.module_utils._sweep import draining_workers, running_nodes
from ansible_collections.fleet.celery.plugins.module_utils._table import status_table
from ansible_collections.fleet.celery.plugins.module_utils._topology import celery_policies, celery_topology
from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url, result_url


class FilterModule:
    """The filters of fleet.celery."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "batch_size_errors": _batch_size_errors,
            "bcrypt": _bcrypt,
            "broker_url": broker_url,
            "broker_url_parts": url_parts,
            "broker_url_password": url_password,
            "celery_policies": celery_policies,
            "celery_shovels": celery_shovels,
            "celery_topology": celery_topology,
            "config_file_entries": _config_file_entries,
            "draining_workers": draining_workers,
            "environment_text": environment_text,
            "forwarder_config": forwarder_config,
            "host_facts": _host_facts,
            "host_statuses": _host_statuses,
            "hook_failures": hook_failures,
            "log_names": _log_names,
            "platform": _platform,
            "python_literal": _python_literal,
            "redis_memory": _redis_memory,
            "redis_primary": _redis_primary,
            "restore_problems": restore_problems,
            "result_url": result_url,
            "retire_problems": retire_problems,
            "running_nodes": running_nodes,
            "salted_sha1": _salted_sha1,
            "shovel_uris": shovel_uris,
            "staging_failures": _staging_failures,
            "status_table": _status_table,
            "supervisor_command": command,
            "supervisor_escape": escape,
        }


def _host_facts(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {host: host_facts(hostvars[host]) for host in hosts}


def _redis_memory(value: object, total: int) -> int:
    try:
        return redis_memory(value, total)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


def _redis_primary(answers: Iterable[str], addresses: Iterable[str]) -> str:
    try:
        return initial_primary([str(each) for each in answers], [str(each) for each in addresses])
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


def _log_names(host: str, plan: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the name of each log of a host, with the program that writes it."""
    logs = [
        {"name": slot["name"], "program": program["name"]}
        for program in plan["hosts"][host]["programs"]
        for slot in program["slots"]
    ]
    beat = f"{plan['app']['name']}-beat"
    return [*logs, {"name": beat, "program": beat}] if plan["beat_host"] == host else logs


def _batch_size_errors(sizes: Iterable[object]) -> list[str]:
    """Return the errors of celery_rollout_batches; empty if it is valid."""
    problems: list[Problem] = []
    read_sizes(list(sizes), problems)
    return [str(problem) for problem in problems]


def _registered(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], name: str) -> dict[str, Any]:
    # Each access to a host's variables merges them anew.
    return {host: values[name] for host in hosts if name in (values := hostvars[host])}


def _staging_failures(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], failure: str, release: str
) -> list[str]:
    """Return why a release can't be activated; empty if it can.

    Args:
        failure: variable of the message of a failed staging.
        release: variable in which each host registered the result of celery_release.
    """
    hosts = list(hosts)
    failures = _registered(hostvars, hosts, failure)
    staged = {host for host, result in _registered(hostvars, hosts, release).items() if not result.get("unreachable")}
    return staging_failures(failures, [host for host in hosts if host not in failures and host not in staged])


def _host_statuses(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], name: str
) -> dict[str, dict[str, Any]]:
    """Return the releases and programs of each host.

    Args:
        name: variable in which each host registered the result of celery_status_info.
    """
    keys = ("current", "previous", "drained", "programs", "releases")
    return {
        host: {key: status[key] for key in keys} if "current" in status else {"unreachable": True}
        for host, status in _statuses(hostvars, hosts, name).items()
    }


def _status_table(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], name: str) -> list[str]:
    """Return the lines of a table of all programs, with their releases and states.

    Args:
        name: variable in which each host registered the result of celery_status_info.
    """
    return status_table(_statuses(hostvars, hosts, name))


def _statuses(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], name: str
) -> dict[str, Mapping[str, Any]]:
    """Return the result of celery_status_info of each host. One that left the play before it is unreachable."""
    hosts = list(hosts)
    return {host: {"unreachable": True} for host in hosts} | _registered(hostvars, hosts, name)


def _config_file_entries(contents: Mapping[str, str], path: str, **options: object) -> list[dict[str, object]]:
    """Return entries for the option files of config_files.

    Args:
        contents: the content of each file, by its name.
        path: path of the files, with {} for the name.
        options: options of all entries.
    """
    return [{"path": path.replace("{}", name), "content": content, **options} for name, content in contents.items()]


def _platform(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a host's system has.

    Args:
        facts: of the host, with its distribution.
    """
    return asdict(platform_of(facts["distribution"], int(facts["distribution_major_version"])))


def _python_literal(value: object) -> str:
    # JSON converts Ansible's own string and list types to plain ones.
    return repr(json.loads(json.dumps(value)))


def _bcrypt(password: str, salt: str) -> str:
    """Return the bcrypt hash of a password, as Prometheus and its exporters take it.

    The same password and salt give the same hash, so that a second run changes nothing.

    Raises:
        AnsibleFilterError: the package bcrypt is missing on the controller.
    """
    try:
        import bcrypt  # noqa: PLC0415 - only needed where exporters have passwords
    except ImportError as error:
        raise AnsibleFilterError(
            "The Python package bcrypt, which hashes the exporters' passwords, is missing on the controller. "
            "Install it into Ansible's environment: pip install bcrypt"
        ) from error
    # bcrypt's base64 has the same digits in another order.
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits
    grain = base64.b64encode(hashlib.sha256(salt.encode()).digest()[:16]).decode().rstrip("=")
    grain = grain.translate(str.maketrans(f"{digits}+/", f"./{digits}"))
    return str(bcrypt.hashpw(password.encode(), f"$2b$10${grain}".encode()).decode())


def _salted_sha1(password: str, salt: str) -> str:
    """Return the salted SHA-1 hash of a password, as nginx takes it (RFC 2307).

    The same password and salt give the same hash, so that a second run changes nothing. nginx also takes crypt(3)
    hashes, but Python 3.13 has no crypt module.
    """
    grain = hashlib.sha256(salt.encode()).digest()[:8]
    digest = hashlib.sha1(password.encode() + grain).digest()  # noqa: S324
    return "{SSHA}" + base64.b64encode(digest + grain).decode()
