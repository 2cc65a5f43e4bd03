"""Sends a host what it lacks of a release, and has it make the release."""

from __future__ import annotations

import base64
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.module_utils._artifact import manifest_of

MODULE = "fleet.celery.celery_release"
#: Bytes that go along with the module's arguments. What is more, such as all of a first release, is sent as a file.
ALONG = 4 * 1024 * 1024


class ActionModule(ActionBase):  # type: ignore[misc]
    """Asks first what the host lacks: of a later release that is seldom more than the application's wheel."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module, once more with what it lacked."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            artifact = Path(arguments.pop("artifact"))
            arguments["wheels"] = manifest_of(artifact)["wheels"]
        except (KeyError, OSError, tarfile.TarError, ValueError) as error:
            return {"failed": True, "msg": f"artifact names none that celery_artifact built: {error}"}
        result = self._module(arguments, task_vars)
        if missing := result.get("missing"):
            contents = wheels_of(artifact, missing)
            if sum(map(len, contents.values())) <= ALONG:
                arguments["contents"] = {name: base64.b64encode(each).decode() for name, each in contents.items()}
            else:
                arguments["artifact"] = self._connection._shell.join_path(self._make_tmp_path(), "artifact.tar")
                self._transfer_file(str(artifact), arguments["artifact"])
            result = self._module(arguments, task_vars)
        return result

    def _module(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name=MODULE, module_args=arguments, task_vars=task_vars or {}
        )
        return result


def wheels_of(artifact: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return the contents of some of an artifact's wheels."""
    found = {}
    with tarfile.open(artifact) as tar:
        for name in names:
            file = tar.extractfile(name)
            if file:
                found[name] = file.read()
    return found
