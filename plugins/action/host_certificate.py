"""Give a host a certificate: decide and sign on the controller, make the key on the host."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.celery.plugins.plugin_utils._certificates import CertificateError, describe
from ansible_collections.fleet.celery.plugins.plugin_utils._host_certificate import open_source, replacement_reason
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretError, open_store

MODULE = "fleet.celery.host_certificate"
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "names": {"type": "list", "elements": "str", "default": []},
    "files": {"type": "dict", "required": True},
    "secrets_dir": {"type": "path", "required": True},
    "days": {"type": "int", "default": 90},
    "certificate_file": {"type": "path", "default": ""},
    "key_file": {"type": "path", "default": ""},
    "ca_file": {"type": "path", "default": ""},
    "command": {"type": "list", "elements": "str", "default": []},
}


class _ModuleError(Exception):
    """The module failed on the host. The argument is its result."""


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Run the module to read what the host has, and again to replace it."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Replace what differs."""
        super().run(tmp, task_vars)
        _, options = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        self._variables = task_vars or {}
        self._sent = {name: options[name] for name in ("names", "files", "secrets_dir")}
        try:
            return self._replace(options)
        except _ModuleError as error:
            result: dict[str, Any] = error.args[0]
            return result
        except (CertificateError, SecretError) as error:
            return {"failed": True, "msg": str(error)}
        except OSError as error:
            return {"failed": True, "msg": f"The certificate authority on this controller can't be used: {error}"}

    def _replace(self, options: dict[str, Any]) -> dict[str, Any]:
        check = self._task.check_mode
        secrets = open_store(options["secrets_dir"], self, self._variables)
        source = open_source(options, secrets, datetime.now(UTC), make=not check)
        state = self._module("read")
        reason = replacement_reason(source, state) if options["names"] else ""
        changed = bool(reason) or state["ca"] != source.ca_pem or not state["owned"]
        result: dict[str, Any] = {"changed": changed, "reason": reason}
        if not changed:
            return result
        certificate = ""
        if reason and not check:
            csr = "" if source.key_pem else self._module("requested")["csr"]
            certificate = source.issue(csr)
        if not check:
            key = source.key_pem if certificate else ""
            self._module("installed", content={"ca": source.ca_pem, "certificate": certificate, "key": key})
        files = options["files"]
        differences = [_difference(files["ca"], state["ca"], source.ca_pem)]
        if reason:
            after = describe(certificate) or f"a new certificate: {reason}\n"
            differences.append(_difference(files["certificate"], describe(state["certificate"]), after))
        return result | {"diff": [each for each in differences if each["before"] != each["after"]]}

    def _module(self, state: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - the module's arguments
        result: dict[str, Any] = self._execute_module(
            module_name=MODULE, module_args={**self._sent, "state": state, **more}, task_vars=self._variables
        )
        if result.get("failed") or result.get("unreachable"):
            raise _ModuleError(result)
        return result


def _difference(path: str, before: str, after: str) -> dict[str, str]:
    return {"before": before, "after": after, "before_header": path, "after_header": path}
