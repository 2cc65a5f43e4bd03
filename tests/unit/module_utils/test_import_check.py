"""The import of an artifact's application on this machine."""

from __future__ import annotations

import platform
import sys
import sysconfig
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._artifact import pack
from ansible_collections.fleet.celery.plugins.module_utils._import_check import Import, import_application
from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError
from wheels import wheel

ROOT = Path(__file__).parents[3]
RUNTIME = ROOT / "plugins" / "module_utils" / "celery_fleet_runtime"
PYTHON = platform.python_version()
SETTINGS = """
from kombu import Queue
PRODUCER = False
FIRM = {"broker_url": "memory://", "task_queues": [Queue("email", queue_arguments={})], "task_routes": {}}
DEFAULTS = {"timezone": "UTC"}
DECLARED = []
LONGEST_TASK = {}
"""
APP = """
import os
from celery import Celery
app = Celery("mail")
app.conf.timezone = "Europe/Berlin"
{more}
@app.task(name="email.send")
def send(): pass
"""


def imported(
    tmp_path: Path, more: str = "", *, python: str = PYTHON, tag: str = "py3-none-any", **changes: str
) -> Import:
    wheels = tmp_path / "wheels"
    wheels.mkdir(exist_ok=True)
    # Instead of the wheels of Celery and its dependencies.
    here = {"here.pth": sysconfig.get_path("purelib")}
    artifact = tmp_path / f"mail-{tag}.tar"
    if not artifact.exists():
        wheel(wheels, "mail-1.0", APP.format(more=more), tag, more=here)
        pack(wheels, artifact, {"name": "mail", "version": "1.0", "python": "3"})
    modules = {f"{RUNTIME.name}/{path.name}": path.read_text() for path in RUNTIME.glob("*.py")}
    return import_application(
        artifact,
        python=python,
        modules={"celery_fleet_settings.py": SETTINGS, **modules},
        directory=tmp_path / "kept",
        **{"app": "mail:app", "environment": "PLACE=harbour\n", **changes},
    )


def test_application_is_imported_with_its_environment(tmp_path: Path) -> None:
    report = imported(tmp_path, 'assert os.environ["PLACE"] == "harbour"').report
    assert report["tasks"] == ["email.send"]
    (difference,) = report["differences"]
    assert (difference["name"], difference["application"]) == ("timezone", "'Europe/Berlin'")


def test_import_is_cached_until_a_change(tmp_path: Path) -> None:
    once = tmp_path / "once"
    more = f"open({str(once)!r}, 'a').write('x')"
    for _ in range(2):
        imported(tmp_path, more)
    assert once.read_text() == "x"
    imported(tmp_path, more, environment="PLACE=hill\n")
    assert once.read_text() == "xx"


@pytest.mark.parametrize(
    ("more", "app", "error"),
    [
        ("import no_such_package", "mail:app", "No module named 'no_such_package'"),
        ("", "mails:app", "No module named 'mails'"),
        ("", "mail:nothing", "contains no Celery application mail:nothing (celery_app_module)"),
        ("def broken(:", "mail:app", "SyntaxError"),
        ("undefined_name", "mail:app", "NameError"),
        ("from celery import celery_4", "mail:app", "cannot import name 'celery_4'"),
        ("Celery.no_such_option(1)", "mail:app", "AttributeError"),
        ("print(1, ends='')", "mail:app", "TypeError"),
    ],
)
def test_error_of_the_code_is_refused(tmp_path: Path, more: str, app: str, error: str) -> None:
    with pytest.raises(ReleaseError) as refused:
        imported(tmp_path, more, app=app)
    assert str(refused.value).startswith(f"{app} (celery_app_module) can't be imported, so no host was changed")
    assert error in str(refused.value)


@pytest.mark.parametrize(
    "more",
    [
        "os.environ['DATABASE_URL']",
        "if not os.getenv('DATABASE_URL'): raise ValueError('Set the DATABASE_URL variable')",
        "if 'DATABASE_URL' not in os.environ: raise RuntimeError('DATABASE_URL: field required')",
    ],
)
def test_variable_that_is_not_set_is_refused_with_its_name(tmp_path: Path, more: str) -> None:
    with pytest.raises(ReleaseError) as refused:
        imported(tmp_path, more)
    assert str(refused.value).endswith("Not set in the environment: DATABASE_URL. Set it in celery_app_environment")
    assert imported(tmp_path, more, environment="DATABASE_URL=x\n").report


@pytest.mark.parametrize(
    "more",
    [
        "open('/etc/mail/key')",
        "raise OSError('no database')",
        "os.getenv('DATABASE'); raise ConnectionError('no DATABASE')",
        "raise ValueError('no /etc/mail')",
        "raise ImportError('libGL.so.1: cannot open shared object file')",
    ],
)
def test_missing_file_or_service_is_not_refused(tmp_path: Path, more: str) -> None:
    found = imported(tmp_path, more)
    assert not found.report
    assert found.reason.startswith("the import failed, perhaps for a file or a service that only a host has:\n")
    assert more.split("'")[-2] in found.reason


def test_variables_that_the_application_looks_up_are_named_after_an_error(tmp_path: Path) -> None:
    more = "os.getenv('REDIS_URL'); os.environ.get('PLACE'); url = os.environ.get('DATABASE_URL'); url.startswith('x')"
    with pytest.raises(ReleaseError) as refused:
        imported(tmp_path, more)
    hint = "Variables that the application looks up and that are not set: DATABASE_URL REDIS_URL"
    assert str(refused.value).splitlines()[-2:] == [
        "AttributeError: 'NoneType' object has no attribute 'startswith'",
        hint,
    ]


def test_many_variables_do_not_hide_the_error(tmp_path: Path) -> None:
    more = "[os.getenv(f'MAIL_SETTING_{n:03}') for n in range(500)]; None.value"
    with pytest.raises(ReleaseError) as refused:
        imported(tmp_path, more)
    error, variables = str(refused.value).splitlines()[-2:]
    assert error == "AttributeError: 'NoneType' object has no attribute 'value'"
    assert variables.endswith("MAIL_SETTING_018 MAIL_SETTING_019 and 480 more")


def test_state_directory_of_hosts_is_a_temporary_directory_here(tmp_path: Path) -> None:
    more = (
        "import pathlib; place = pathlib.Path(os.environ['DATA']); (place / 'media').mkdir(parents=True)\n"
        "assert place.parent == pathlib.Path(os.environ['CELERY_APP_STATE_DIR'])\n"
        "assert os.environ['OTHER'] == '/var/lib/mail-archive'"
    )
    environment = "DATA=/var/lib/mail/data\nOTHER=/var/lib/mail-archive\n"
    found = imported(tmp_path, more, environment=environment, state_directory="/var/lib/mail")
    assert found.report
    assert not Path("/var/lib/mail/data").exists()


def test_missing_python_or_foreign_wheel_is_not_refused(tmp_path: Path) -> None:
    assert imported(tmp_path, python="3.99.1") == Import({}, "this machine has no Python 3.99")
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}-none-manylinux_2_17_s390x"
    (tmp_path / "wheels" / "mail-1.0-py3-none-any.whl").unlink()
    found = imported(tmp_path, tag=tag)
    assert found.reason.startswith("its wheels can't be installed on this machine")
