"""A project in the layout of Celery's documentation for Django, its schedule in a database, is deployed as it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from shared.application import Application, attempts, changed_source, play, refused, replace_in
from shared.deployed import connect, wait_until
from shared.playbook import changed, converge

SOURCE = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "application"
TASKS = Path("demoapp", "tasks.py")
COUNTS = "demoapp.tasks.count_widgets"
# Seconds between runs of the periodic task.
EVERY = 2
RESTARTS = 2


@pytest.fixture(scope="module")
def tutorial() -> Application:
    setup = (
        "import django; django.setup()\n"
        "from demoapp import tasks\n"
        "from demoapp.models import Run, Widget\n"
        "from django_celery_beat.models import IntervalSchedule, PeriodicTask\n"
    )
    return Application(connect("worker1"), "tutorial", setup)


def runs(tutorial: Application, ids: list[str]) -> list[list[str]]:
    """Return task, queue and release of the runs of tasks."""
    code = f"print(json.dumps(list(Run.objects.filter(uuid__in={ids!r}).values_list('task', 'queue', 'release'))))"
    found: list[list[str]] = tutorial.python(code)
    return found


def counted(tutorial: Application) -> list[float]:
    """Return when the periodic task ran, in seconds since the epoch."""
    code = f"print(json.dumps([run.at.timestamp() for run in Run.objects.filter(task={COUNTS!r}).order_by('at')]))"
    found: list[float] = tutorial.python(code)
    return found


def test_tasks_are_done_on_the_queues_that_the_declaration_names(tutorial: Application) -> None:
    widget, ids = tutorial.python(
        "w = Widget.objects.create(name='old')\n"
        "sent = [tasks.rename_widget.delay(w.id, 'new'), tasks.add.delay(1, 2), tasks.count_widgets.delay()]\n"
        "print(json.dumps([w.id, [each.id for each in sent]]))"
    )
    wait_until(lambda: len(runs(tutorial, ids)) == len(ids), "not all of them are done")
    assert sorted((task.rpartition(".")[2], queue) for task, queue, _ in runs(tutorial, ids)) == [
        ("add", "default"),
        ("count_widgets", "widgets"),
        ("rename_widget", "widgets"),
    ]
    name = f"print(json.dumps(Widget.objects.get(id={widget}).name))"
    wait_until(lambda: tutorial.python(name) == "new", "the widget has its old name")


def test_a_task_of_the_next_moment_is_done_and_one_that_is_too_late_is_no_dead_letter(tutorial: Application) -> None:
    late, soon = tutorial.python(
        "late = tasks.add.apply_async((1, 2), expires=0.001)\n"
        "soon = tasks.add.apply_async((1, 2), countdown=0.4)\n"
        "print(json.dumps([late.id, soon.id]))"
    )
    wait_until(lambda: runs(tutorial, [soon]), "it is not done")
    assert runs(tutorial, [late]) == []
    queues = connect("broker1").check_output("rabbitmqctl -q -p tutorial list_queues name messages")
    assert "tutorial.dead\t0" in queues.splitlines()


def test_files_beside_the_code_are_there(tutorial: Application) -> None:
    ids = tutorial.python("w = Widget.objects.create(name='Ann')\nprint(json.dumps([tasks.write_mail.delay(w.id).id]))")
    wait_until(lambda: runs(tutorial, ids), "it is not done")
    mails = "print(json.dumps(Widget.objects.filter(name__startswith='Dear Ann').count()))"
    wait_until(lambda: tutorial.python(mails), "no mail was written")
    assert tutorial.host.file("/srv/tutorial/current/venv/src/manage.py").exists
    assert tutorial.host.run("runuser -u tutorial -- touch /srv/tutorial/current/venv/src/x").rc != 0


def test_the_projects_own_settings_hold_where_they_may(tutorial: Application) -> None:
    names = ["timezone", "task_acks_late", "task_track_started"]
    found = tutorial.python(f"from proj.celery import app\nprint(json.dumps([app.conf[name] for name in {names}]))")
    assert found == ["Australia/Tasmania", True, True]


def test_beat_follows_the_schedule_in_the_database(tutorial: Application) -> None:
    tutorial.python(
        "every = IntervalSchedule.objects.create(every=1, period='days')\n"
        f"PeriodicTask.objects.create(name='count', task={COUNTS!r}, interval=every)\n"
        "print('{}')"
    )
    before = len(counted(tutorial))
    tutorial.python(
        "task = PeriodicTask.objects.get(name='count')\n"
        f"task.interval = IntervalSchedule.objects.create(every={EVERY}, period='seconds')\n"
        "task.save()\n"
        "print('{}')"
    )
    wait_until(lambda: len(counted(tutorial)) > before + 1, "beat does not notice what was edited")


def test_it_is_released_under_load_and_rolled_back(tutorial: Application, tmp_path: Path) -> None:
    source = changed_source(
        SOURCE, tmp_path / "a", lambda copy: replace_in(copy / TASKS, "return x + y", "return y + x")
    )
    began = counted(tutorial)[-1]
    send = "[tasks.add.delay(n, n).id for n in range(10)]"
    told, sent, releases = tutorial.release_under_load(send, test_source=source)
    assert "task_acks_late: the fleet's True applies, not the application's False" in told
    assert "timezone: the application's 'Australia/Tasmania' applies, not the fleet's 'UTC'" in told
    wait_until(lambda: len(runs(tutorial, sent)) >= len(sent), "tasks are lost")
    done = runs(tutorial, sent)
    assert len(done) == len(sent)
    assert {release for *_, release in done} == releases
    # Two schedulers at once would send twice as many. One that starts sends at once what is overdue.
    ran = [at for at in counted(tutorial) if at >= began]
    assert (ran[-1] - ran[0]) / EVERY / 2 < len(ran) <= (ran[-1] - ran[0]) / EVERY + 1 + RESTARTS


def test_a_web_server_sends_tasks_and_may_do_nothing_else(tutorial: Application) -> None:
    ids = tutorial.produce(
        f"sent = [app.send_task('demoapp.tasks.add', (1, 2)), app.send_task({COUNTS!r}, countdown=2)]\n"
        "print(json.dumps([each.id for each in sent]))"
    )
    wait_until(lambda: len(runs(tutorial, ids)) == len(ids), "not all of them are done")
    # A task for later comes by a key that ends with its queue.
    assert {queue.rpartition(".")[2] for _, queue, _ in runs(tutorial, ids)} == {"default", "widgets"}
    assert tutorial.produce(attempts("default")) == ["AccessRefused"] * 3


def test_a_new_password_of_web_servers_restarts_no_worker(tutorial: Application) -> None:
    pid = tutorial.host.check_output("supervisorctl pid tutorial-all")
    assert changed(converge(rabbitmq_producer_password="an%other 1")) > 0
    ids = tutorial.produce("print(json.dumps([app.send_task('demoapp.tasks.add', (1, 2)).id]))")
    wait_until(lambda: runs(tutorial, ids), "it is not done")
    assert tutorial.host.check_output("supervisorctl pid tutorial-all") == pid
    assert changed(converge()) > 0


def test_the_doctor_finds_nothing_and_a_second_run_changes_nothing() -> None:
    assert changed(converge()) == 0
    told = play("doctor")
    assert "timezone: the application's 'Australia/Tasmania' applies, not the fleet's 'UTC'" in told


def test_logs_of_all_hosts_are_shown() -> None:
    assert "all@worker1 ready" in play("logs", celery_logs_grep="ready|Scheduler")
    told = play("logs", celery_logs_programs=["tutorial-beat"])
    assert "Sending due task count" in told
    assert "The programs are tutorial-all, tutorial-beat" in refused("logs", celery_logs_programs=["tutorial-none"])


def test_a_task_that_old_messages_need_is_not_removed(tmp_path: Path) -> None:
    def change(copy: Path) -> None:
        replace_in(copy / TASKS, "def add(self, x, y)", "def add(self, x, z)")
        replace_in(copy / TASKS, "x + y", "x + z")

    told = refused("deploy", test_source=changed_source(SOURCE, tmp_path / "a", change))
    assert "The task demoapp.tasks.add requires z, which messages of the old release don't have" in told
    assert "No worker was touched" in told


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the controller has another Python than worker1")
def test_a_plan_imports_the_project_and_reports_its_settings() -> None:
    told = play("plan", celery_plan_build=True)
    assert "timezone: the application's 'Australia/Tasmania' applies, not the fleet's 'UTC'" in told
    told = refused("plan", celery_plan_build=True, celery_app_module="proj.missing:app")
    assert "proj.missing:app (celery_app_module) can't be imported, so no host was changed" in told
    assert "No module named 'proj.missing'" in told
