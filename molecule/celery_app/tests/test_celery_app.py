"""A release is complete, closed, and checked before it takes effect; one that is wrong changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._artifact import manifest_of
from ansible_collections.fleet.celery.plugins.module_utils._resolve import resolve
from shared.deployed import RUN, connect
from shared.playbook import converge

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
EXAMPLE = SCENARIO.parents[1] / "example"
ARTIFACTS = Path("~/.cache/celery-fleet/artifacts").expanduser()
PASSWORD = "b?oker@pass/100%"
PASSWORD_IN_URL = "b%3Foker%40pass%2F100%25"
KEY = "dj@ngo 'se\"cret' $HOME 100% %(x)s {x} \\ # end"
DUMP = f'{RUN} python -c "import json, os; print(json.dumps(dict(os.environ)))"'
APP = 'app = Celery("shop")'
HOSTS = ("debian12", "debian13")


def apply(*arguments: str, **variables: Any) -> str:
    run = converge(*arguments, **variables)
    assert run.returncode == 0, run.stdout[-5000:]
    return run.stdout


def refuse(**variables: Any) -> str:
    """Apply the role to one host, which must fail, and return what is said."""
    run = converge("--limit", "debian12", **variables)
    assert run.returncode != 0, run.stdout[-5000:]
    return run.stdout


def state(host: Any) -> str:
    """Return all that a program starts from, and when it was written."""
    files = "/etc/shop/environment /etc/shop/celery_fleet_settings.py /srv/shop/bin/celery_supervisor"
    text: str = host.check_output(f"readlink /srv/shop/current; stat -c '%n %Y %a %U %G' {files}; sha256sum {files}")
    return text


def record(host: Any, version: str = "1.0.0") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(host.check_output(f"cat /srv/shop/releases/{version}/release.json"))
    return content


def variables(host: Any) -> dict[str, str]:
    found: dict[str, str] = json.loads(host.check_output(DUMP))
    return found


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Any:
    return connect(request.param)


@pytest.fixture
def one() -> Any:
    """One host is enough for what is refused: each run against it takes seconds."""
    return connect("debian12")


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of both hosts' artifacts in one directory, without the shop's own."""
    directory = tmp_path_factory.mktemp("wheelhouse")
    wanted = {record(connect(name))["sha256"] for name in HOSTS}
    for artifact in ARTIFACTS.glob("shop-*.tar"):
        if hashlib.sha256(artifact.read_bytes()).hexdigest() in wanted:
            shutil.unpack_archive(artifact, directory)
    assert {"cp311", "cp313"} <= {part for path in directory.glob("*.whl") for part in path.name.split("-")}
    for path in directory.glob("shop-*.whl"):
        path.unlink()
    return directory


def project(directory: Path, version: str, old: str = "", new: str = "") -> Path:
    """Copy the shop and change its version and a line of shop/celery.py."""
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    path = directory / "pyproject.toml"
    path.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', path.read_text(), count=1))
    (directory / "requirements.lock").unlink()
    path = directory / "shop" / "celery.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new) if old else path.read_text())
    return directory


@pytest.fixture
def given(tmp_path: Path, wheelhouse: Path) -> dict[str, str]:
    """Return variables that build from a wheelhouse and leave nothing in the user's cache."""
    return {"test_wheelhouse": str(wheelhouse), "celery_app_artifact_dir": str(tmp_path / "artifacts")}


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    apply()


def test_directories_and_files_are_closed_to_others(host: Any) -> None:
    expected = {
        "/srv/shop": "755 root root",
        "/srv/shop/bin": "755 root root",
        "/srv/shop/bin/celery_supervisor": "755 root root",
        "/srv/shop/runtime": "755 root root",
        "/srv/shop/runtime/celery_fleet_runtime": "755 root root",
        "/srv/shop/runtime/celery_fleet_runtime/loader.py": "644 root root",
        "/srv/shop/releases": "755 root root",
        "/srv/shop/releases/1.0.0": "755 root root",
        "/srv/shop/releases/1.0.0/release.json": "644 root root",
        "/etc/shop": "755 root root",
        "/etc/shop/environment": "640 root shop",
        "/etc/shop/celery_fleet_settings.py": "644 root root",
        "/etc/shop/programs": "750 root shop",
        "/var/lib/shop": "750 shop shop",
        "/var/log/shop": "750 root shop",
    }
    found = host.check_output(f"stat -c '%n %a %U %G' {' '.join(expected)}").splitlines()
    assert dict(line.split(" ", 1) for line in found) == expected
    assert host.check_output("readlink /srv/shop/current") == "releases/1.0.0"
    assert sorted(host.check_output("ls -A /srv/shop").split()) == ["bin", "current", "releases", "runtime"]
    assert sorted(host.check_output("ls -A /srv/shop/releases/1.0.0").split()) == ["release.json", "venv"]


