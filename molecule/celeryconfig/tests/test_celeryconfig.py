"""A project that a module configures, on Celery 5.4 and classic queues with priorities, is deployed as it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from shared.application import Application, changed_source, refused, replace_in
from shared.deployed import connect, wait_until
from shared.playbook import changed, converge

SOURCE = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "application"
TASKS, CONFIG = Path("proj", "tasks.py"), Path("celeryconfig.py")


@pytest.fixture(scope="module")
def nextsteps() -> Application:
    return Application(connect("vm1"), "nextsteps", "from proj import tasks")


def ledger(nextsteps: Application) -> list[list[str]]:
    """Return id, name, queue and release of each task that was done."""
    found = nextsteps.host.run("cat /var/lib/nextsteps/ledger")
    return [line.split() for line in found.stdout.splitlines()]


def test_tasks_are_done_on_the_queues_that_the_module_names(nextsteps: Application) -> None:
    ids = nextsteps.python(
        "sent = [tasks.mul.delay(2, 3), tasks.xsum.apply_async(([1, 2],), priority=9)]\n"
        "print(json.dumps([each.id for each in sent]))"
    )
    wait_until(lambda: {line[0] for line in ledger(nextsteps)} >= set(ids), "not all of them are done")
    done = {line[0]: line[1:3] for line in ledger(nextsteps)}
    assert [done[each] for each in ids] == [["proj.tasks.mul", "urgent"], ["proj.tasks.xsum", "celery"]]


def test_its_annotations_hold(nextsteps: Application) -> None:
    assert nextsteps.python("print(json.dumps(tasks.mul.rate_limit))") == "100/s"


def test_beat_follows_the_module(nextsteps: Application) -> None:
    def added() -> int:
        return [line[1] for line in ledger(nextsteps)].count("proj.tasks.add")

    before = added()
    wait_until(lambda: added() > before + 1, "beat sends nothing")


def test_a_task_of_higher_priority_comes_first(nextsteps: Application) -> None:
    nextsteps.host.check_output("supervisorctl stop nextsteps-all")
    ids = nextsteps.python(
        "sent = [tasks.mul.apply_async((n, 1), priority=n) for n in (1, 5, 9)]\nprint(json.dumps([s.id for s in sent]))"
    )
    nextsteps.host.check_output("supervisorctl start nextsteps-all")
    wait_until(lambda: {line[0] for line in ledger(nextsteps)} >= set(ids), "not all of them are done")
    log = nextsteps.host.check_output("cat /var/log/nextsteps/nextsteps-all.log")
    assert sorted(ids, key=lambda each: log.index(f"[{each}] received")) == ids[::-1]


def test_it_is_released_under_load_and_rolled_back(nextsteps: Application, tmp_path: Path) -> None:
    source = changed_source(SOURCE, tmp_path / "a", lambda copy: replace_in(copy / TASKS, "x + y", "y + x"))
    send = "[tasks.xsum.delay([n]).id for n in range(10)]"
    told, sent, releases = nextsteps.release_under_load(send, test_source=source)
    assert "task_acks_late: the fleet's True applies, not the application's False" in told
    assert "timezone: the application's 'America/Anchorage' applies, not the fleet's 'UTC'" in told
    left_out = re.search(r"does not have these settings of the fleet, so they are left out: ([a-z_, ]+)", told)
    assert left_out
    assert "worker_detect_quorum_queues" in left_out[1]
    wait_until(lambda: {line[0] for line in ledger(nextsteps)} >= set(sent), "tasks are lost")
    done = [line for line in ledger(nextsteps) if line[0] in sent]
    assert len(done) == len(sent)
    assert {line[3] for line in done} == releases


def test_the_doctor_finds_what_this_celery_is_known_for_and_a_second_run_changes_nothing() -> None:
    assert changed(converge()) == 0
    told = refused("doctor")
    assert told.count("celery 5.4.0 has a known bug") == 3
    assert "consumers: ok versions: - vm1" in told
    assert " 3 findings" in told


def test_queues_that_its_celery_can_not_consume_are_refused(tmp_path: Path) -> None:
    source = changed_source(
        SOURCE, tmp_path / "a", lambda copy: replace_in(copy / CONFIG, "max_priority = 10", "x = 1")
    )
    queues = [{"name": "celery", "type": "quorum", "max_priority": 0}, {"name": "urgent"}]
    told = refused("deploy", test_source=source, celery_queues=queues)
    assert "Celery 5.4.0 can't consume quorum queues (celery). Require celery>=5.5 of the application" in told
    assert "No worker was touched" in told


def test_priorities_that_no_queue_has_are_refused(tmp_path: Path) -> None:
    source = changed_source(SOURCE, tmp_path / "a", lambda copy: replace_in(copy / CONFIG, "y = 10", "y = 9"))
    told = refused("deploy", test_source=source, celery_queue_defaults={"type": "classic", "time_limit": 60})
    assert "sets task_queue_max_priority to a highest priority of 9" in told
    assert "Set {type: classic, max_priority: 9} for the queues in celery_queues" in told
