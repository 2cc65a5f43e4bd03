"""A Flask application with a factory, whose code sets queues, routes and settings, is deployed as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shared.application import Application, attempts, changed_source, play, refused, replace_in
from shared.deployed import connect
from shared.playbook import changed, converge, failures

SOURCE = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "application"
PROJECT, FACTORY, TASKS = Path("pyproject.toml"), Path("shopfront", "__init__.py"), Path("shopfront", "tasks.py")
MOMENTS = ("before_stage", "before_activate", "after_activate", "after_release", "after_rollback")
SEND = "[tasks.greet.delay(str(n)).id for n in range(10)]"


@pytest.fixture(scope="module")
def shopfront() -> Application:
    return Application(
        connect("vm1"), "shopfront", "from shopfront.worker import celery_app\nfrom shopfront import tasks"
    )


def test_tasks_are_done_on_the_queues_that_the_code_names(shopfront: Application) -> None:
    found = shopfront.python(
        "sent = [tasks.ship.delay('p'), tasks.pay_invoice.delay(3), tasks.greet.delay('Ann')]\n"
        "print(json.dumps([each.get(timeout=600) for each in sent]))"
    )
    assert found == [["shipping", "2.0.0", "p"], ["payments", "2.0.0", "EUR"], ["shopfront", "2.0.0", "Ann"]]


def test_a_web_server_sends_tasks_reads_results_and_may_do_nothing_else(shopfront: Application) -> None:
    send = "print(json.dumps(app.send_task('shopfront.tasks.ship', ('p',), queue='shipping').get(timeout=600)[:1]))"
    assert shopfront.produce(send) == ["shipping"]
    assert shopfront.produce(attempts("shipping")) == ["NoPermissionError"] * 3


def test_it_is_released_under_load_and_rolled_back(shopfront: Application, tmp_path: Path) -> None:
    source = changed_source(SOURCE, tmp_path / "a", lambda copy: replace_in(copy / PROJECT, "2.0.0", "2.1.0"))
    told, sent, releases = shopfront.release_under_load(SEND, test_source=source)
    assert "task_time_limit: the fleet's None applies, not the application's 7200" in told
    assert "timezone: the application's 'Europe/Lisbon' applies, not the fleet's 'UTC'" in told
    done = shopfront.python(f"print(json.dumps([celery_app.AsyncResult(id).get(timeout=600) for id in {sent!r}]))")
    assert len(done) == len(sent)
    assert {release for _, release, _ in done} == releases == {"2.0.0", "2.1.0"}


def test_hooks_run_at_their_moments_and_one_that_fails_takes_the_release_back(
    shopfront: Application, tmp_path: Path
) -> None:
    source = changed_source(SOURCE, tmp_path / "a", lambda copy: replace_in(copy / PROJECT, "2.0.0", "2.4.0"))
    note = "sh -c 'echo {} $CELERY_APP_RELEASE >> $CELERY_APP_STATE_DIR/moments'"
    hooks = {moment: [note.format(moment)] for moment in MOMENTS}

    def moments() -> list[str]:
        return str(shopfront.host.check_output("cat /var/lib/shopfront/moments")).splitlines()

    bad = hooks | {"after_activate": [note.format("after_activate"), "ls /nowhere"]}
    told = refused("deploy", test_source=source, celery_hooks=bad)
    assert "The hook ls /nowhere failed with exit code 2: ls: cannot access" in told
    assert shopfront.release() == "2.0.0"
    begun = ["before_stage 2.0.0", "before_activate 2.4.0", "after_activate 2.4.0"]
    assert moments() == [*begun, "after_rollback 2.0.0"]

    play("deploy", test_source=source, celery_hooks=hooks, celery_rollout_observe_seconds=1)
    play("rollback", celery_hooks=hooks, celery_rollout_observe_seconds=1)
    assert moments()[4:] == [*begun, "after_release 2.4.0", "after_rollback 2.0.0"]


def test_the_doctor_finds_nothing_and_a_second_run_changes_nothing(shopfront: Application) -> None:
    assert changed(converge()) == 0
    play("doctor")
    assert "NoPermissionError" not in shopfront.host.check_output("cat /var/log/shopfront/*.log")


def test_a_queue_that_nobody_consumes_is_refused(tmp_path: Path) -> None:
    def change(copy: Path) -> None:
        replace_in(copy / FACTORY, '"queue": "shipping"', '"queue": "parcels"')
        replace_in(copy / PROJECT, "2.0.0", "2.2.0")

    told = refused("deploy", test_source=changed_source(SOURCE, tmp_path / "a", change))
    assert "the route of the task shopfront.tasks.ship sends tasks to the queue parcels, which celery_queues" in told
    assert "No worker was touched" in told


def test_a_limit_above_that_of_the_workers_is_refused(tmp_path: Path) -> None:
    def change(copy: Path) -> None:
        replace_in(
            copy / TASKS, "@shared_task(bind=True)\ndef ship", "@shared_task(bind=True, time_limit=600)\ndef ship"
        )
        replace_in(copy / PROJECT, "2.0.0", "2.3.0")

    told = refused("deploy", test_source=changed_source(SOURCE, tmp_path / "a", change))
    assert "The task shopfront.tasks.ship sets time_limit=600" in told
    assert "Set time_limit: 600 for the queue shipping in celery_queues" in told


def test_a_first_release_whose_hook_fails_is_installed_again_with_its_hooks(shopfront: Application) -> None:
    shopfront.host.check_output("rm /srv/shopfront/current")
    assert "The hook ls /nowhere failed" in failures(converge(celery_hooks={"before_activate": ["ls /nowhere"]}))["vm1"]
    assert not shopfront.host.file("/srv/shopfront/current").exists
    assert changed(converge(celery_hooks={"before_activate": ["touch /var/lib/shopfront/migrated"]}))
    assert shopfront.host.file("/var/lib/shopfront/migrated").exists
    assert shopfront.release() == "2.0.0"
