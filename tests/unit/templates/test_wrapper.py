"""The wrapper, run by a real shell with a fake celery that prints its arguments and environment."""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._environment import environment_text
from ansible_collections.fleet.celery.plugins.module_utils._release import digest, started_from
from jinja2 import Environment, FileSystemLoader

TEMPLATES = Path(__file__).parents[3] / "templates"
TELL = """#!{python}
import json, os, sys
print(json.dumps({{"argv": sys.argv, "pid": os.getpid(), "cwd": os.getcwd(), "environment": dict(os.environ)}}))
"""


class Host:
    """The application's directories, with a fake release."""

    def __init__(self, root: Path) -> None:
        self.root, self.config_dir, self.state_dir = root / "srv shop", root / "etc shop", root / "var's"
        bin_dir = self.root / "bin"
        for path in (bin_dir, self.config_dir / "programs", self.state_dir):
            path.mkdir(parents=True)
        self.release("1.0.0")
        (self.root / "current").symlink_to("releases/1.0.0")
        self.environment({"A": "1"})
        (self.config_dir / "celery_fleet_settings.py").write_text("x = 1\n")
        self.runtime = self.root / "runtime" / "celery_fleet_runtime"
        self.runtime.mkdir(parents=True)
        (self.runtime / "report.py").write_text("y = 1\n")
        self.wrapper = bin_dir / "celery_supervisor"
        self.wrapper.write_text(self.render())
        self.wrapper.chmod(0o755)
        (bin_dir / "celery_run").symlink_to("celery_supervisor")

    def render(self) -> str:
        environment = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
        environment.filters["quote"] = lambda text: "'" + text.replace("'", "'\"'\"'") + "'"
        app = {
            "name": "shop",
            "user": getpass.getuser(),
            "module": "shop.celery:app",
            "root": str(self.root),
            "config_dir": str(self.config_dir),
            "state_dir": str(self.state_dir),
        }
        return environment.get_template("celery_supervisor.sh.j2").render(app=app)

    def release(self, version: str) -> Path:
        release = self.root / "releases" / version
        bin_dir = release / "venv" / "bin"
        bin_dir.mkdir(parents=True)
        (bin_dir / "activate").write_text(
            f"VIRTUAL_ENV='{release}/venv'\nPATH=\"$VIRTUAL_ENV/bin:$PATH\"\nexport PATH VIRTUAL_ENV\n"
        )
        (bin_dir / "celery").write_text(TELL.format(python=sys.executable))
        (bin_dir / "celery").chmod(0o755)
        shutil.copy(bin_dir / "celery", bin_dir / "show")
        return release

    def environment(self, environment: dict[str, str]) -> None:
        (self.config_dir / "environment").write_text(environment_text(environment))

    def own(self, program: str, environment: dict[str, str]) -> None:
        (self.config_dir / "programs" / f"{program}.env").write_text(environment_text(environment))

    def run(
        self, *argv: str, command: str = "celery_supervisor", program: str = "", **variables: str
    ) -> dict[str, Any]:
        if program:
            variables["SUPERVISOR_PROCESS_NAME"] = program
        process = subprocess.Popen(
            [self.root / "bin" / command, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                "PATH": "/usr/bin:/bin",
                **variables,
            },
        )
        output, error = process.communicate(timeout=20)
        assert process.returncode == 0, error
        assert not error
        seen: dict[str, Any] = json.loads(output)
        assert seen["pid"] == process.pid, "the shell did not give its place to the command"
        return seen


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_celery_replaces_the_shell_and_gets_its_arguments(host: Host) -> None:
    arguments = ["worker", "-n", "a@%h", "two words", "", "$HOME", "*", "'\"\\", "-Q", "x,y\nz"]
    seen = host.run(*arguments)
    assert seen["argv"] == [str(host.root / "releases/1.0.0/venv/bin/celery"), "-A", "shop.celery:app", *arguments]
    assert seen["cwd"] == str(host.state_dir)


def test_celery_run_runs_commands_of_the_release(host: Host) -> None:
    seen = host.run("show", "a b", command="celery_run")
    assert seen["argv"] == [str(host.root / "releases/1.0.0/venv/bin/show"), "a b"]


