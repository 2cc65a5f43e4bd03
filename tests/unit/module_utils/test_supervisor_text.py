"""Supervisor's own parser reads back what was written."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._supervisor_text import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import Environment, FileSystemLoader
from supervisor.options import ServerOptions

TEMPLATES = Path(__file__).parents[3] / "templates"
APP = {
    "name": "shop",
    "user": "root",
    "root": "/srv/shop",
    "config_dir": "/etc/shop",
    "state_dir": "/tmp",  # noqa: S108 - a directory that is there, since Supervisor looks
    "log_dir": "/tmp",  # noqa: S108
}


def render(argv: list[str], **values: Any) -> str:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), keep_trailing_newline=True)  # noqa: S701 - no HTML
    environment.filters["fleet.celery.supervisor_command"] = command
    environment.filters["fleet.celery.supervisor_escape"] = lambda text: text.replace("%", "%%")
    program = {"name": "shop-x", "argv": argv, "stopwaitsecs": 90, **values}
    return environment.get_template("supervisor_program.conf.j2").render(program=program, app=APP)


def parse(text: str, directory: Path) -> Any:
    (directory / "x.conf").write_text(text, encoding="utf-8")
    main = directory / "supervisord"
    main.write_text(f"[supervisord]\n[include]\nfiles = {directory}/x.conf\n")
    options = ServerOptions()
    options.configfile = str(main)
    options.process_config(do_usage=False)
    (group,) = options.process_group_configs
    (process,) = group.process_configs
    return process


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    st.lists(
        st.text(
            st.characters(min_codepoint=32, max_codepoint=0x2FF, blacklist_characters="\x7f\x85\xa0\xad"),
            min_size=1,
        ),
        max_size=4,
    )
)
def test_supervisor_runs_the_very_arguments(tmp_path: Path, argv: list[str]) -> None:
    process = parse(render(argv), tmp_path)
    assert shlex.split(process.command) == ["/srv/shop/bin/celery_supervisor", *argv]


def test_percent_and_comment_characters_survive(tmp_path: Path) -> None:
    argv = ["worker", "-n", "customers@%h", "--x=%40secret", "a ;b", " # c"]
    assert shlex.split(parse(render(argv), tmp_path).command)[1:] == argv


def test_a_stop_is_warm(tmp_path: Path) -> None:
    process = parse(render(["worker"]), tmp_path)
    assert process.stopsignal.name == "SIGTERM"
    assert not process.stopasgroup
    assert process.stopwaitsecs == 90
    # Each wait is a second longer than the one before, so this is never.
    assert process.startretries > 10_000
    assert process.environment in (None, {})


def test_a_percent_that_is_not_doubled_would_be_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="worker@%h"):
        parse(render(["worker@%h"]).replace("%%", "%"), tmp_path)
