"""Release hooks: commands at the moments of a release."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._hooks import MOMENTS, Hook, hook_failures, read_hooks
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem


def read(raw: object) -> tuple[dict[str, tuple[Hook, ...]], list[str]]:
    problems: list[Problem] = []
    return read_hooks(raw, problems), [str(problem) for problem in problems]


def test_without_hooks_each_moment_has_none() -> None:
    assert read({}) == (dict.fromkeys(MOMENTS, ()), [])


def test_a_command_is_a_string_or_a_list_of_arguments() -> None:
    hooks, problems = read(
        {
            "before_activate": "django-admin migrate --noinput",
            "after_release": [{"command": ["sh", "-c", "echo 'a b'"], "hosts": "each", "timeout": 30}],
        }
    )
    assert not problems
    assert hooks["before_activate"] == (Hook(("django-admin", "migrate", "--noinput"), hosts="one", timeout=600),)
    assert hooks["after_release"] == (Hook(("sh", "-c", "echo 'a b'"), hosts="each", timeout=30),)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("migrate", "celery_hooks: 'migrate' is not a mapping"),
        (
            {"before_activation": ["x"]},
            "celery_hooks.before_activation: is not a moment of a release (did you mean 'before_activate'?)",
        ),
        ({"before_stage": [""]}, "celery_hooks.before_stage[0]: '' is not a command"),
        ({"before_stage": [{}]}, "celery_hooks.before_stage[0]: has no command"),
        ({"before_stage": ["x", 5]}, "celery_hooks.before_stage[1]: 5 is not a command"),
        ({"before_stage": ["echo 'a"]}, "is not a command. Set it to a string, e.g."),
        ({"before_stage": [{"command": "x", "timeout": -1}]}, "celery_hooks.before_stage[0].timeout"),
        ({"before_stage": [{"command": "x", "hosts": "all"}]}, "celery_hooks.before_stage[0].hosts"),
        ({"before_stage": [{"command": "x", "time": 3}]}, "celery_hooks.before_stage[0].time"),
    ],
)
def test_an_invalid_hook_is_refused(raw: object, problem: str) -> None:
    _, problems = read(raw)
    assert len(problems) == 1, problems
    assert problem in problems[0]


def test_a_failed_hook_is_reported_with_the_end_of_its_output() -> None:
    hook = {"argv": ["django-admin", "migrate", "a b"], "hosts": "one", "timeout": 30}
    results: list[dict[str, Any]] = [
        {"item": hook, "skipped": True},
        {"item": hook, "rc": 0, "stdout": "fine", "stderr": ""},
        {"item": hook, "rc": 3, "stdout": "begun", "stderr": "no such table\n"},
        {"item": hook, "rc": 124, "stdout": "begun", "stderr": ""},
    ]
    assert hook_failures(results) == [
        "The hook django-admin migrate 'a b' failed with exit code 3: no such table",
        "The hook django-admin migrate 'a b' timed out after 30 s: begun",
    ]
