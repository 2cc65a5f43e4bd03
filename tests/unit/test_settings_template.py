"""The rendered settings, read by a real Celery application in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.filter.fleet import FilterModule
from ansible_collections.fleet.celery.plugins.module_utils._plan import make_plan
from ansible_collections.fleet.celery.plugins.module_utils._release import CHECK
from fleet import FACTS, GROUPS, declaration
from jinja2 import Environment, FileSystemLoader

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "templates"
MODULES = ROOT / "roles" / "celery_app" / "files"
COUNTS = ROOT / "plugins" / "module_utils" / "_counts.py"
URL = "amqp://shop:100%25@10.0.0.1:5672/shop"
QUEUES = [
    {"name": "customers", "tasks": ["customers.*", "orders.pay"], "time_limit": 60},
    {"name": "video", "tasks": ["video.*"], "time_limit": 1200},
    {"name": "ticks", "tasks": ["ticks.*"], "transient": True},
]
APP = """
from celery import Celery
app = Celery("shop")
{reads}
@app.task(name="customers.sync")
def sync(): pass
"""
READS = """
app.config_from_object("django.conf:settings", namespace="CELERY")
app.config_from_envvar("CELERY_CONFIG_MODULE", silent=True)
"""
TELL = """
import json, sys
from shop_app import app
router = app.amqp.router
def route(name):
    options = router.route({}, name)
    queue = options["queue"]
    return [queue.name, queue.exchange.name, queue.routing_key, options.get("delivery_mode")]
