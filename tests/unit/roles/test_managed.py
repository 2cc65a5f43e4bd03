"""A user's ansible_managed may have several lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jinja2 import Environment

ROOT = Path(__file__).parents[3]
TEMPLATES = sorted([*ROOT.glob("templates/*.j2"), *ROOT.glob("roles/*/templates/**/*.j2")])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_each_line_of_ansible_managed_is_a_comment(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").replace("<<", "{{").replace(">>", "}}").splitlines():
        if "ansible_managed" not in line or "comment" in line:
            continue
        text = Environment().from_string(line).render(ansible_managed="one\ntwo")  # noqa: S701 - no HTML
        assert re.fullmatch(r"([#;] )one\n\1two", text)
