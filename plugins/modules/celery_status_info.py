#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Collect the release, the state and the task counts of a host's programs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_status_info
short_description: Collect the release, the state and the task counts of a host's programs
description:
  - Returns the current and the previous release, the releases on the host, the release that each program runs, and
    the tasks that were counted on each release.
  - With O(version), first waits until O(tasks) tasks have ended on that release, so that it can be evaluated.
  - With O(queues), also returns the queues' depths.
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.supervisor]
attributes:
  check_mode: {support: full, description: Changes nothing.}
  diff_mode: {support: none, description: Changes nothing.}
options:
  app_name:
    description: The application's name. The names of its programs begin with it and a C(-).
    type: str
    required: true
  app:
    description: The application as C(celery -A) takes it. Required with O(queues).
    type: str
    default: ""
  root:
    description: The application's directory, which holds C(current) and C(releases).
    type: path
    required: true
  state_dir:
    description: Directory below which the programs count their tasks.
    type: path
    required: true
  queues:
    description: Queues whose depths the broker is queried for.
    type: list
    elements: str
    default: []
  version:
    description: A release. Wait until tasks have ended on it. Without it, the module does not wait.
    type: str
    default: ""
  tasks:
    description: Number of tasks that must have ended on O(version) since its last worker was started.
    type: int
    default: 20
  seconds:
    description: Longest wait in seconds, from the start of the last worker on O(version).
    type: int
    default: 30
  fewest:
    description:
      - Number of tasks below which nothing can be said. The wait ends early on a host that is so quiet that fewer are
        to be expected in O(seconds), if none has begun on O(version) by then.
      - V(0) always waits.
    type: int
    default: 0
  limits:
    description:
      - For each queue, the depth up to which it is healthy.
      - While a queue is deeper, its depth is polled, for at most O(seconds), so that a backlog from the restart can
        drain.
    type: dict
    default: {}
  since:
    description:
      - Also return the tasks of each second since this time, in seconds since the epoch.
      - The counts reach back for one hour. V(0) returns none.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Collect the status of the workers
  fleet.celery.celery_status_info:
    app_name: shop
    root: /srv/shop
    state_dir: /var/lib/shop
  register: status
"""

RETURN = r"""
now:
  description: The host's clock, in seconds since the epoch.
  type: float
  returned: success
nodename:
  description: The host's name, which Celery puts in place of C(%h).
  type: str
  returned: success
drained:
  description: Whether the host is drained.
  type: bool
  returned: success
current:
  description: The release that programs are started on. Empty if there is none.
  type: str
  returned: success
previous:
  description: The release before the latest activation.
  type: str
  returned: success
releases:
  description:
    - The releases on the host, the latest last, each with C(version), C(finished), C(sha256) and C(lost).
    - C(lost) names the tasks whose queued messages that release could not run.
  type: list
  elements: dict
  returned: success
programs:
  description:
    - C(name), C(state) and C(release) of each program.
    - C(silent) is the number of seconds for which the event loop of a running worker has not turned, or 0.
    - C(connected) is V(false) if that is because the worker has no connection to its broker.
  type: list
  elements: dict
  returned: success
strays:
  description: C(program) and C(pid) of each process that outlived its Supervisor.
  type: list
  elements: dict
  returned: success
ended:
  description: For each program that a handover replaced, when it ended, in seconds since the epoch.
  type: dict
  returned: success
counts:
  description: For each release, the number of tasks that were C(begun), C(done), C(failed) and C(retried).
  type: dict
  returned: success
depths:
  description: Number of messages in each of O(queues), after the wait.
  type: dict
  returned: success
first_depths:
  description: Number of messages in each of O(queues), before the wait.
  type: dict
  returned: success
seconds:
  description: For each second since O(since) in which tasks ended, the second, the tasks done and the tasks failed.
  type: list
  elements: list
  returned: success
"""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._compare import lost, read_signatures
from ansible_collections.fleet.celery.plugins.module_utils._release import ACTIVATION, DRAINED, read_record
from ansible_collections.fleet.celery.plugins.module_utils._supervisor import OPTIONS, programs_of, run_module, state_of
from ansible_collections.fleet.celery.plugins.module_utils._workers import query_command
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.alive import is_fresh, read_alive
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.counts import Counts, read_counts
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.strays import strays_of
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.supervisor import (
    Process,
    SupervisorError,
)

POLL_SECONDS = 0.5
QUIET_SECONDS = 5  # without a task, until a quiet host is taken for idle
HISTORY_SECONDS = 600
LEAST_SECONDS = 3  # between the first and the last poll of the queues


def by_release(directory: Path, *, seconds: bool = True) -> dict[str, Counts]:
    """Return the counts of all programs together, for each release."""
    total: dict[str, Counts] = {}
    for (_, release), counts in read_counts(directory, seconds=seconds).items():
        total.setdefault(release, Counts()).update(counts)
    return total


def ended(tasks: Counter[str]) -> int:
    """Return how many tasks have ended."""
    return tasks["done"] + tasks["failed"]


def is_quiet(counts: Iterable[Counts], started: float, seconds: int, fewest: int) -> bool:
    """Return whether fewer than so many tasks are to be expected in a time, after those that ended before.

    Args:
        counts: of all releases.
        started: the moment, in seconds since the epoch.
    """
    before = range(int(started) - HISTORY_SECONDS, int(started))
    recent = sum(ended(cell) for each in counts for second, cell in each.seconds.items() if second in before)
    return recent * seconds < fewest * HISTORY_SECONDS


def wait_for_tasks(module: AnsibleModule, directory: Path) -> float:
    """Wait until tasks have ended on a release since its workers were started.

    Returns:
        Seconds that are left of the wait.
    """
    version = module.params["version"]
    processes, _ = processes_of(module)
    starts = [process.started for process in processes.values() if state_of(process)["release"] == version]
    if not starts:
        return 0
    started: float = max(starts)
    releases = by_release(directory)
    counts = releases.get(version, Counts())
    cells = [cell for second, cell in counts.seconds.items() if second >= started]
    wanted = ended(counts.totals) - sum(map(ended, cells)) + module.params["tasks"]
    begun = counts.totals["begun"] - sum(cell["begun"] for cell in cells)
    quiet = is_quiet(releases.values(), started, module.params["seconds"], module.params["fewest"])
    deadline = time.monotonic() + started + float(module.params["seconds"]) - time.time()
    while time.monotonic() < deadline and ended(counts.totals) < wanted:
        if quiet and counts.totals["begun"] == begun and time.time() > started + QUIET_SECONDS:
            break
        time.sleep(POLL_SECONDS)
        # Without the seconds, which are most of the work of reading.
        counts = by_release(directory, seconds=False).get(version, counts)
    return deadline - time.monotonic()


def processes_of(module: AnsibleModule) -> tuple[dict[str, Process], dict[str, Process]]:
    """Return the application's programs, and apart those that have stopped and have no configuration file."""
    return programs_of(module.params["app_name"], Path(module.params["socket"]), Path(module.params["directory"]))