def test_the_application_can_write_to_nothing_that_it_runs(host: Any) -> None:
    command = "cd / && runuser -u shop -- find /srv/shop /etc/shop -writable"
    assert not host.check_output(f"{command} ! -type l")
    assert host.check_output("cd / && runuser -u shop -- find /var/lib/shop -maxdepth 0 -writable") == "/var/lib/shop"
    assert not host.check_output("find /srv/shop /etc/shop ! -user root")


def test_the_user_can_not_log_in(host: Any) -> None:
    assert host.user("shop").shell == "/usr/sbin/nologin"
    assert host.user("shop").home == "/var/lib/shop"
    assert host.check_output("getent shadow shop").split(":")[1][:1] in "!*"


def test_commands_run_in_the_release_as_its_user(host: Any) -> None:
    code = "import getpass, os, sys, shop; print(getpass.getuser(), os.getcwd(), sys.prefix, *sys.version_info[:2])"
    user, cwd, prefix, *version = host.check_output(f"{RUN} python -c '{code}'").split()
    assert (user, cwd, prefix) == ("shop", "/var/lib/shop", "/srv/shop/releases/1.0.0/venv")
    assert version == host.check_output("/usr/bin/python3 -c 'import sys; print(*sys.version_info[:2])'").split()
    assert "5.7.0" in host.check_output(f"{RUN} celery -A shop.celery:app --version")
    assert host.run(f"{RUN} django-admin check").rc == 0


def test_any_value_arrives_as_it_was_declared(host: Any) -> None:
    found = variables(host)
    assert found["SHOP_SECRET_KEY"] == KEY
    assert found["SHOP_LINES"] == "first\r\n  second $(id)\n`third`\n"
    assert (found["SHOP_EMPTY"], found["SHOP_SWITCH"], found["config"]) == ("", "true", "not the wrapper's own")
    assert found["CELERY_BROKER_URL"] == f"amqp://shop:{PASSWORD_IN_URL}@127.0.0.1:1/shop"
    assert found["HOME"] == "/var/lib/shop"
    assert found["CELERY_APP_RELEASE"] == "1.0.0"
    code = (
        "from shop.celery import app; from django.conf import settings; "
        "print(app.connection().password, settings.SECRET_KEY)"
    )
    assert host.check_output(f'{RUN} python -c "{code}"') == f"{PASSWORD} {KEY}"


def test_the_application_runs_on_the_fleets_settings(host: Any) -> None:
    code = (
        "from shop.celery import app; "
        "print(app.conf.task_acks_late, sorted(app.amqp.queues), app.conf.task_ignore_result)"
    )
    # The last is Django's, of which the fleet says nothing here.
    assert host.check_output(f'{RUN} python -c "{code}"') == "True ['customers', 'ticks'] True"


def test_the_record_names_the_tasks(host: Any) -> None:
    found = record(host)
    assert {"customers.sync", "ticks.heartbeat", "video.transcode"} <= set(found["tasks"])
    assert not [name for name in found["tasks"] if name.startswith("celery.")]
    artifacts = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in ARTIFACTS.glob("shop-*.tar")}
    assert found["wheels"] == manifest_of(artifacts[found["sha256"]])["wheels"]


def test_what_is_installed_is_what_the_lock_names(host: Any) -> None:
    python = host.check_output("/usr/bin/python3 -c 'import platform; print(platform.python_version())'")
    lock = resolve([], [EXAMPLE / "requirements.lock"], python=python, machine="x86_64", directory=EXAMPLE)
    expected = {package.name: package.version for package in lock} | {"shop": "1.0.0"}
    code = (
        "import json; from importlib.metadata import distributions; "
        "print(json.dumps([[each.metadata['Name'], each.version] for each in distributions()]))"
    )
    installed = json.loads(host.check_output(f'{RUN} python -c "{code}"'))
    assert {re.sub(r"[._]", "-", name.lower()): version for name, version in installed} == expected


