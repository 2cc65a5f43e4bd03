"""Pytest set-up that every scenario's tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the check-mode test first: a scenario's own tests may stop or break things on the hosts.

    Tests with the mark benchmark run in `make bench-broker_faults` only.
    """
    items.sort(key=lambda item: item.path.name != "test_check_mode.py")
    if "FLEET_BENCHMARK" not in os.environ:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("benchmark")])
        items[:] = [item for item in items if not item.get_closest_marker("benchmark")]
