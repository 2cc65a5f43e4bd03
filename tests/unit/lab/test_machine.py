"""The check of a machine's resources for the lab's hosts."""

from __future__ import annotations

import re

import pytest

from lab.machine import GIB, Machine, problems, this_machine

ENOUGH = {"memory": 20 * GIB, "disk": 50 * GIB, "inotify_used": 10, "inotify_limit": 1024}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, []),
        ({"memory": 2 * GIB}, [r"memory: 2\.0 GiB are available, 12 hosts need 5\.1 GiB\. .*--jobs 1"]),
        ({"disk": GIB // 2}, [r"disk: 0\.5 GiB are free below /var/lib/containers, 12 hosts need 7\.7 GiB\. "]),
        ({"inotify_limit": 128, "inotify_used": 40}, [r"inotify: .* 128 .* need 136.*max_user_instances=1024$"]),
        ({"inotify_limit": 128, "memory": 0}, ["memory: ", ""]),
        ({"inotify_limit": 1024, "inotify_used": 1000}, [r"max_user_instances=1096$"]),
    ],
)
def test_each_lacking_resource_is_reported_with_its_fix(values: dict[str, int], said: list[str]) -> None:
    found = problems(Machine(**ENOUGH | values), 12)
    expected = [text for text in said if text]
    assert len(found) == len(expected)
    assert all(re.search(text, problem) for text, problem in zip(expected, found, strict=True)), found


def test_this_machine_is_read() -> None:
    machine = this_machine()
    assert machine.memory > 0
    assert machine.disk > 0
    assert machine.inotify_limit > 0
    # A host more takes more, whatever runs already.
    assert machine.inotify_needed(2) > machine.inotify_needed(1) > machine.inotify_used