def test_the_application_can_not_choose_where_root_writes(one: Any) -> None:
    as_shop = "runuser -u shop -- "
    for path in ("/var/log/shop/shop-email.log", "/srv/shop/drained", "/srv/shop/current/venv/bin/celery"):
        assert "Permission denied" in one.run(f"{as_shop} ln -sf /etc/victim {path}").stderr
    one.check_output("install -d -m 755 /etc/victim")
    one.check_output(f"{as_shop} ln -sfn /etc/victim /var/lib/shop/counts")
    apply("--limit", "debian12")
    assert one.check_output("stat -c '%a %U' /etc/victim") == "755 root"
    one.check_output("rm /var/lib/shop/counts && rmdir /etc/victim")


def test_a_command_of_root_is_run_as_the_applications_user(host: Any) -> None:
    assert host.check_output("/srv/shop/bin/celery_run id -un") == "shop"


def test_no_secret_is_where_others_can_see_it(host: Any) -> None:
    secrets = [PASSWORD, PASSWORD_IN_URL, "dj@ngo"]
    patterns = " ".join(f"-e '{secret}'" for secret in secrets)
    places = "/etc /srv/shop/bin /srv/shop/releases/*/release.json /var/log /var/lib/shop /tmp /root /home"
    found = host.check_output(f"grep -rlF --exclude-dir=journal {patterns} {places} 2>/dev/null || true")
    assert found.split() == ["/etc/shop/environment"]
    assert "Invoked with" in host.check_output("journalctl --no-pager -o cat -t ansible-fleet.celery.celery_release")
    # sudo writes down the tests' own commands too.
    assert not host.check_output(f"journalctl --no-pager -o cat | grep -F {patterns} | grep -v grep || true")
    assert host.run("runuser -u nobody -- cat /etc/shop/environment").rc != 0
    assert host.run("runuser -u nobody -- ls /etc/shop/programs").rc != 0


@pytest.mark.usefixtures("restored")
def test_ansible_shows_no_secret(one: Any) -> None:
    more = {"SHOP_NEW_TOKEN": "t0ken of the test", "SHOP_COLOUR": "green"}
    output = apply("-vvv", "--diff", test_more_environment=more)
    assert variables(one)["SHOP_NEW_TOKEN"] == more["SHOP_NEW_TOKEN"]
    assert "/etc/shop/environment changes" in output
    # What was given on this command line is shown by -vvv; all else comes from the inventory.
    for secret in (PASSWORD, PASSWORD_IN_URL, "dj@ngo"):
        assert secret not in output


def test_a_traceback_shows_no_secret(given: dict[str, str], tmp_path: Path) -> None:
    show = 'raise RuntimeError("can not reach {CELERY_BROKER_URL} of {DJANGO_SETTINGS_MODULE}".format(**os.environ))'
    source = project(tmp_path / "shop", "1.3.0", "app = Celery", f"{show}\napp = Celery")
    output = refuse(test_source=str(source), **given)
    assert "can not reach" in output
    assert " of shop.settings" in output
    assert PASSWORD_IN_URL not in output


@pytest.mark.usefixtures("restored")
def test_a_project_that_does_not_import_changes_nothing_and_can_be_mended(
    one: Any, given: dict[str, str], tmp_path: Path
) -> None:
    before = state(one)
    source = project(
        tmp_path / "shop", "1.4.0", "from shop import ledger", "import shop.legder\nfrom shop import ledger"
    )
    more = {"task_acks_late": {"value": False, "reason": "of the test"}}
    output = refuse(test_source=str(source), test_more_settings=more, test_more_environment={"SHOP_X": "x"}, **given)
    assert "ModuleNotFoundError: No module named 'shop.legder'" in output
    assert "Release 1.4.0 does not import, so nothing was changed or restarted" in output
    assert state(one) == before
    assert "SHOP_X" not in variables(one)
    assert not one.check_output("find /srv/shop -maxdepth 1 -name '.check-*'")

    path = source / "shop" / "celery.py"
    path.write_text(path.read_text().replace("import shop.legder\n", ""))
    apply("--limit", "debian12", test_source=str(source), **given)
    assert one.check_output("readlink /srv/shop/current") == "releases/1.4.0"
    assert "ticks.heartbeat" in record(one, "1.4.0")["tasks"]


