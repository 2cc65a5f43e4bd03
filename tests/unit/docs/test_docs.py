"""Pages for readers: links resolve, named paths exist, each alert has a runbook, prose fits the width."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._alerts import ALERTS

ROOT = Path(__file__).parents[3]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "bench/README.md", "example/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
WIDTH = 100
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@each_page
def test_playbooks_and_scripts_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.-])((?:playbooks|scripts|templates|lab|roles|plugins)/[\w/.-]*\w)", text)
    for path in named:
        assert (ROOT / path).exists(), path


@each_page
def test_prose_is_narrow(page: Path) -> None:
    lines = [line for line in prose(page).splitlines() if not line.lstrip().startswith(("|", "!["))]
    assert [line for line in lines if len(line) > WIDTH and " " in line[:WIDTH].strip()] == []


def test_each_alert_has_a_runbook() -> None:
    headings = re.findall(r"(?m)^## (Celery\w+)$", (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8"))
    assert sorted(headings) == sorted(ALERTS)


def test_every_page_is_linked_from_the_first() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    missing = [page for page in PAGES[1:] if str(page.relative_to(ROOT)) not in linked]
    assert missing == []
