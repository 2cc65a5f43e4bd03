"""Templates of all roles render the same text in each run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# Ansible's filters that return the items of a set, in an order that differs from run to run.
SET = re.compile(r"\|\s*(difference|intersect|symmetric_difference|union)\(")


def test_no_template_has_the_order_of_a_set() -> None:
    paths = [*ROOT.glob("roles/*/templates/**/*.j2"), *ROOT.glob("templates/*.j2"), *ROOT.glob("lab/templates/*.j2")]
    lines = [(path.name, line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) > 1000
    assert [each for each in lines if SET.search(each[1]) and "sort" not in each[1]] == []
