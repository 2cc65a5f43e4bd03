#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Collect the symptoms of a host, or evaluate those of all hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_doctor_info
short_description: Collect the symptoms of a host, or evaluate those of all hosts
description:
  - With O(app), collects a host's symptoms. These are killed processes, run times of tasks, free disk space, the clock,
    the release of each program, installed versions, and on the broker's host the broker's alarms.
    For each worker, they include its last heartbeat, which it writes to a file on its host.
  - With O(app) and O(ask), also queries the broker for queue depths, and the workers for their queues and tasks.
    Whether a worker works is taken from these answers only if it has no heartbeat file, as with an earlier release.
  - With O(plan), collects nothing, and returns the findings from the symptoms in O(observations).
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.supervisor]
attributes:
  check_mode: {support: full, description: Changes nothing.}
  diff_mode: {support: none, description: Changes nothing.}
options:
  app:
    description: The plan's C(app). Collects the host's symptoms. Mutually exclusive with O(plan).
    type: dict
  now:
    description: The controller's clock, in seconds since the epoch. The host's clock is compared with it.
    type: float
    default: 0
  hours:
    description: Hours of logs to search for killed processes.
    type: int
    default: 24
  broker_at:
    description: Address and port of the broker for workers. Empty skips the check whether the host reaches it.
    type: list
    elements: str
    default: []
  broker_ca:
    description: File of the authorities with which the broker's certificate is verified. Empty if it has no TLS.
    type: str
    default: ""
  ask:
    description: Whether to query the broker and the workers. One host of the fleet is enough.
    type: bool
    default: false
  queues:
    description: Queues whose depths the broker is queried for.
    type: list
    elements: str
    default: []
  programs:
    description: For each worker of the fleet, the node names that it may have. A worker with two slots has two.
    type: list
    elements: list
    default: []
  broker:
    description: The broker that runs on the host. Empty if none does.
    type: str
    choices: ["", rabbitmq, redis, valkey]
    default: ""
  broker_user:
    description: User of Redis that may run C(INFO).
    type: str
    default: ""
  broker_password:
    description: Password of O(broker_user).
    type: str
    default: ""
  sentinel:
    description: Name of the primary for the Sentinel on the host. Empty if there is none.
    type: str
    default: ""
  plan:
    description: The plan, as M(fleet.celery.celery_plan) returns it. Mutually exclusive with O(app).
    type: dict
  observations:
    description:
      - For each host, a mapping of C(symptoms) and C(after).
      - C(symptoms) is what the module returned on that host. C(after) is the controller's clock once it had.
    type: dict
    default: {}
  unreachable:
    description: Hosts that could not be reached, or on which the module failed.
    type: list
    elements: str
    default: []
  runtime:
    description: SHA-256 of the collection's runtime package. Empty does not compare it with that of the hosts.
    type: str
    default: ""
  skew:
    description: Largest difference between a host's clock and the controller's, in seconds.
    type: float
    default: 2
  disk:
    description: Smallest share of a file system that must be free, in percent.
    type: float
    default: 10
"""

EXAMPLES = r"""
- name: Collect the host's symptoms
  fleet.celery.celery_doctor_info:
    app: "{{ celery_plan.app }}"
    now: "{{ now().timestamp() }}"
  register: doctor

- name: Evaluate the symptoms of all hosts
  fleet.celery.celery_doctor_info:
    plan: "{{ celery_plan }}"
    observations:
      worker1:
        symptoms: "{{ hostvars.worker1.doctor.symptoms }}"
        after: "{{ now().timestamp() }}"
    unreachable: [worker2]
  delegate_to: localhost
"""

RETURN = r"""
symptoms:
  description: The host's symptoms, for O(observations).
  type: dict
  returned: with O(app)
report:
  description: Lines for people. Each check with its findings.
  type: list
  elements: str
  returned: with O(plan)
checks:
  description: For each check its findings, each with C(where), C(what), C(meaning) and C(action).
  type: dict
  returned: with O(plan)
notes:
  description: Remarks of the releases' own checks that are no findings.
  type: list
  elements: str
  returned: with O(plan)
summary:
  description: The number of findings, for people.
  type: str
  returned: with O(plan)
