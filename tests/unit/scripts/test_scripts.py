"""The project's own scripts: what they count, and what they find wrong."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scripts.check_argument_specs import problems_of
from scripts.role_readmes import BEGIN, END, rendered
from scripts.test import MARK, Run, Step, alone, chosen, end_leftovers, quick_steps, run_all, started_at

OPTION: dict[str, Any] = {"description": "Where it listens.", "type": "int", "default": 80}


def spec(**options: dict[str, Any]) -> dict[str, Any]:
    return {"argument_specs": {"main": {"short_description": "A role", "options": options}}}


def read(step: Step, *lines: str) -> Step:
    for line in lines:
        step.read(line)
    return step


def test_a_spec_that_agrees_with_the_defaults_has_no_problems() -> None:
    assert problems_of("web", {"web_port": 80}, spec(web_port=OPTION)) == []


@pytest.mark.parametrize(
    ("defaults", "option", "problem"),
    [
        ({"web_port": 81}, OPTION, "web: web_port defaults to 81, but its spec says 80"),
        ({}, OPTION, "web: the spec gives web_port a default that defaults/main.yml does not have"),
        ({"web_port": 80}, {**OPTION, "description": ""}, "web: web_port has no description"),
        (
            {"web_port": 80},
            {"description": "x", "type": "int", "required": True},
            "web: web_port is required, yet it has a default",
        ),
        ({"web_port": 80}, {"description": "x", "type": "int"}, "web: the spec does not show the default of web_port"),
    ],
)
def test_each_difference_between_spec_and_defaults_is_named(
    defaults: dict[str, Any], option: dict[str, Any], problem: str
) -> None:
    assert problems_of("web", defaults, spec(web_port=option)) == [problem]


def test_a_default_without_documentation_is_named() -> None:
    assert problems_of("web", {"web_port": 80, "web_x": 1}, spec(web_port=OPTION)) == [
        "web: web_x has a default but is not in the spec"
    ]


def test_true_and_1_are_not_the_same_default() -> None:
    option = {"description": "x", "type": "bool", "default": True}
    assert problems_of("web", {"web_on": 1}, spec(web_on=option)) != []


def test_a_readme_keeps_its_authors_text_around_the_table() -> None:
    text = rendered("web", spec(web_port=OPTION), f"# Web\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    assert text.startswith("# Web\n\nBefore.\n")
    assert text.endswith(f"{END}\n\nAfter.\n")
    assert "| `web_port` | int | `80` | Where it listens. |" in text
    assert "old" not in text
    assert rendered("web", spec(web_port=OPTION), text) == text


def test_a_bar_in_a_description_does_not_end_its_cell() -> None:
    text = rendered("web", spec(web_port={**OPTION, "description": "C(a|b), see V(c)."}), "")
    assert "| `a\\|b`, see `c`. |" in text


def test_the_phases_and_tests_of_a_scenario_are_counted() -> None:
    step = read(
        Step("web", "scenario", []),
        "INFO     [web > create] Executing\n",
        "INFO     [web > create] Executed: Successful\n",
        "INFO     [web > verify] Executing\n",
        "5 passed in 8.22s\n",
        "INFO     [web > verify] Executed: Successful\n",
        "web > create: Executed: Successful\n",
    )
    step.close(0)
    assert (step.passed, step.failed, step.phase) == (6, 0, "verify")


def test_failed_tests_and_errors_are_counted_as_failed() -> None:
    step = read(Step("unit", "unit", []), "2 failed, 3 passed, 1 error in 20.51s\n")
    step.close(1)
    assert (step.passed, step.failed) == (3, 3)


def test_a_command_that_fails_without_a_failed_test_is_a_failure() -> None:
    step = read(Step("unit", "unit", []), "3 passed in 1.0s\n")
    step.close(2)
    assert (step.passed, step.failed) == (3, 1)


def test_a_run_without_any_test_is_a_failure() -> None:
    step = Step("unit", "unit", [])
    step.close(0)
    assert step.failed == 1


def test_an_unknown_step_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match=r"no such step: rabitmq\. The steps are: .*rabbitmq"):
        chosen("unit,rabitmq")


def test_the_quick_steps_are_lint_unit_tests_and_one_release() -> None:
    steps = quick_steps()
    assert {step.group for step in steps} == {"lint", "unit", "scenario"}
    (fleet,) = (step for step in steps if step.group == "scenario")
    (test,) = fleet.environment["PYTEST_ADDOPTS"].split()[1:]
    sources = Path(__file__).parents[3].glob("molecule/shared/release/test_*.py")
    assert any(f"def {test}(" in path.read_text(encoding="utf-8") for path in sources)


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("scripts.test.RUNNING", tmp_path)
    return tmp_path


def note(running: Path, pid: int, started: str) -> Path:
    path = running / "web.json"
    path.write_text(json.dumps({"pid": pid, "started": started, "mark": "web 1", "network": ""}), encoding="utf-8")
    return path


def test_processes_and_hosts_of_a_killed_run_are_removed(running: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True) as process:
        path = note(running, process.pid, started_at(process.pid))
        end_leftovers()
        assert process.wait(60) != 0
    assert not path.exists()


def test_another_process_of_the_same_number_is_left_alone(running: Path) -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, start_new_session=True) as process:
        path = note(running, process.pid, "1")
        end_leftovers()
        assert process.poll() is None
        process.communicate()
    assert process.returncode == 0
    assert not path.exists()


def test_a_second_run_at_a_time_is_refused(running: Path) -> None:
    with alone(), pytest.raises(SystemExit, match=r"another run is active: process \d+ in /"), alone():
        pass
    with (running / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.fixture
def run(running: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("scripts.test.LOGS", tmp_path)
    monkeypatch.setattr("scripts.test.ROOT", tmp_path)
    assert running == tmp_path
    return Run()


def test_a_step_is_run_and_its_costs_are_measured(run: Run, tmp_path: Path) -> None:
    work = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done; echo 3 passed in 1.0s"
    step = Step("unit", "unit", ["/bin/sh", "-c", work], cwd=tmp_path)
    run.execute(step)
    assert (step.passed, step.failed) == (3, 0)
    (cost,) = step.meter.costs
    assert 0 < cost.controller <= cost.wall * 1.1
    assert not list(tmp_path.glob("*.json")), "a step that has ended is noted still"


@pytest.mark.usefixtures("run")
def test_the_end_of_a_run_names_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.test.signal.signal", lambda *_: None)
    failure = "FAILED tests/test_web.py::test_a_page - AssertionError: 500"
    output = f"{failure}\n1 failed, 2 passed in 1.0s"
    bad = Step("web", "unit", ["/bin/sh", "-c", f"printf '%s\n' '{output}'; exit 1"], cwd=tmp_path)
    good = Step("mail", "unit", ["/bin/sh", "-c", "echo 3 passed in 1.0s"], cwd=tmp_path)
    assert run_all([bad, good], 1) == 1
    *_, steps, named, totals = capsys.readouterr().out.splitlines()
    assert "not passed: web" in steps
    assert named.strip() == f"web: {failure}"
    assert totals.endswith("5 passed, 1 failed")


def test_a_step_that_is_interrupted_ends(run: Run, tmp_path: Path) -> None:
    step = Step("unit", "unit", ["/bin/sleep", "1000"], cwd=tmp_path)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run.execute, step)
        deadline = time.monotonic() + 60
        while "unit" not in run.running and time.monotonic() < deadline:
            time.sleep(0.01)
        run.interrupt(signal.SIGTERM, None)
        done.result(timeout=60)
    assert (step.passed, step.failed) == (0, 1)


def test_processes_that_a_step_leaves_are_killed(run: Run, tmp_path: Path) -> None:
    # In a session of its own, as a worker that a test runs.
    # A process that is being started has no environment for a moment; one that writes has.
    left_over = "echo $$ >left.part; mv left.part left; kill -STOP $$"
    wait = "until [ -e left ]; do sleep 0.01; done"
    leave = f"setsid sh -c '{left_over}' >/dev/null 2>&1 & {wait}; echo 1 passed in 1.0s"
    step = Step("unit", "unit", ["/bin/sh", "-c", leave], cwd=tmp_path)
    run.execute(step)
    assert step.failed == 0
    left = int((tmp_path / "left").read_text(encoding="utf-8"))
    deadline = time.monotonic() + 60
    while started_at(left) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not started_at(left)


def test_a_step_does_not_end_another_of_its_name(run: Run, tmp_path: Path) -> None:
    step = Step("unit", "unit", ["/bin/sh", "-c", "echo 1 passed in 1.0s"], cwd=tmp_path)
    other = {MARK: Step("unit", "unit", []).mark}
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, env=other, start_new_session=True) as process:
        run.execute(step)
        assert process.poll() is None
        process.communicate()
    assert process.returncode == 0


def test_processes_of_a_step_of_a_killed_run_are_killed(running: Path) -> None:
    with subprocess.Popen(
        ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={MARK: "web 1"}, start_new_session=True
    ) as process:
        # A process that is being started has no environment for a moment; one that answers has.
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"x\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"x\n"
        # The step itself has ended.
        note(running, 1 << 30, "1")
        end_leftovers()
        assert process.wait(60) != 0
