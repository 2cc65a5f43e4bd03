"""What a file that was built on the controller becomes on a host: one directory a content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._release import ReleaseError, read_record

#: Of the modules that make such directories; doc_fragments/unpacked.py describes them.
OPTIONS: dict[str, dict[str, Any]] = {
    "root": {"type": "path", "required": True},
    "version": {"type": "str", "required": True},
    "artifact": {"type": "path", "required": True},
    "sha256": {"type": "str", "required": True},
}


def answer(module: Any, name: str, make: Callable[[Path], None]) -> None:  # noqa: ANN401 - an AnsibleModule, which has no types
    """Make the directory of a content, unless it is there and complete, and answer with what is in it.

    Args:
        name: of that, in the directory and in the answer.
        make: makes the directory, with the record last; raises ReleaseError.
    """
    root, sha256 = Path(module.params["root"]), module.params["sha256"]
    directory = directory_of(root, module.params["version"], sha256)
    found = read_record(directory)
    changed = found is None or found.sha256 != sha256
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
    """Return the directory of an artifact: another content of the same version has another."""
    return root / f"{version}-{sha256[:12]}"


def prune(root: Path, current: Path) -> None:
    """Remove what is older than the current directory and the one before, which may still be running."""
    others = [path for path in root.iterdir() if path != current and read_record(path)]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[1:]:
        shutil.rmtree(path)