"""

import json
import os
import re
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._doctor import (
    KNOWN_BUGS,
    Fleet,
    Limits,
    as_values,
    examine,
    notes,
    report,
    summary,
)
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq import as_rabbitmq, find_command
from ansible_collections.fleet.celery.plugins.module_utils._release import DRAINED, RUNTIME, read_record, runtime_digest
from ansible_collections.fleet.celery.plugins.module_utils._supervisor import OPTIONS, programs_of, state_of
from ansible_collections.fleet.celery.plugins.module_utils._workers import query_command
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.alive import is_fresh, read_alive
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import read_counts
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.strays import strays_of
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import (
    Process,
    SupervisorError,
)

QUERY_SECONDS = 60
CONNECT_SECONDS = 5
EPMD = ("127.0.0.1", 4369)
#: Bytes at the end of a log that are searched.
LOG_BYTES = 4 * 1024 * 1024
SUPERVISOR_LOG = Path("/var/log/supervisor/supervisord.log")
MOMENT = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d")
CHILD_KILLED = re.compile(r"exited with 'signal 9 \(SIGKILL\)'")
WORKER_KILLED = re.compile(r"(?:exited|stopped): (\S+) \(terminated by SIGKILL")
# Share of Redis' memory or connections at which it counts as full.
FULL = 0.95
ERROR_LENGTH = 300


def one_line(error: str) -> str:
    """Return the end of an error message, such as a traceback, in one line."""
    return " ".join(error.split())[-ERROR_LENGTH:]


def lines_since(path: Path, since: float) -> Iterator[tuple[float, str]]:
    """Yield the lines of a log that begin with a time after this one, each with its time.

    Args:
        since: seconds since the epoch. The log's times are local times.
    """
    try:
        if path.stat().st_mtime < since:
            return
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        if found := MOMENT.match(line.lstrip("[")):
            at = datetime.fromisoformat(found[1]).timestamp()
            if at >= since:
                yield at, line


def killed(app: dict[str, Any], since: float) -> list[dict[str, Any]]:
    """Return processes that were killed by SIGKILL: workers in Supervisor's log, their children in workers' logs."""
    kills = []
    for path in (SUPERVISOR_LOG, SUPERVISOR_LOG.with_name(f"{SUPERVISOR_LOG.name}.1")):
        for at, line in lines_since(path, since):
            match = WORKER_KILLED.search(line)
            if match and match[1].startswith(f"{app['name']}-"):
                kills.append({"program": match[1], "what": "the worker", "at": at})
    record = read_record(Path(app["root"], "current").resolve())
    with local_time(record.timezone if record else ""):
        for path in Path(app["log_dir"]).glob(f"{app['name']}-*.log*"):
            for at, line in lines_since(path, since):
                if CHILD_KILLED.search(line):
                    kills.append({"program": path.name.partition(".log")[0], "what": "a child process", "at": at})
    return kills


@contextmanager
def local_time(timezone: str) -> Iterator[None]:
    """Set the local time zone for the block, as Django does with its TIME_ZONE; empty keeps that of the host."""
    before = os.environ.get("TZ")
    try:
        if timezone:
            os.environ["TZ"] = timezone
            time.tzset()
        yield
    finally:
        os.environ.pop("TZ", None)
        if before is not None:
            os.environ["TZ"] = before
        time.tzset()


def oom_kills(module: AnsibleModule) -> list[str]:
    """Return the kernel's messages about killed processes; empty where its log can't be read, as in a container."""
    command = ["journalctl", "--dmesg", f"--since=-{module.params['hours']}h", "--output=cat", "--no-pager", "--quiet"]
    _, output, _ = module.run_command([*command, "--grep=out of memory: killed process"])
    return [line for line in output.splitlines() if "illed process" in line]


def free_percent(directories: list[str]) -> dict[str, float]:
    """Return the free share of each file system of these directories, in bytes and in inodes, by its mount point."""
    free = {}
    for directory in directories:
        mount = Path(directory)
        if not mount.is_dir():
            continue
        while mount != mount.parent and mount.stat().st_dev == mount.parent.stat().st_dev:
            mount = mount.parent
        usage, status = shutil.disk_usage(mount), os.statvfs(mount)
        free[str(mount)] = round(100 * usage.free / usage.total, 1)
        if status.f_files:
            free[f"{mount} (inodes)"] = round(100 * status.f_favail / status.f_files, 1)
    return free


def run_times(directory: Path) -> dict[str, tuple[float, int]]:
    """Return for each queue the seconds that its tasks ran in total, and their number."""
    total: dict[str, tuple[float, int]] = {}
    for counts in read_counts(directory, seconds=False).values():
        for (queue, _), tasks in counts.tasks.items():
            seconds, ended = total.get(queue, (0.0, 0))
            total[queue] = seconds + tasks.run_seconds, ended + sum(tasks.runs)
    return total


def heartbeat(directory: Path, process: Process) -> dict[str, Any] | None:
    """Return the last heartbeat of a worker; None if it does not run, or has written none."""
    alive = read_alive(directory, process.name, process.pid) if process.state == "RUNNING" else None
    if alive is None:
        return None
    fresh = {"fresh": is_fresh(alive), "connected": alive.connected, "age": round(alive.age)}
    return fresh | {"queues": list(alive.queues)}


def versions(release: Path) -> dict[str, str]:
    """Return the installed versions of the packages with known bugs, in a release."""
    parts = {bug.part for bug in KNOWN_BUGS}
    names = (path.name.removesuffix(".dist-info") for path in release.glob("venv/lib/*/site-packages/*.dist-info"))
    found = (name.partition("-")[::2] for name in names)
    return {name.lower(): version for name, version in found if name.lower() in parts}


def query(module: AnsibleModule) -> dict[str, Any]:
    """Return the answers of the broker and the workers."""
    app = module.params["app"]
    run = ["timeout", str(QUERY_SECONDS), *query_command(app["root"], "diagnose", app["module"])]
    code, output, error = module.run_command(
        [*run, json.dumps(module.params["queues"]), json.dumps(module.params["programs"])], cwd="/"
    )
    if code:
        return {"error": one_line(error) or f"no answer within {QUERY_SECONDS} s"}
    answers: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answers


def broker_unreachable(at: list[str], ca: str) -> str:
    """Return why the host can't connect to the broker; empty if it can.

    Args:
        at: address and port; empty: nothing is checked.
        ca: file of the authorities that the host trusts; empty for a broker without TLS.
    """
    try:
        if at:
            with socket.create_connection((at[0], int(at[1])), timeout=CONNECT_SECONDS) as connection:
                if ca:
                    context = ssl.create_default_context(cafile=ca)
                    context.wrap_socket(connection, server_hostname=at[0]).close()
    except OSError as error:
        return str(error)
    return ""


def rabbitmq(module: AnsibleModule) -> dict[str, Any]:
    """Return the alarms of RabbitMQ and the running nodes, or why it does not answer."""
    command = find_command(module, "rabbitmq-diagnostics")
    if not command:
        return {"error": "it is not installed"}
    try:
        # Where epmd is not running, rabbitmq-diagnostics would start one and leave it behind.
        socket.create_connection(EPMD, timeout=5).close()
    except OSError as error:
        return {"error": f"epmd at {EPMD[0]}:{EPMD[1]} does not answer: {error}"}
    code, output, errors = module.run_command(
        as_rabbitmq(command, "--silent", "--timeout", "20", "--formatter", "json", "alarms"), cwd="/"
    )
    if code or "{" not in output:
        # The first line is the reason, the rest are its diagnostics.
        return {"error": one_line((errors or output).strip().partition("\n")[0])}
    alarms = rabbitmq_alarms(json.loads(output[output.index("{") :]))
    control = str(find_command(module, "rabbitmqctl"))
    code, output, errors = module.run_command(
        as_rabbitmq(control, "--silent", "--timeout", "20", "--formatter", "json", "cluster_status"), cwd="/"
    )
    if code or "{" not in output:
        return {"error": one_line((errors or output).strip().partition("\n")[0])}
    return {"alarms": alarms, "running": json.loads(output[output.index("{") :])["running_nodes"]}


def rabbitmq_alarms(output: dict[str, Any]) -> list[str]:
    """Return the alarms in the output of rabbitmq-diagnostics: the node's own (local) and those of other nodes."""
    return [f"alarm: {alarm}" for alarm in (*output.get("local", []), *output.get("global", []))]