print(json.dumps({
    "queues": {q.name: [q.exchange.name, q.exchange.type, q.routing_key, q.durable, q.queue_arguments]
               for q in app.amqp.queues.values()},
    "routes": {name: route(name) for name in sys.argv[1:]},
    "conf": {name: app.conf.get(name) for name in (
        "broker_url", "task_acks_late", "task_compression", "result_backend", "worker_prefetch_multiplier",
        "broker_transport_options", "task_default_queue", "accept_content")},
}))
"""


@pytest.fixture(scope="module")
def planned() -> dict[str, Any]:
    workers = [
        {"name": "a", "group": "workers", "queues": ["customers", "ticks"], "concurrency": 1},
        {"name": "b", "group": "workers", "queues": ["video"], "concurrency": 1},
    ]
    result = make_plan(declaration(queues=QUEUES, workers=workers), GROUPS, FACTS)
    assert not result.problems
    return dict(result.values)


class Project:
    """A project beside its rendered settings."""

    def __init__(self, directory: Path, planned: dict[str, Any]) -> None:
        self.directory, self.planned = directory, planned
        self.write(READS)
        self.django("")

    def write(self, reads: str, **settings: Any) -> None:
        environment = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
        environment.filters |= {f"fleet.celery.{name}": call for name, call in FilterModule().filters().items()}
        overrides = {name: {"value": value, "reason": "set in celery_settings"} for name, value in settings.items()}
        text = environment.get_template("celery_fleet_settings.py.j2").render(
            self.planned | {"settings": self.planned["settings"] | overrides}
        )
        (self.directory / "celery_fleet_settings.py").write_text(text)
        for module in MODULES.glob("*.py"):
            shutil.copy(module, self.directory)
        shutil.copy(COUNTS, self.directory / "celery_fleet_counts.py")
        (self.directory / "shop_app.py").write_text(APP.format(reads=reads))

    def django(self, text: str) -> None:
        (self.directory / "shop_settings.py").write_text(f"SECRET_KEY = 'x'\n{text}")

    def run(self, code: str, *arguments: str, django: bool = True) -> Any:
        run = self.try_run(code, *arguments, django=django)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout.splitlines()[-1])

    def try_run(self, code: str, *arguments: str, django: bool = True) -> subprocess.CompletedProcess[str]:
        variables = {"DJANGO_SETTINGS_MODULE": "shop_settings"} if django else {}
        return subprocess.run(
            [sys.executable, "-Bc", code, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(self.directory),
                "CELERY_CONFIG_MODULE": "celery_fleet_settings",
                "CELERY_BROKER_URL": URL,
                **variables,
            },
        )


@pytest.fixture
def project(tmp_path: Path, planned: dict[str, Any]) -> Project:
    return Project(tmp_path, planned)


def test_queues_are_what_the_plan_says(project: Project) -> None:
    quorum = {"x-queue-type": "quorum"}
    assert project.run(TELL)["queues"] == {
        "customers": ["shop", "topic", "customers", True, quorum],
        "video": ["shop", "topic", "video", True, quorum],
        "ticks": ["shop", "topic", "ticks", False, {}],
    }


def test_each_task_goes_to_its_queue(project: Project) -> None:
    tasks = {
        "customers.sync": ["customers", "shop", "customers", None],
        "orders.pay": ["customers", "shop", "customers", None],
        "video.transcode.big": ["video", "shop", "video", None],
        "ticks.heartbeat": ["ticks", "shop", "ticks", 1],
        "somewhere.else": ["customers", "shop", "customers", None],
    }
    assert project.run(TELL, *tasks)["routes"] == tasks


@pytest.mark.parametrize("django", [True, False])
def test_the_brokers_url_comes_from_the_environment(project: Project, django: bool) -> None:
    project.django("CELERY_BROKER_URL = 'amqp://elsewhere'\n")
    if not django:
        project.write('app.config_from_envvar("CELERY_CONFIG_MODULE", silent=True)')
    assert project.run(TELL, django=django)["conf"]["broker_url"] == URL
    assert "100%" not in (project.directory / "celery_fleet_settings.py").read_text()


def test_djangos_settings_hold_where_the_fleet_says_nothing(project: Project) -> None:
    project.django(
        "CELERY_TASK_COMPRESSION = 'gzip'\nCELERY_RESULT_BACKEND = 'rpc://'\n"
        "CELERY_TASK_ACKS_LATE = False\nCELERY_ACCEPT_CONTENT = ['pickle']\n"
    )
    conf = project.run(TELL)["conf"]
    assert conf["task_compression"] == "gzip"
    assert conf["result_backend"] == "rpc://"
    assert conf["task_acks_late"] is True
    assert conf["accept_content"] == ["json"]


def test_what_a_user_overrides_arrives(project: Project) -> None:
    values = {"task_acks_late": False, "result_backend": 'it\'s 100% "x"', "worker_prefetch_multiplier": 4}
    project.write(READS, **values)
    conf = project.run(TELL)["conf"]
    assert {name: conf[name] for name in values} == values
    assert conf["broker_transport_options"]["confirm_publish"] is True
    assert conf["task_default_queue"] == "customers"


def test_the_check_finds_an_application_that_reads_the_settings(project: Project) -> None:
    # A name of the project's own in Django's settings is no mistake in celery_settings.
    project.django("CELERY_SHOP_SPECIAL = 1\n")
    found = project.run(CHECK, "shop_app:app")
    assert (found["tasks"], found["reads_settings"], found["unknown"]) == (["customers.sync"], True, [])


def test_the_check_finds_an_application_that_does_not(project: Project) -> None:
    project.django("CELERY_TASK_DEFAULT_QUEUE = 'customers'\nCELERY_BROKER_CONNECTION_MAX_RETRIES = None\n")
    project.write(READS.replace("app.config_from_envvar", "# "))
    assert project.run(CHECK, "shop_app:app")["reads_settings"] is False


def test_the_check_finds_a_setting_that_celery_does_not_know(project: Project) -> None:
    project.write(READS, task_ack_late=True)
    assert project.run(CHECK, "shop_app:app")["unknown"] == ["task_ack_late"]


@pytest.mark.parametrize("name", ["shop_app:nothing", "shop_app:sync_name", "shop_settings", "package"])
def test_the_check_says_where_it_found_no_application(project: Project, name: str) -> None:
    (project.directory / "package").mkdir()
    (project.directory / "package" / "__init__.py").write_text("")
    run = project.try_run(CHECK, name)
    assert run.returncode == 1
    assert f"holds no Celery application where celery_app_module says: {name}. Give module:variable" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(("name", "missing"), [("shop_apps:app", "shop_apps"), ("broken:app", "no_such_package")])
def test_the_check_shows_what_does_not_import(project: Project, name: str, missing: str) -> None:
    (project.directory / "broken.py").write_text("import no_such_package\n")
    run = project.try_run(CHECK, name)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == f"ModuleNotFoundError: No module named '{missing}'"


def test_the_check_finds_the_application_of_a_package(project: Project) -> None:
    (project.directory / "package").mkdir()
    (project.directory / "package" / "__init__.py").write_text("")
    celery = project.directory / "package" / "celery.py"
    celery.write_text("from shop_app import app\n")
    assert project.run(CHECK, "package")["tasks"] == ["customers.sync"]
    celery.write_text("import no_such_package\n")
    run = project.try_run(CHECK, "package")
    assert "No module named 'no_such_package'" in run.stderr
