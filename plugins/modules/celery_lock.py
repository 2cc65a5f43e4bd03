#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Hold the lock of a fleet's rollouts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_lock
short_description: Hold the lock of a fleet's rollouts, of which one is to run at a time
description:
  - Takes the lock, or keeps it where this run has it, or gives it back.
  - A rollout that was not heard of for a quarter of an hour is taken for dead, and at once where it was run on the same
    controller, whose process is gone.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: It says whether the lock could be taken.}
  diff_mode: {support: none, description: There is nothing to differ.}
options:
  path:
    description: The lock's file.
    type: path
    required: true
  run:
    description: Tells this run from another.
    type: str
    required: true
  owner:
    description: Who runs it, for people.
    type: str
    default: ""
  controller:
    description: What the lookup P(fleet.celery.controller#lookup) tells of this run.
    type: dict
    default: {}
  held:
    description: Whether to take or keep it, or to give it back.
    type: bool
    default: true
  take_over:
    description: Take it from whoever has it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Let no other rollout begin
  fleet.celery.celery_lock:
    path: /run/celery-fleet/shop.lock
    run: "{{ run }}"
    owner: ann@controller
"""

RETURN = r"""
told: {description: What is worth telling., type: str, returned: success}
"""

import fcntl
import json
import time
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._files import make_directory, write_file
from ansible_collections.fleet.celery.plugins.module_utils._lock import Holder, take

# A turn takes milliseconds.
TURN_SECONDS = 60


def read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def taken(mutex: int) -> bool:
    """Return whether it became this process's turn."""
    deadline = time.monotonic() + TURN_SECONDS
    while True:
        try:
            fcntl.flock(mutex, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)


def this_run(module: AnsibleModule) -> Holder:
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
        module.exit_json(changed=False, told="")
    # Of root alone: whoever else could open the files could hold them, for as long as they like.
    make_directory(path.parent, 0o700, "root", "root")
    # Two that ask at the same moment ask one after the other.
    with path.with_name(f"{path.name}.mutex").open("w") as mutex:
        if not taken(mutex.fileno()):
            module.fail_json(
                msg=f"{mutex.name} is held for longer than {TURN_SECONDS} s. See who has it: fuser -v {mutex.name}"
            )
        holder = read(path)
        if not module.params["held"]:
            if holder and holder.run == run and not module.check_mode:
                path.unlink()
            module.exit_json(changed=False, told="")
        if module.params["take_over"] and holder and holder.run != run:
            holder = None
        mine, told = take(holder, this_run(module), module.params["controller"].get("processes") or [])
        if mine is None:
            module.fail_json(msg=told)
            return
        if not module.check_mode:
            write_file(path, json.dumps(asdict(mine)) + "\n", 0o644, "root")
    module.exit_json(changed=False, told=told)


if __name__ == "__main__":
    main()