def test_celery_operator_imports_nothing_of_the_applications_user(host: Host) -> None:
    (host.wrapper.parent / "celery_operator").symlink_to("celery_supervisor")
    seen = host.run("show", "a b", command="celery_operator")
    assert seen["cwd"] == str(host.root / "releases/1.0.0")
    assert seen["environment"]["PYTHONSAFEPATH"] == "1"


def test_environment_is_the_applications(host: Host) -> None:
    nasty = "100% 'of' \"it\" $HOME\nend\n"
    host.environment({"SHOP_KEY": nasty, "config": "a", "release": "b", "own": "c"})
    variables = host.run("worker")["environment"]
    assert variables["SHOP_KEY"] == nasty
    assert (variables["config"], variables["release"], variables["own"]) == ("a", "b", "c")
    assert variables["HOME"] == str(host.state_dir)
    assert variables["USER"] == getpass.getuser()
    places = [host.config_dir, host.root / "runtime", host.root / "releases/1.0.0/venv/src"]
    assert variables["PYTHONPATH"] == ":".join(map(str, places))
    assert variables["CELERY_LOADER"] == "celery_fleet_runtime.loader:Loader"
    assert variables["CELERY_APP_RELEASE"] == "1.0.0"
    assert variables["VIRTUAL_ENV"] == str(host.root / "releases/1.0.0/venv")


def test_environment_of_a_program_applies_to_it_only(host: Host) -> None:
    host.environment({"A": "app", "B": "app"})
    host.own("shop-video", {"A": "video"})
    assert host.run(program="shop-video")["environment"]["A"] == "video"
    assert host.run(program="shop-video")["environment"]["B"] == "app"
    assert host.run(program="shop-email")["environment"]["A"] == "app"
    assert host.run()["environment"]["A"] == "app"


@pytest.mark.parametrize("own", [False, True])
def test_process_exports_the_digest_of_its_files(host: Host, own: bool) -> None:
    def started() -> str:
        value: str = host.run(program="shop-video")["environment"]["CELERY_FLEET_STARTED_FROM"]
        assert value == started_from(host.root, host.config_dir, "shop-video")
        return value

    if own:
        host.own("shop-video", {"A": "video"})
    seen = [started()]
    host.environment({"A": "2"})
    seen.append(started())
    (host.config_dir / "celery_fleet_settings.py").write_text("x = 2\n")
    seen.append(started())
    (host.runtime / "report.py").write_text("y = 2\n")
    seen.append(started())
    with host.wrapper.open("a") as file:
        file.write("# another wrapper\n")
    seen.append(started())
    host.release("1.1.0")
    (host.root / "current").unlink()
    (host.root / "current").symlink_to("releases/1.1.0")
    seen.append(started())
    host.own("shop-video", {"A": "3"})
    seen.append(started())
    assert len(set(seen)) == len(seen)
    assert started() == seen[-1]


def test_staged_release_is_checked_with_its_own_files(host: Host, tmp_path: Path) -> None:
    release = host.release("2.0.0")
    config = tmp_path / "check"
    config.mkdir()
    (config / "environment").write_text(environment_text({"A": "new"}))
    (config / "celery_fleet_settings.py").write_text("x = 3\n")
    (config / "celery_fleet_runtime").mkdir()
    (config / "celery_fleet_runtime" / "report.py").write_text("y = 3\n")
    seen = host.run(
        "show", command="celery_run", CELERY_FLEET_RELEASE=str(release), CELERY_FLEET_CONFIG_DIR=str(config)
    )
    variables = seen["environment"]
    assert seen["argv"] == [str(release / "venv/bin/show")]
    assert (variables["A"], variables["CELERY_APP_RELEASE"]) == ("new", "2.0.0")
    assert variables["PYTHONPATH"] == f"{config}:{config}:{release}/venv/src"
    contents = [
        path.read_bytes()
        for path in (
            host.wrapper,
            *[config / name for name in ("environment", "celery_fleet_settings.py", "celery_fleet_runtime/report.py")],
        )
    ]
    assert variables["CELERY_FLEET_STARTED_FROM"] == digest(release, contents)


def test_missing_release_fails(host: Host) -> None:
    (host.root / "current").unlink()
    run = subprocess.run(
        [host.wrapper, "worker"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert run.returncode != 0
    assert "activate" in run.stderr


def test_wrapper_has_valid_syntax(host: Host) -> None:
    subprocess.run(["sh", "-n", host.wrapper], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--exclude=SC1090,SC1091", host.wrapper], check=True)