def test_a_version_names_one_content(one: Any, given: dict[str, str], tmp_path: Path) -> None:
    before = state(one)
    source = project(tmp_path / "shop", "1.0.0", "app = Celery", "# other\napp = Celery")
    output = refuse(test_source=str(source), **given)
    assert "Release 1.0.0 exists on this host with another content" in output
    assert "Raise celery_app_version" in output
    assert state(one) == before


def test_a_setting_that_celery_does_not_know_is_refused(one: Any) -> None:
    before = state(one)
    more = {"task_ack_late": {"value": True, "reason": "of the test", "declared": True}}
    output = refuse(test_more_settings=more)
    assert (
        "celery_settings.task_ack_late: the release's Celery has no such setting. Did you mean task_acks_late?"
        in output
    )
    assert state(one) == before


def test_an_application_that_can_not_take_the_settings_is_told_how(
    one: Any, given: dict[str, str], tmp_path: Path
) -> None:
    before = state(one)
    source = project(tmp_path / "shop", "1.5.0", APP, 'app = Celery("shop", loader="celery.loaders.app:AppLoader")')
    output = refuse(test_source=str(source), **given)
    assert "shop.celery:app does not take the fleet's settings, because it has a loader of its own" in output
    assert state(one) == before


def test_what_application_and_fleet_set_differently_is_reported(given: dict[str, str], tmp_path: Path) -> None:
    more = f'{APP}\napp.conf.update(timezone="Australia/Tasmania", task_acks_late=False)'
    source = project(tmp_path / "shop", "1.5.7", APP, more)
    run = apply("--limit", "debian12", test_source=str(source), celery_app_activate=False, **given)
    output = " ".join(run.replace("''", "'").split())
    assert "task_acks_late: the fleet's True applies, not the application's False" in output
    assert "timezone: the application's 'Australia/Tasmania' applies, not the fleet's 'UTC'" in output


def test_a_version_that_leads_elsewhere_is_refused(one: Any) -> None:
    before = state(one)
    output = refuse(test_version="feature/login")
    assert "celery_app_version 'feature/login' can't name a release" in output
    assert state(one) == before


def test_a_release_that_was_broken_off_is_made_anew(host: Any) -> None:
    release = "/srv/shop/releases/1.0.0"
    before = state(host)
    host.check_output(f"rm {release}/release.json {release}/venv/bin/celery && touch {release}/left")
    apply("--limit", host.backend.host)
    assert not host.file(f"{release}/left").exists
    assert host.run(f"{RUN} celery -A shop.celery:app --version").rc == 0
    assert "customers.sync" in record(host)["tasks"]
    assert state(host) == before


def test_an_owner_that_was_changed_is_put_right(host: Any) -> None:
    host.check_output(
        "chown shop /etc/shop/environment && chmod 0666 /srv/shop/bin/celery_supervisor && chown shop /srv/shop"
    )
    apply("--limit", host.backend.host)
    test_directories_and_files_are_closed_to_others(host)


def built(source: Path, directory: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--wheel-dir", str(directory), str(source)],
        check=True,
    )
    (wheel,) = directory.glob("shop-*.whl")
    return wheel


@pytest.mark.usefixtures("restored")
def test_a_new_version_takes_over_and_the_old_one_stays(given: dict[str, str], tmp_path: Path) -> None:
    hosts = [connect(name) for name in HOSTS]
    old = [each.check_output("stat -c %i.%Y /srv/shop/releases/1.0.0/venv") for each in hosts]
    wheel = built(project(tmp_path / "shop", "1.1.0"), tmp_path)
    # An administrator's strict mask is no hindrance.
    for each in hosts:
        each.check_output(
            "echo 'Defaults umask=0077, umask_override' >/etc/sudoers.d/umask && chmod 0440 /etc/sudoers.d/umask"
        )
    try:
        apply(test_source=str(wheel), **given)
    finally:
        for each in hosts:
            each.check_output("rm /etc/sudoers.d/umask")
    for each in hosts:
        assert each.check_output("readlink /srv/shop/current") == "releases/1.1.0"
        assert variables(each)["CELERY_APP_RELEASE"] == "1.1.0"
        assert "video.transcode" in record(each, "1.1.0")["tasks"]
        assert record(each)["version"] == "1.0.0"
    # All of a release in one directory of wheels, under a name of the user's.
    shutil.copy(wheel, given["test_wheelhouse"])
    try:
        apply(test_source="", test_version="2026-11-21", **given)
    finally:
        (Path(given["test_wheelhouse"]) / wheel.name).unlink()
    for each in hosts:
        assert variables(each)["VIRTUAL_ENV"] == "/srv/shop/releases/2026-11-21/venv"
        assert each.run(f"{RUN} celery -A shop.celery:app --version").rc == 0
    # Back to the first, as it was.
    apply()
    for each, before in zip(hosts, old, strict=True):
        assert each.check_output("readlink /srv/shop/current") == "releases/1.0.0"
        assert each.check_output("stat -c %i.%Y /srv/shop/releases/1.0.0/venv") == before