def redis(module: AnsibleModule) -> dict[str, Any]:
    """Return the alarms of Redis, or why it does not answer."""
    flavor = module.params["broker"]
    command = module.get_bin_path(f"{flavor}-cli")
    if not command:
        return {"error": "it is not installed"}
    run = [command, "-s", f"/run/{flavor}/{flavor}.sock", "--user", module.params["broker_user"], "--no-auth-warning"]
    # Not as an argument, which every user of the host can read.
    variables = {"REDISCLI_AUTH": module.params["broker_password"]}
    _, output, error = module.run_command([*run, "info"], environ_update=variables)
    info = dict(re.findall(r"(?m)^(\w+):(.*?)\r?$", output))
    if "used_memory" not in info:
        return {"error": one_line(f"{error} {output}")}
    found: dict[str, Any] = {"alarms": redis_alarms(info)}
    if name := module.params["sentinel"]:
        run[2] = f"/var/lib/{flavor}/sentinel/sentinel.sock"
        code, output, error = module.run_command([*run, "-e", "sentinel", "ckquorum", name], environ_update=variables)
        found["replication"] = {
            "role": info["role"],
            "link": info.get("master_link_status", ""),
            "replicas": int(info["connected_slaves"]),
            "sentinel": one_line(f"{error} {output}") if code else "",
        }
    return found


