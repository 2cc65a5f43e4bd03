"""Filters that hand values to the typed core; the logic is in module_utils."""

from __future__ import annotations

import base64
import hashlib
import json
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.fleet.celery.plugins.module_utils._batches import batches, read_sizes
from ansible_collections.fleet.celery.plugins.module_utils._declaration import Problem
from ansible_collections.fleet.celery.plugins.module_utils._environment import environment_text
from ansible_collections.fleet.celery.plugins.module_utils._facts import host_facts
from ansible_collections.fleet.celery.plugins.module_utils._hooks import hook_failures
from ansible_collections.fleet.celery.plugins.module_utils._judge import Margins, depth_limits, judge
from ansible_collections.fleet.celery.plugins.module_utils._report import Told, page, rollout_of
from ansible_collections.fleet.celery.plugins.module_utils._rollout import (
    look,
    release_before,
    staging_failures,
    verdict,
)
from ansible_collections.fleet.celery.plugins.module_utils._supervisor_text import command, escape
from ansible_collections.fleet.celery.plugins.module_utils._table import table
from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url, management_url, result_url


class FilterModule:
    """The filters of fleet.celery."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "batch_problems": _batch_problems,
            "batches": _batches,
            "bcrypt": _bcrypt,
            "broker_url": broker_url,
            "depth_limits": _depth_limits,
            "environment_text": environment_text,
            "files": _files,
            "host_facts": _host_facts,
            "hook_failures": hook_failures,
            "judge": _judge,
            "log_names": _log_names,
            "look": _look,
            "management_url": management_url,
            "python_literal": _python_literal,
            "release_before": release_before,
            "result_url": result_url,
            "rollout_page": _rollout_page,
            "salted_sha1": _salted_sha1,
            "staging_failures": _staging_failures,
            "status_table": _status_table,
            "statuses": _statuses,
            "supervisor_command": command,
            "supervisor_escape": escape,
            "verdict": _verdict,
        }


def _host_facts(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {host: host_facts(hostvars[host]) for host in hosts}


def _batches(hosts: Iterable[str], plan: Mapping[str, Mapping[str, Any]], sizes: Iterable[object]) -> list[list[str]]:
    """Return the batches of these hosts.

    Args:
        plan: the plan's hosts.
        sizes: as users write them.
    """
    read = read_sizes(list(sizes), [])
    hosts = list(hosts)
    workloads = {host: [item["worker"] for item in plan[host]["programs"]] for host in hosts}
    consumed = {host: {queue for item in plan[host]["programs"] for queue in item["queues"]} for host in hosts}
    # Those that only send, such as beat's, come last: a worker of the old release would refuse a task that is new.
    working = {host: workers for host, workers in workloads.items() if workers}
    found = batches(working, {host: consumed[host] for host in working}, read)
    senders = [host for host in hosts if host not in working]
    return [*found, senders] if senders else found


def _log_names(host: str, plan: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the names of the logs that a host's programs write, each with its program."""
    found = [
        {"name": slot["name"], "program": program["name"]}
        for program in plan["hosts"][host]["programs"]
        for slot in program["slots"]
    ]
    beat = f"{plan['app']['name']}-beat"
    return [*found, {"name": beat, "program": beat}] if plan["beat_host"] == host else found


def _batch_problems(sizes: Iterable[object]) -> list[str]:
    """Return what is wrong with sizes of batches as users write them."""
    problems: list[Problem] = []
    read_sizes(list(sizes), problems)
    return [str(problem) for problem in problems]


def _registered(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], name: str) -> dict[str, Any]:
    # Each look at a host's variables puts them together anew.
    return {host: values[name] for host in hosts if name in (values := hostvars[host])}


def _look(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], name: str) -> dict[str, Any]:
    """Return where hosts are, from what each has registered under a name."""
    hosts = list(hosts)
    return asdict(look(_registered(hostvars, hosts, name), hosts))


def _judge(
    hostvars: Mapping[str, Mapping[str, Any]],
    batch: Iterable[str],
    *,
    hosts: Iterable[str],
    before: str,
    activated: str,
    hooks: str,
    after: str,
    margins: Mapping[str, float],
) -> list[str]:
    """Return why a batch is bad, from what each host has registered under these names.

    Args:
        hooks: what is wrong with the hooks of a host, where something is.
    """
    batch = list(batch)
    slices = _registered(hostvars, batch, activated)
    failures = look(slices, batch).failures
    if failures:
        return [f"{host}: {text}" for host, texts in failures.items() for text in texts]
    if failed := _registered(hostvars, batch, hooks):
        return [f"{host}: {text}" for host, text in failed.items()]
    versions = {host: str(result["version"]) for host, result in slices.items()}
    told = _registered(hostvars, hosts, before)
    return judge(versions, told, _registered(hostvars, batch, after), _margins(margins))


