"""The table of systems."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.fleet.celery.plugins.module_utils._platforms import (
    OLDEST_GLIBC,
    PLATFORMS,
    is_tested,
    platform_of,
)

ROOT = Path(__file__).parents[3]
CODENAMES = {12: "bookworm", 13: "trixie"}


def test_a_tested_system_has_its_row_and_another_that_of_the_newest() -> None:
    assert platform_of("Debian", 12).valkey is False
    assert is_tested("Debian", 12)
    assert not is_tested("Ubuntu", 12)
    assert platform_of("Ubuntu", 22) == PLATFORMS[-1]


def test_wheels_are_chosen_for_the_oldest_system() -> None:
    assert {platform.glibc for platform in PLATFORMS} == {"2_36", "2_41"}
    assert OLDEST_GLIBC == "2_36"


@pytest.mark.parametrize("meta", sorted((ROOT / "roles").glob("*/meta/main.yml")), ids=lambda path: path.parts[-3])
def test_each_role_names_the_tested_systems(meta: Path) -> None:
    (platform,) = yaml.safe_load(meta.read_text(encoding="utf-8"))["galaxy_info"]["platforms"]
    assert platform["versions"] == [CODENAMES[row.release] for row in PLATFORMS]