@pytest.mark.usefixtures("restored")
def test_a_release_can_be_made_before_it_takes_effect(one: Any, given: dict[str, str], tmp_path: Path) -> None:
    before = state(one)
    source = project(tmp_path / "shop", "1.6.0")
    more = {"test_source": str(source), "test_more_environment": {"SHOP_STAGED": "yes"}} | given
    output = apply("--check", "--diff", "--limit", "debian12", **more)
    assert "-releases/1.0.0\n+releases/1.6.0" in output
    assert state(one) == before
    assert not one.file("/srv/shop/releases/1.6.0").exists

    apply("--limit", "debian12", celery_app_activate=False, **more)
    assert state(one) == before
    assert "SHOP_STAGED" not in variables(one)
    made = record(one, "1.6.0")
    assert "customers.sync" in made["tasks"]
    assert made["python"] == one.check_output("/usr/bin/python3 -c 'import platform; print(platform.python_version())'")
    assert "changed=0" in apply("--limit", "debian12", celery_app_activate=False, **more)

    apply("--limit", "debian12", **more)
    assert variables(one)["SHOP_STAGED"] == "yes"
    assert variables(one)["CELERY_APP_RELEASE"] == "1.6.0"
    assert record(one, "1.6.0") == made


def test_a_module_without_the_application_is_refused(one: Any) -> None:
    before = state(one)
    names = ("root", "config_dir", "state_dir", "log_dir")
    directories = dict(zip(names, ("/srv/shop", "/etc/shop", "/var/lib/shop", "/var/log/shop"), strict=True))
    output = refuse(celery_app_identity={"name": "shop", "user": "shop", "module": "shop.settings:app", **directories})
    assert "Release 1.0.0 does not import, so nothing was changed or restarted" in output
    assert "shop.settings imports, but contains no Celery application shop.settings:app (celery_app_module)" in output
    assert state(one) == before


def test_a_user_of_the_hosts_is_not_taken(one: Any) -> None:
    directories = {name: f"/srv/games/{name}" for name in ("root", "config_dir", "state_dir", "log_dir")}
    output = refuse(celery_app_identity={"name": "games", "user": "games", "module": "shop.celery:app", **directories})
    assert "games exists on debian12 already, with the home directory /usr/games. Set celery_app_name" in output
    assert not one.file("/srv/games").exists


def test_a_virtual_environment_that_broke_is_found(one: Any) -> None:
    release = "/srv/shop/releases/1.0.0"
    before = state(one)
    one.check_output(f"rm {release}/venv/lib/python3.*/site-packages/celery/app/base.py")
    output = refuse()
    assert "No module named 'celery.app.base'" in output
    assert f"Remove {release} and rerun" in output
    assert state(one) == before
    one.check_output(f"rm -r {release}")
    apply("--limit", "debian12")
    assert one.run(f"{RUN} celery -A shop.celery:app --version").rc == 0
    assert state(one) == before


def test_a_release_of_another_python_is_made_anew(host: Any) -> None:
    lib = "/srv/shop/releases/1.0.0/venv/lib"
    # What an upgrade of the host leaves: packages where its new Python does not look.
    host.check_output(f"mv {lib}/python3.* {lib}/python3.9")
    assert host.run(f"{RUN} celery -A shop.celery:app --version").rc != 0
    apply("--limit", host.backend.host)
    assert host.run(f"{RUN} celery -A shop.celery:app --version").rc == 0
    assert not host.file(f"{lib}/python3.9").exists
