"""What may still run is kept."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.fleet.celery.plugins.module_utils._release import Record
from ansible_collections.fleet.celery.plugins.module_utils._unpacked import directory_of, prune


def test_the_current_and_the_previous_directory_are_kept(tmp_path: Path) -> None:
    paths = [directory_of(tmp_path, "1", digit * 64) for digit in "abcd"]
    for age, path in enumerate(paths):
        path.mkdir()
        Record("1", "x").write(path)
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "not-ours").mkdir()
    prune(tmp_path, paths[3])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["not-ours", paths[0].name, paths[3].name])