def redis_alarms(info: dict[str, str]) -> list[str]:
    """Return what is wrong with Redis, from its INFO."""
    alarms = []
    if int(info["used_memory"]) > FULL * int(info["maxmemory"]) > 0:
        alarms.append(f"memory is full: {info['used_memory_human']} of {info['maxmemory_human']}")
    if int(info["connected_clients"]) > FULL * int(info["maxclients"]):
        alarms.append(f"connections are used up: {info['connected_clients']} of {info['maxclients']}")
    for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if info.get(name, "ok") != "ok":
            alarms.append(f"can't write its files: {name} is {info[name]}")
    return alarms


def collect(module: AnsibleModule) -> dict[str, Any]:
    """Return the symptoms of the host."""
    began = time.time()
    app, kind = module.params["app"], module.params["broker"]
    state_dir, current = Path(app["state_dir"]), Path(app["root"], "current")
    record = read_record(current.resolve())
    try:
        processes, _ = programs_of(app["name"], Path(module.params["socket"]), Path(module.params["directory"]))
        counts = state_dir / "counts"
        programs = [state_of(process) | {"heartbeat": heartbeat(counts, process)} for process in processes.values()]
        supervisor = ""
    except SupervisorError as error:
        programs, supervisor = [], str(error)
    directories = ["/", "/var/log", app["root"], app["state_dir"], app["log_dir"]]
    symptoms: dict[str, Any] = {
        "nodename": socket.gethostname(),
        "drained": (Path(app["root"]) / DRAINED).exists(),
        "current": current.resolve().name if current.is_symlink() else "",
        "programs": programs,
        "supervisor": supervisor,
        "strays": strays_of(app["name"]),
        "oom": oom_kills(module),
        "killed": killed(app, began - module.params["hours"] * 3600),
        "runs": run_times(state_dir / "counts"),
        "free_percent": free_percent([*directories, f"/var/lib/{kind}"] if kind else directories),
        "tasks": list(record.tasks) if record else [],
        "findings": list(record.findings) if record else [],
        "runtime": runtime_digest(Path(app["root"], RUNTIME)),
        "versions": versions(current.resolve()),
        "broker": (rabbitmq(module) if kind == "rabbitmq" else redis(module)) if kind else {},
        "unreachable_broker": broker_unreachable(module.params["broker_at"], module.params["broker_ca"]),
        "asked": query(module) if module.params["ask"] else {},
    }
    return {"changed": False, "symptoms": symptoms | {"clock": [module.params["now"], began, time.time()]}}


def evaluate(module: AnsibleModule) -> dict[str, Any]:
    """Return the findings from the symptoms of all hosts."""
    symptoms = {
        host: {**each["symptoms"], "clock": [*each["symptoms"]["clock"], each["after"]]}
        for host, each in module.params["observations"].items()
    }
    limits = Limits(module.params["skew"], module.params["disk"], module.params["hours"])
    fleet = Fleet(module.params["plan"], symptoms, module.params["unreachable"], module.params["runtime"])
    checks, remarks = examine(fleet, limits), notes(fleet)
    return {
        "changed": False,
        "report": report(checks, remarks),
        "checks": as_values(checks),
        "notes": remarks,
        "summary": summary(checks),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "dict"},
            "now": {"type": "float", "default": 0},
            "hours": {"type": "int", "default": 24},
            "broker_at": {"type": "list", "elements": "str", "default": []},
            "broker_ca": {"type": "str", "default": ""},
            "ask": {"type": "bool", "default": False},
            "queues": {"type": "list", "elements": "str", "default": []},
            "programs": {"type": "list", "elements": "list", "default": []},
            "broker": {"type": "str", "choices": ["", "rabbitmq", "redis", "valkey"], "default": ""},
            "broker_user": {"type": "str", "default": ""},
            "broker_password": {"type": "str", "default": "", "no_log": True},
            "sentinel": {"type": "str", "default": ""},
            "plan": {"type": "dict"},
            "observations": {"type": "dict", "default": {}},
            "unreachable": {"type": "list", "elements": "str", "default": []},
            "runtime": {"type": "str", "default": ""},
            "skew": {"type": "float", "default": 2},
            "disk": {"type": "float", "default": 10},
            **OPTIONS,
        },
        mutually_exclusive=[("app", "plan")],
        required_one_of=[("app", "plan")],
        supports_check_mode=True,
    )
    module.exit_json(**(evaluate(module) if module.params["plan"] else collect(module)))


if __name__ == "__main__":
    main()