def _depth_limits(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], before: str, margins: Mapping[str, float]
) -> dict[str, float]:
    """Return how deep each queue may be, from what each host has registered under this name."""
    return depth_limits(_registered(hostvars, hosts, before), _margins(margins))


def _margins(given: Mapping[str, float]) -> Margins:
    return Margins(**{name: type(getattr(Margins, name))(value) for name, value in given.items()})


def _staging_failures(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], failure: str, release: str
) -> list[str]:
    """Return why a release can't be activated, from what each host has noted and registered under these names."""
    hosts = list(hosts)
    failures = _registered(hostvars, hosts, failure)
    made = {host for host, result in _registered(hostvars, hosts, release).items() if not result.get("unreachable")}
    return staging_failures(failures, [host for host in hosts if host not in failures and host not in made])


def _verdict(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    *,
    label: str,
    everyone: Iterable[str],
    slices: str,
    reasons: str,
    after: str,
) -> str:
    """Return how a bad rollout ended; nothing if there are no hosts that were to go back."""
    hosts = list(hosts)
    if not hosts:
        return ""
    told = _registered(hostvars, hosts, reasons)
    away = [host for host, status in _registered(hostvars, everyone, after).items() if status.get("unreachable")]
    return verdict(label, told[hosts[-1]], _registered(hostvars, hosts, slices), away)


def _rollout_page(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    *,
    app: str,
    label: str,
    began: float,
    verdict: str,
) -> str:
    """Return the page of a rollout, from what each host has registered in its course."""
    hosts = list(hosts)
    names = ("__celery_rollout_before", "__celery_app_release", "__celery_rollout_slice", "__celery_rollout_end")
    before, staged, slices, after = (_registered(hostvars, hosts, name) for name in names)
    told = {
        host: Told(before.get(host, {}), staged.get(host, {}), slices.get(host, {}), after.get(host, {}))
        for host in hosts
    }
    return page(rollout_of(app, label, float(began), told, verdict))


def _statuses(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], name: str) -> dict[str, dict[str, Any]]:
    """Return for each host which release it runs, of what it has registered under a name by celery_status."""
    keys = ("current", "previous", "drained", "programs", "releases")
    return {
        host: {key: status[key] for key in keys} if "current" in status else {"unreachable": True}
        for host, status in _registered(hostvars, hosts, name).items()
    }


def _status_table(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], name: str) -> list[str]:
    """Return the lines of a table of what each host has registered under a name by celery_status."""
    rows = []
    for host, status in _registered(hostvars, hosts, name).items():
        programs = [(each["name"], each["release"] or "-", each["state"]) for each in status.get("programs", [])]
        if status.get("unreachable"):
            rows.append((host, "-", "-", "-", "unreachable"))
        elif status["drained"]:
            rows.append((host, status["current"], "-", "-", "drained"))
        rows += [(host, status["current"], *program) for program in programs]
        rows += [
            (host, status["current"], stray["program"], "-", "of no Supervisor") for stray in status.get("strays", [])
        ]
    return table(("host", "current", "program", "runs", "state"), rows)


def _files(contents: Mapping[str, str], path: str, **options: object) -> list[dict[str, object]]:
    """Return files of config_files that differ in their names and contents alone.

    Args:
        contents: of each, by its name.
        path: with {} for the name.
    """
    return [{"path": path.replace("{}", name), "content": content, **options} for name, content in contents.items()]


def _python_literal(value: object) -> str:
    # Through JSON, which leaves plain types of what Ansible passes in its own.
    return repr(json.loads(json.dumps(value)))


def _bcrypt(password: str, salt: str) -> str:
    """Return a password as Prometheus and its exporters compare it, the same each time for the same salt."""
    try:
        import bcrypt  # noqa: PLC0415 - where no password is hashed so, it need not be there
    except ImportError as error:
        raise AnsibleFilterError(
            "Passwords of exporters are hashed by bcrypt. Install it: pip install bcrypt"
        ) from error
    # bcrypt counts in the same digits as base64, in another order.
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits
    grain = base64.b64encode(hashlib.sha256(salt.encode()).digest()[:16]).decode().rstrip("=")
    grain = grain.translate(str.maketrans(f"{digits}+/", f"./{digits}"))
    return str(bcrypt.hashpw(password.encode(), f"$2b$10${grain}".encode()).decode())


def _salted_sha1(password: str, salt: str) -> str:
    """Return a password as nginx compares it (RFC 2307), the same each time for the same salt.

    Of what nginx knows it is the best that every Python can compute: crypt is gone from it.
    """
    grain = hashlib.sha256(salt.encode()).digest()[:8]
    digest = hashlib.sha1(password.encode() + grain).digest()  # noqa: S324
    return "{SSHA}" + base64.b64encode(digest + grain).decode()
