"""A project in the layout of Celery's documentation for Django is deployed, released and rolled back as it is."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from shared.deployed import connect, wait_until
from shared.playbook import PLAYBOOKS, changed, converge, run_playbook

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
RUN = "/srv/tutorial/bin/celery_run"
COUNTS = "demoapp.tasks.count_widgets"
EVERY = 2
RESTARTS = 2
SCHEDULE = "from django_celery_beat.models import IntervalSchedule, PeriodicTask; "
SETUP = "import django, json; django.setup(); from demoapp import tasks; from demoapp.models import Run, Widget; "


@pytest.fixture(scope="module")
def worker() -> Any:
    return connect("worker1")


def python(worker: Any, code: str) -> Any:
    """Run code of the project on the worker's host, and return what it prints."""
    return json.loads(worker.check_output(f"{RUN} python -c {shlex.quote(SETUP + code)}").splitlines()[-1])


def runs(worker: Any, ids: list[str]) -> list[list[str]]:
    """Return task, queue and release of the runs of tasks."""
    code = f"print(json.dumps(list(Run.objects.filter(uuid__in={ids!r}).values_list('task', 'queue', 'release'))))"
    found: list[list[str]] = python(worker, code)
    return found


def played(name: str, *options: str, **variables: Any) -> str:
    run = run_playbook(PLAYBOOKS / f"{name}.yml", *options, **variables)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr
    return " ".join(run.stdout.replace("''", "'").split())


def test_tasks_are_done_on_the_queues_that_the_declaration_names(worker: Any) -> None:
    code = (
        "w = Widget.objects.create(name='old'); "
        "sent = [tasks.rename_widget.delay(w.id, 'new'), tasks.add.delay(1, 2), tasks.count_widgets.delay()]; "
        "print(json.dumps([w.id, [each.id for each in sent]]))"
    )
    widget, ids = python(worker, code)
    wait_until(lambda: len(runs(worker, ids)) == len(ids), "not all of them are done")
    assert sorted((task.rpartition(".")[2], queue) for task, queue, _ in runs(worker, ids)) == [
        ("add", "default"),
        ("count_widgets", "widgets"),
        ("rename_widget", "widgets"),
    ]
    assert python(worker, f"print(json.dumps(Widget.objects.get(id={widget}).name))") == "new"


def test_files_beside_the_code_are_there(worker: Any) -> None:
    code = "w = Widget.objects.create(name='Ann'); print(json.dumps([tasks.write_mail.delay(w.id).id]))"
    ids = python(worker, code)
    wait_until(lambda: runs(worker, ids), "it is not done")
    wait_until(
        lambda: python(worker, "print(json.dumps(Widget.objects.filter(name__startswith='Dear Ann').count()))"),
        "no mail was written",
    )
    assert worker.file("/srv/tutorial/current/venv/src/manage.py").exists
    assert worker.run("runuser -u tutorial -- touch /srv/tutorial/current/venv/src/x").rc != 0


def test_the_projects_own_settings_hold_where_they_may(worker: Any) -> None:
    names = ["timezone", "task_acks_late", "task_track_started"]
    found = python(worker, f"from proj.celery import app; print(json.dumps([app.conf[name] for name in {names}]))")
    assert found == ["Australia/Tasmania", True, True]


def counted(worker: Any) -> list[float]:
    """Return when the periodic task ran, in seconds since the epoch."""
    code = f"print(json.dumps([run.at.timestamp() for run in Run.objects.filter(task={COUNTS!r}).order_by('at')]))"
    found: list[float] = python(worker, code)
    return found


def test_beat_follows_the_schedule_in_the_database(worker: Any) -> None:
    make = (
        "every = IntervalSchedule.objects.create(every=1, period='days'); "
        f"PeriodicTask.objects.create(name='count', task={COUNTS!r}, interval=every); print('{{}}')"
    )
    change = (
        "task = PeriodicTask.objects.get(name='count'); "
        f"task.interval = IntervalSchedule.objects.create(every={EVERY}, period='seconds'); task.save(); print('{{}}')"
    )
    python(worker, SCHEDULE + make)
    before = len(counted(worker))
    python(worker, SCHEDULE + change)
    wait_until(lambda: len(counted(worker)) > before + 1, "beat does not notice what was edited")


def test_it_is_released_under_load_and_rolled_back(worker: Any, tmp_path: Path) -> None:
    source = tmp_path / "application"
    shutil.copytree(SCENARIO / "application", source)
    path = source / "demoapp" / "tasks.py"
    path.write_text(path.read_text().replace("return x + y", "return y + x"))
    began = counted(worker)[-1]
    first = Path(worker.check_output("readlink /srv/tutorial/current")).name
    stop = Event()
    sent: list[str] = []

    def send() -> None:
        while not stop.is_set():
            sent.extend(python(worker, "print(json.dumps([tasks.add.delay(n, n).id for n in range(10)]))"))

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        try:
            wait_until(lambda: sent, "nothing is sent")
            told = played("deploy", test_source=str(source), celery_rollout_judge_seconds=10)
            second = Path(worker.check_output("readlink /srv/tutorial/current")).name
            back = played("rollback", celery_rollout_judge_seconds=10)
        finally:
            stop.set()
        sending.result()
    assert second != first
    assert "task_acks_late: the fleet's True applies, not the application's False" in told
    assert "timezone: the application's 'Australia/Tasmania' applies, not the fleet's 'UTC'" in told
    assert Path(worker.check_output("readlink /srv/tutorial/current")).name == first, back
    wait_until(lambda: len(runs(worker, sent)) >= len(sent), "tasks are lost")
    done = runs(worker, sent)
    assert len(done) == len(sent)
    assert {release for *_, release in done} == {first, second}
    # Two schedulers at once would send twice as many. One that starts sends at once what is overdue.
    ran = [at for at in counted(worker) if at >= began]
    assert (ran[-1] - ran[0]) / EVERY / 2 < len(ran) <= (ran[-1] - ran[0]) / EVERY + 1 + RESTARTS


def test_the_doctor_finds_nothing_and_a_second_run_changes_nothing() -> None:
    assert changed(converge()) == 0
    played("doctor")


def test_a_task_that_old_messages_need_is_not_removed(tmp_path: Path) -> None:
    source = tmp_path / "application"
    shutil.copytree(SCENARIO / "application", source)
    path = source / "demoapp" / "tasks.py"
    path.write_text(path.read_text().replace("def add(self, x, y)", "def add(self, x, z)").replace("x + y", "x + z"))
    run = run_playbook(PLAYBOOKS / "deploy.yml", test_source=str(source))
    assert run.returncode != 0
    said = " ".join(run.stdout.split())
    assert "The task demoapp.tasks.add requires z, which messages of the old release don't have" in said
    assert "No worker was touched" in said
