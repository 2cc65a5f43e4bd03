"""The costs of a test run's steps."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from scripts.costs import Cost, Meter, machine_seconds, process_seconds, spent_table, table


def test_the_longest_step_comes_first_and_its_phases_stay_in_order() -> None:
    costs = [
        Cost("redis", "create", 10, 4, 6),
        Cost("fleet", "create", 20, 8, 12),
        Cost("fleet", "verify", 30, 1, 2),
    ]
    lines = table(costs)
    assert lines[2:] == [
        "| fleet | create | 20 | 8 | 12 |",
        "| fleet | verify | 30 | 1 | 2 |",
        "| redis | create | 10 | 4 | 6 |",
        "| all | | 60 | 13 | 20 |",
    ]


def test_the_time_by_kind_is_summed_over_scenarios(tmp_path: Path) -> None:
    notes = {"redis": [("broker", 2.0), ("waits", 1.0), ("broker", 3.0)], "fleet": [("waits", 9.0)]}
    for name, entries in notes.items():
        lines = [json.dumps({"kind": kind, "seconds": seconds}) for kind, seconds in entries]
        (tmp_path / f"{name}.spent").write_text("\n".join(lines), encoding="utf-8")
    paths = [tmp_path / f"{name}.spent" for name in ("fleet", "redis", "lint")]
    assert spent_table(paths)[2:] == ["| waits | 10 | fleet 9, redis 1 |", "| broker | 5 | redis 5 |"]


def test_the_cpu_time_of_a_process_and_its_children_is_measured() -> None:
    # The child is waited for by the shell, and so counts as its own.
    work = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done"
    with subprocess.Popen(["/bin/sh", "-c", f"sh -c '{work}'; read -r x"], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while process_seconds(process.pid) < 0.05 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process_seconds(process.pid) >= 0.05
        process.communicate(b"\n")
    assert process_seconds(process.pid) == 0.0


def test_a_step_without_hosts_has_the_costs_of_the_controller() -> None:
    meter = Meter("lint")
    meter.begin(100.0, os.getpid())
    meter.end("", 107.5, process_seconds(os.getpid()) + 3)
    (cost,) = meter.costs
    assert (cost.step, cost.phase, cost.wall, cost.hosts) == ("lint", "", 7.5, 0.0)
    assert 2.99 < cost.controller < 60


def test_the_machine_never_uses_more_than_it_has() -> None:
    used, whole = machine_seconds()
    assert 0 < used < whole
