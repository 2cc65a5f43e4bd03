"""Two rollouts at once, and one that died."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from ansible_collections.fleet.celery.plugins.module_utils._controller import this_run
from ansible_collections.fleet.celery.plugins.module_utils._lock import STALE_SECONDS, Holder, take

ANN = Holder("run-1", "ann@controller", "controller", "17.4711", since=1000.0, heard=1100.0)


def bob(now: float, machine: str = "laptop") -> Holder:
    return Holder("run-2", "bob@laptop", machine, "18.5000", since=now, heard=now)


def test_a_free_lock_is_taken_and_kept() -> None:
    first = replace(ANN, heard=1000.0)
    assert take(None, first, []) == (first, "")
    again, _ = take(first, replace(ANN, since=1100.0), [])
    assert again == ANN


def test_a_live_one_keeps_others_out_and_says_who_it_is() -> None:
    holder, told = take(ANN, bob(1110.0), [])
    assert holder is None
    assert "ann@controller, since 110 s, last heard of 10 s ago" in told


def test_a_dead_one_is_taken_over() -> None:
    holder, told = take(ANN, bob(1100.0 + STALE_SECONDS), [])
    assert holder is not None
    assert holder.owner == "bob@laptop"
    assert "ann@controller" in told


def test_one_whose_process_is_gone_from_this_controller_is_taken_over_at_once() -> None:
    assert take(ANN, bob(1101.0, "controller"), ["18.5000"])[0] is not None
    assert take(ANN, bob(1101.0, "controller"), ["18.5000", "17.4711"])[0] is None
    assert take(replace(ANN, process=""), bob(1101.0, "controller"), ["18.5000"])[0] is None


def test_a_run_is_found_by_its_process_as_long_as_it_lives(tmp_path: Path) -> None:
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
