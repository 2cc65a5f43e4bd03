"""The rollout lock: held, renewed and stale."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from ansible_collections.fleet.celery.plugins.module_utils._controller import this_run
from ansible_collections.fleet.celery.plugins.module_utils._lock import STALE_SECONDS, Holder, acquire

ANN = Holder("run-1", "ann@controller", "controller", "17.4711", since=1000.0, heard=1100.0)


def bob(now: float, machine: str = "laptop") -> Holder:
    return Holder("run-2", "bob@laptop", machine, "18.5000", since=now, heard=now)


def test_a_free_lock_is_acquired_and_renewed() -> None:
    first = replace(ANN, heard=1000.0)
    assert acquire(None, first, []) == (first, "")
    again, _ = acquire(first, replace(ANN, since=1100.0), [])
    assert again == ANN


def test_a_held_lock_is_refused_with_its_holder() -> None:
    holder, message = acquire(ANN, bob(1110.0), [])
    assert holder is None
    assert "ann@controller, for 110 s, renewed 10 s ago" in message


def test_a_lock_that_was_not_renewed_is_taken_over() -> None:
    holder, message = acquire(ANN, bob(1100.0 + STALE_SECONDS), [])
    assert holder is not None
    assert holder.owner == "bob@laptop"
    assert "ann@controller" in message


def test_a_lock_whose_process_has_exited_is_taken_over_at_once_on_the_same_controller() -> None:
    assert acquire(ANN, bob(1101.0, "controller"), ["18.5000"])[0] is not None
    assert acquire(ANN, bob(1101.0, "controller"), ["18.5000", "17.4711"])[0] is None
    assert acquire(replace(ANN, process=""), bob(1101.0, "controller"), ["18.5000"])[0] is None


def test_a_run_is_listed_while_its_process_is_alive(tmp_path: Path) -> None:
    script = tmp_path / "ansible-playbook"
    script.write_text(
        f"import json, os, subprocess, sys\nsys.path[:] = {sys.path!r}\n"
        "from ansible_collections.fleet.celery.plugins.module_utils._controller import this_run\n"
        "worker = os.fork()\n"
        "if worker:\n    os.waitpid(worker, 0)\nelse:\n    run = this_run()\n"
        "    print(json.dumps([os.getppid(), run.process, run.processes]))\n",
        encoding="utf-8",
    )
    output = subprocess.run([sys.executable, script], capture_output=True, check=True, text=True).stdout
    main, process, processes = json.loads(output)
    assert process.partition(".")[0] == str(main)
    assert process in processes
    assert process not in this_run().processes
