"""Stage a release on a host, sending only the wheels that the host lacks."""

from __future__ import annotations

import base64
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.module_utils._artifact import manifest_of

MODULE = "fleet.celery.celery_release"
#: Bytes of wheels that are sent in the module's arguments. More, e.g. for a first release, is sent as a file.
INLINE_BYTES = 4 * 1024 * 1024


class ActionModule(ActionBase):  # type: ignore[misc]
    """Run the module to find out which wheels the host lacks, send them, and run it again.

    A later release seldom needs more than the application's own wheel.
    """

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module, and again with the missing wheels."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            artifact = Path(arguments.pop("artifact"))
            arguments["wheels"] = manifest_of(artifact)["wheels"]
        except (KeyError, OSError, tarfile.TarError, ValueError) as error:
            return {
                "failed": True,
                "msg": f"artifact is not a file that celery_artifact built: {error}. Set it to the module's path",
            }
        result = self._module(arguments, task_vars)
        if missing := result.get("missing"):
            contents = wheels_of(artifact, missing)
            if sum(map(len, contents.values())) <= INLINE_BYTES:
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
    """Return the contents of wheels of an artifact."""
    contents = {}
    with tarfile.open(artifact) as tar:
        for name in names:
            file = tar.extractfile(name)
            if file:
                contents[name] = file.read()
    return contents