def previous(root: Path) -> str:
    """Return the release before the latest activation."""
    try:
        release: str = json.loads((root / ACTIVATION).read_text(encoding="utf-8"))["previous"]
    except (FileNotFoundError, ValueError, KeyError):
        return ""
    return release


def liveness(directory: Path, process: Process) -> dict[str, Any]:
    """Return for how long a worker's event loop has not turned, and whether the worker is connected to its broker.

    The time is 0 if the loop turns, or has never reported.
    """
    alive = read_alive(directory, process.name, process.pid) if process.state == "RUNNING" else None
    silent = 0 if alive is None or is_fresh(alive) else round(alive.age)
    return {"silent": silent, "connected": alive is None or alive.connected}


def releases(root: Path) -> list[dict[str, Any]]:
    """Return the releases on the host, each with the tasks that would be lost if it replaced the current one."""
    records = [record for path in (root / "releases").glob("*") if (record := read_record(path))]
    running = read_record((root / "current").resolve())
    version, signatures = (running.version, read_signatures(running.signatures)) if running else ("", {})
    return [
        {
            "version": record.version,
            "finished": record.finished,
            "sha256": record.sha256,
            "lost": lost(version, signatures, read_signatures(record.signatures)),
        }
        for record in sorted(records, key=lambda record: record.finished)
    ]


def depths(module: AnsibleModule, seconds: float) -> tuple[dict[str, int], dict[str, int]]:
    """Return the depths of the queues at first, and once none is above its limit or the time is over.

    Args:
        seconds: longest wait.

    Raises:
        SupervisorError: the broker can't be queried.
    """
    queues, limits = module.params["queues"], module.params["limits"]
    if not queues:
        return {}, {}
    run = query_command(module.params["root"], "depths", module.params["app"])
    limited = {queue: limits[queue] for queue in queues if queue in limits}
    arguments = [json.dumps(queues), json.dumps(limited), str(max(seconds, LEAST_SECONDS))]
    code, output, error = module.run_command([*run, *arguments], cwd="/")
    if code:
        raise SupervisorError(
            "The broker can't be queried for the depths of its queues. Check that its service is up and reachable from "
            f"this host:\n{error.strip()[-2000:]}"
        )
    first, last = json.loads(output.splitlines()[-1])
    return first, last


def run(module: AnsibleModule) -> dict[str, Any]:
    root, directory = Path(module.params["root"]), Path(module.params["state_dir"]) / "counts"
    left = wait_for_tasks(module, directory) if module.params["version"] else 0
    first_depths, last_depths = depths(module, left)
    counts = by_release(directory)
    processes, gone = processes_of(module)
    current = root / "current"
    ended_tasks: Counter[tuple[int, str]] = Counter()
    for each in counts.values():
        for second, cell in each.seconds.items():
            if module.params["since"] and second >= module.params["since"]:
                ended_tasks.update({(second, kind): cell[kind] for kind in ("done", "failed")})
    seconds = sorted({second for second, _ in ended_tasks})
    return {
        "changed": False,
        "now": time.time(),
        "nodename": socket.gethostname(),
        "drained": (root / DRAINED).exists(),
        "current": current.readlink().name if current.is_symlink() else "",
        "previous": previous(root),
        "releases": releases(root),
        "programs": [{**state_of(process), **liveness(directory, process)} for process in processes.values()],
        "strays": strays_of(module.params["app_name"]),
        "ended": {name: process.ended for name, process in gone.items()},
        "counts": {release: dict(each.totals) for release, each in counts.items()},
        "depths": last_depths,
        "first_depths": first_depths,
        "seconds": [[second, ended_tasks[second, "done"], ended_tasks[second, "failed"]] for second in seconds],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app_name": {"type": "str", "required": True},
            "app": {"type": "str", "default": ""},
            "root": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "queues": {"type": "list", "elements": "str", "default": []},
            "version": {"type": "str", "default": ""},
            "tasks": {"type": "int", "default": 20},
            "seconds": {"type": "int", "default": 30},
            "fewest": {"type": "int", "default": 0},
            "limits": {"type": "dict", "default": {}},
            "since": {"type": "float", "default": 0},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    run_module(module, partial(run, module))


if __name__ == "__main__":
    main()
