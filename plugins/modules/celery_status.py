#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Tell which release a host's programs run on, and what became of their tasks."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_status
short_description: Tell which release a host's programs run on, and what became of their tasks
description:
  - Tells where C(current) points, which releases there are, what each program runs on, and how many tasks it did.
  - With O(version) it first waits until tasks have ended on that release, to be judged by, since its workers began.
author: Celery Fleet (@celery-fleet)
extends_documentation_fragment: [fleet.celery.supervisor]
attributes:
  check_mode: {support: full, description: It changes nothing.}
  diff_mode: {support: none, description: There is nothing to differ.}
options:
  app_name:
    description: The application. Programs whose names begin with it and a C(-) are its own.
    type: str
    required: true
  app:
    description: What C(celery -A) takes. With O(queues) only.
    type: str
    default: ""
  user:
    description: The application's user. With O(queues) only.
    type: str
    default: ""
  root:
    description: The application's directory.
    type: path
    required: true
  state_dir:
    description: Directory of the counts.
    type: path
    required: true
  queues:
    description: Queues whose depths it asks the broker for.
    type: list
    elements: str
    default: []
  version:
    description: A release whose tasks are waited for.
    type: str
    default: ""
  tasks:
    description: Waits until so many of them have ended since the last of the workers was started,
    type: int
    default: 20
  seconds:
    description: but no longer than so many seconds after that.
    type: int
    default: 30
  limits:
    description:
      - For each queue, the depth that it may have. While one is deeper, it asks again, and twice at least, so that
        what came while workers were restarted is seen to become less.
      - It ends O(seconds) after the last of the workers was started.
    type: dict
    default: {}
  since:
    description: Tells also what ended in each second since then, in seconds since the epoch; an hour at most.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: See what runs on which release
  fleet.celery.celery_status:
    app_name: shop
    root: /srv/shop
    state_dir: /var/lib/shop
  register: status
"""

RETURN = r"""
now: {description: "The host's clock, in seconds since the epoch.", type: float, returned: success}
nodename: {description: "The host's name, as Celery has it for %h.", type: str, returned: success}
drained: {description: Whether the host is drained., type: bool, returned: success}
current: {description: The release that programs start on., type: str, returned: success}
previous: {description: The one before the latest activation., type: str, returned: success}
releases: {description: The releases on the host, the latest last., type: list, elements: dict, returned: success}
programs: {description: Name, state and release of each program., type: list, elements: dict, returned: success}
strays: {description: Processes of programs that no Supervisor owns., type: list, elements: dict, returned: success}
ended: {description: When programs ended that are gone since a handover., type: dict, returned: success}
counts: {description: For each release, tasks begun, done, failed and retried., type: dict, returned: success}
depths: {description: Messages that wait in each of the queues., type: dict, returned: success}
first_depths: {description: Those that waited when it first asked., type: dict, returned: success}
seconds: {description: "Second, tasks done, tasks failed.", type: list, elements: list, returned: success}
"""

import json
import socket
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._compare import lost, read_signatures
from ansible_collections.fleet.celery.plugins.module_utils._counts import Counts, read_counts
from ansible_collections.fleet.celery.plugins.module_utils._release import ACTIVATION, DRAINED, read_record
from ansible_collections.fleet.celery.plugins.module_utils._strays import strays_of
from ansible_collections.fleet.celery.plugins.module_utils._supervisor import (
    OPTIONS,
    Process,
    SupervisorError,
    answer,
    programs_of,
    state_of,
)
from ansible_collections.fleet.celery.plugins.module_utils._workers import DEPTHS_OF, celery_run

POLL_SECONDS = 0.5
LEAST_SECONDS = 3  # between a first look at the queues and the last
DEPTHS = (
    DEPTHS_OF
    + """
