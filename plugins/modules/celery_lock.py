#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Acquire, renew and release the rollout lock of a fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_lock
short_description: Acquire, renew or release the rollout lock of a fleet
description:
  - A fleet has one rollout at a time. The lock is a file on one of its hosts.
  - Acquires the lock, renews it where this run holds it already, or releases it.
  - A lock that was not renewed for 15 minutes is stale, and another run may acquire it.
  - A lock is also stale once the process of its run has ended. Only a run on the same controller can know that.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Reports whether the lock could be acquired.}
  diff_mode: {support: none, description: The lock's file is no configuration.}
options:
  path:
    description: The lock's file. Its directory is created, and belongs to root alone.
    type: path
    required: true
  run:
    description: Identifier of this run. The lock belongs to the run with this identifier.
    type: str
    required: true
  owner:
    description: The user and the controller, for the message that another run gets.
    type: str
    default: ""
  controller:
    description: Value of the lookup P(fleet.celery.controller#lookup). Without it, a lock gets stale by its age alone.
    type: dict
    default: {}
  held:
    description: V(true) acquires or renews the lock. V(false) releases it.
    type: bool
    default: true
  take_over:
    description: Acquire the lock also if another run holds it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Acquire the rollout lock
  fleet.celery.celery_lock:
    path: /run/celery-fleet/shop.lock
    run: "{{ run }}"
    owner: ann@controller
    controller: "{{ lookup('fleet.celery.controller') }}"

- name: Release the rollout lock
  fleet.celery.celery_lock:
    path: /run/celery-fleet/shop.lock
    run: "{{ run }}"
    held: false
"""

RETURN = r"""
message:
  description: The stale lock that was taken over. Empty if there was none.
  type: str
  returned: success
"""

import fcntl
import json
import time
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._files import make_directory, write_file
from ansible_collections.fleet.celery.plugins.module_utils._lock import Holder, acquire

# The mutex is held for milliseconds.
MUTEX_SECONDS = 60


def read(path: Path) -> Holder | None:
    """Return the holder of the lock; None if there is none."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def lock_mutex(mutex: int) -> bool:
    """Wait for the mutex of an open file; return False if another process holds it too long."""
    deadline = time.monotonic() + MUTEX_SECONDS
    while True:
        try:
            fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)


def this_run(module: AnsibleModule) -> Holder:
    """Return this run as a holder of the lock, since now."""
    controller, now = module.params["controller"], time.time()
    machine, process = controller.get("machine", ""), controller.get("process", "")
    return Holder(module.params["run"], module.params["owner"], machine, process, now, now)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "run": {"type": "str", "required": True},
            "owner": {"type": "str", "default": ""},
            "controller": {"type": "dict", "default": {}},
            "held": {"type": "bool", "default": True},
            "take_over": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    path, run = Path(module.params["path"]), module.params["run"]
    if module.check_mode and not path.parent.is_dir():
        module.exit_json(changed=False, message="")
    # Only for root: any other user who could open the files could lock them.
    make_directory(path.parent, 0o700, "root", "root")
    # Two runs at the same moment read and write the lock one after the other.
    with path.with_name(f"{path.name}.mutex").open("w") as mutex:
        if not lock_mutex(mutex.fileno()):
            module.fail_json(
                msg=f"{mutex.name} has been locked for more than {MUTEX_SECONDS} s. Find the process that locks it: "
                f"fuser -v {mutex.name}"
            )
        holder = read(path)
        if not module.params["held"]:
            if holder and holder.run == run and not module.check_mode:
                path.unlink()
            module.exit_json(changed=False, message="")
        if module.params["take_over"] and holder and holder.run != run:
            holder = None
        mine, message = acquire(holder, this_run(module), module.params["controller"].get("processes") or [])
        if mine is None:
            module.fail_json(msg=message)
            return
        if not module.check_mode:
            write_file(path, json.dumps(asdict(mine)) + "\n", 0o644, "root")
    module.exit_json(changed=False, message=message)


if __name__ == "__main__":
    main()
