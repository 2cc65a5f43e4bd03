"""Unpacked artifacts on a host: one directory for each version and content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError, read_record

#: Options of the modules that unpack artifacts, documented in doc_fragments/unpacked.py.
OPTIONS: dict[str, dict[str, Any]] = {
    "root": {"type": "path", "required": True},
    "version": {"type": "str", "required": True},
    "artifact": {"type": "path", "required": True},
    "sha256": {"type": "str", "required": True},
}


def run_module(module: Any, name: str, make: Callable[[Path], None]) -> None:  # noqa: ANN401 - an AnsibleModule, which has no types
    """Create the directory of an artifact, unless it is complete, and exit with the path of its content.

    Args:
        name: name of the content, in the directory and in the result.
        make: creates the directory, with the record last. Raises ReleaseError.
    """
    root, sha256 = Path(module.params["root"]), module.params["sha256"]
    directory = directory_of(root, module.params["version"], sha256)
    record = read_record(directory)
    changed = record is None or record.sha256 != sha256
    if changed and not module.check_mode:
        try:
            make(directory)
        except ReleaseError as error:
            module.fail_json(msg=str(error))
        prune(root, directory)
    path = f"{directory}/{name}"
    diff = {"before": "", "after": f"{path}\n" if changed else ""}
    module.exit_json(changed=changed, diff=diff, **{name: path})


def directory_of(root: Path, version: str, sha256: str) -> Path:
    """Return the directory of an artifact. Its name depends on the version and the content."""
    return root / f"{version}-{sha256[:12]}"


def prune(root: Path, current: Path) -> None:
    """Remove all directories but the current one and the one before, from which a program may still run."""
    others = [path for path in root.iterdir() if path != current and read_record(path)]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[1:]:
        shutil.rmtree(path)