import json, sys, time
from celery.app.utils import find_app
app, queues, limits = find_app(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
deadline = time.monotonic() + float(sys.argv[4])
with app.connection_for_read() as connection:
    connection.ensure_connection(max_retries=1, timeout=5)
    first = depths = depths_of(connection, queues)
    while any(depths[queue] > limit for queue, limit in limits.items()) and time.monotonic() < deadline:
        time.sleep(1)
        depths = depths_of(connection, queues)
print("\\n" + json.dumps([first, depths]))
"""
)


def by_release(directory: Path, *, seconds: bool = True) -> dict[str, Counts]:
    """Return the counts of all programs together, for each release."""
    found: dict[str, Counts] = {}
    for (_, release), counts in read_counts(directory, seconds=seconds).items():
        found.setdefault(release, Counts()).update(counts)
    return found


def ended(tasks: Counter[str]) -> int:
    """Return how many tasks are over, of those counted."""
    return tasks["done"] + tasks["failed"]


def wait_for_tasks(module: AnsibleModule, directory: Path) -> float:
    """Wait until tasks have ended on a release since its workers were started, but not for long.

    Returns:
        For how many seconds one may wait for anything else.
    """
    version = module.params["version"]
    processes, _ = processes_of(module)
    on_it = [process.started for process in processes.values() if state_of(process)["release"] == version]
    if not on_it:
        return 0
    started: float = max(on_it)
    counts = by_release(directory).get(version, Counts())
    since = sum(ended(cell) for second, cell in counts.seconds.items() if second >= started)
    wanted = ended(counts.totals) - since + module.params["tasks"]
    deadline = time.monotonic() + started + float(module.params["seconds"]) - time.time()
    while time.monotonic() < deadline and ended(counts.totals) < wanted:
        time.sleep(POLL_SECONDS)
        # The seconds are most of the work of reading, and not needed any more.
        counts = by_release(directory, seconds=False).get(version, counts)
    return deadline - time.monotonic()


def processes_of(module: AnsibleModule) -> tuple[dict[str, Process], dict[str, Process]]:
    """Return the application's programs, and those that ended and are gone."""
    return programs_of(module.params["app_name"], Path(module.params["socket"]), Path(module.params["directory"]))


def previous(root: Path) -> str:
    """Return the release before the latest activation."""
    try:
        found: str = json.loads((root / ACTIVATION).read_text(encoding="utf-8"))["previous"]
    except (FileNotFoundError, ValueError, KeyError):
        return ""
    return found


def releases(root: Path) -> list[dict[str, Any]]:
    """Return the releases on the host, each with what would be lost if it took the place of the current one."""
    found = [record for path in (root / "releases").glob("*") if (record := read_record(path))]
    running = read_record((root / "current").resolve())
    version, signatures = (running.version, read_signatures(running.signatures)) if running else ("", {})
    return [
        {
            "version": record.version,
            "finished": record.finished,
            "sha256": record.sha256,
            "lost": lost(version, signatures, read_signatures(record.signatures)),
        }
        for record in sorted(found, key=lambda record: record.finished)
    ]


def depths(module: AnsibleModule, seconds: float) -> tuple[dict[str, int], dict[str, int]]:
    """Return the depths of the queues when first asked, and once none is too deep or these seconds are over.

    Raises:
        SupervisorError: the broker can't be asked.
    """
    queues, limits = module.params["queues"], module.params["limits"]
    if not queues:
        return {}, {}
    run = [*celery_run(module.params["root"], module.params["user"]), "python", "-c", DEPTHS, module.params["app"]]
    limited = {queue: limits[queue] for queue in queues if queue in limits}
    arguments = [json.dumps(queues), json.dumps(limited), str(max(seconds, LEAST_SECONDS))]
    code, output, error = module.run_command([*run, *arguments], cwd="/")
    if code:
        raise SupervisorError(f"The broker can't be asked for the depths of its queues:\n{error.strip()[-2000:]}")
    first, last = json.loads(output.splitlines()[-1])
    return first, last


def run(module: AnsibleModule) -> dict[str, Any]:
    root, directory = Path(module.params["root"]), Path(module.params["state_dir"]) / "counts"
    left = wait_for_tasks(module, directory) if module.params["version"] else 0
    first_depths, last_depths = depths(module, left)
    counts = by_release(directory)
    processes, gone = processes_of(module)
    current = root / "current"
    told: Counter[tuple[int, str]] = Counter()
    for each in counts.values():
        for second, cell in each.seconds.items():
            if module.params["since"] and second >= module.params["since"]:
                told.update({(second, kind): cell[kind] for kind in ("done", "failed")})
    seconds = sorted({second for second, _ in told})
    return {
        "changed": False,
        "now": time.time(),
        "nodename": socket.gethostname(),
        "drained": (root / DRAINED).exists(),
        "current": current.readlink().name if current.is_symlink() else "",
        "previous": previous(root),
        "releases": releases(root),
        "programs": [state_of(process) for process in processes.values()],
        "strays": strays_of(module.params["app_name"]),
        "ended": {name: process.ended for name, process in gone.items()},
        "counts": {release: dict(each.totals) for release, each in counts.items()},
        "depths": last_depths,
        "first_depths": first_depths,
        "seconds": [[second, told[second, "done"], told[second, "failed"]] for second in seconds],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app_name": {"type": "str", "required": True},
            "app": {"type": "str", "default": ""},
            "user": {"type": "str", "default": ""},
            "root": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "queues": {"type": "list", "elements": "str", "default": []},
            "version": {"type": "str", "default": ""},
            "tasks": {"type": "int", "default": 20},
            "seconds": {"type": "int", "default": 30},
            "limits": {"type": "dict", "default": {}},
            "since": {"type": "float", "default": 0},
            **OPTIONS,
        },
        supports_check_mode=True,
    )
    answer(module, partial(run, module))


if __name__ == "__main__":
    main()
