"""Pytest set-up that every scenario's tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the check-mode test first: a scenario's own tests may stop or break things on the hosts."""
    items.sort(key=lambda item: item.path.name != "test_check_mode.py")
