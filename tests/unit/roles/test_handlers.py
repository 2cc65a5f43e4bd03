"""The handlers of all roles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).parents[3] / "roles"
FILES = sorted(ROLES.glob("*/handlers/main.yml"))


def reloads(path: Path) -> list[dict[str, Any]]:
    """Return the handlers of a file that reload a service."""
    handlers: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    service = "ansible.builtin.systemd_service"
    return [handler for handler in handlers if handler.get(service, {}).get("state") == "reloaded"]


@pytest.mark.parametrize("path", [path for path in FILES if reloads(path)], ids=lambda path: path.parts[-3])
def test_nothing_is_reloaded_that_was_just_started(path: Path) -> None:
    """A SIGHUP kills a program that does not handle it yet, and systemd does not restart it."""
    for handler in reloads(path):
        conditions = str(handler["when"])
        assert "_service is not changed" in conditions, handler
        restarts = [other for other in yaml.safe_load(path.read_text(encoding="utf-8")) if "restarted" in str(other)]
        registered = {other["register"] for other in restarts if "register" in other}
        # One that comes after the reload, and because of it, is no matter.
        assert all(name in conditions for name in registered), handler
