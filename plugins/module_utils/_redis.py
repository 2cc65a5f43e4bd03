"""Access of root to a Redis or Valkey server on the same host."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\""})

#: Name of the file in which the module redis_users stores the administrator's password, for root.
ADMINISTRATOR_FILE = "administrator.password"


def stored_password(state_dir: Path) -> str:
    """Return the stored password of the administrator; empty if there is none."""
    path = state_dir / ADMINISTRATOR_FILE
    return path.read_text(encoding="utf-8") if path.exists() else ""


def socket_of(flavor: str) -> str:
    """Return the Unix socket of the fleet's server on this host."""
    return f"/run/{flavor}/{flavor}.sock"


class Server:
    """A Redis server, with the login of its administrator.

    The module has the options flavor, socket and administrator.

    Attributes:
        password: the password that the server accepts; empty if it accepts none.
        error: why it accepts none.
    """

    def __init__(self, module: AnsibleModule, *passwords: str) -> None:
        self._module = module
        self.error = ""
        self.password = next(filter(self._accepts, filter(None, passwords)), "")

    @classmethod
    def of_host(cls, module: AnsibleModule) -> Server:
        """Return the fleet's server on this host. The module has the options flavor and administrator.

        The module fails if the server refuses the stored password.
        """
        flavor = module.params["flavor"]
        module.params["socket"] = socket_of(flavor)
        server = cls(module, stored_password(Path(f"/var/lib/celery-fleet/{flavor}")))
        if not server.password:
            module.fail_json(msg=f"The server refuses the password of {module.params['administrator']}: {server.error}")
        return server

    def _accepts(self, password: str) -> bool:
        code, _, self.error = self._run(password, "PING")
        return code == 0

    def _run(self, password: str, *command: str, data: str | None = None) -> tuple[int, str, str]:
        params = self._module.params
        code, output, errors = self._module.run_command(
            # -e: exit with an error if the server returns one.
            [f"{params['flavor']}-cli", "-e", "-s", params["socket"], "--user", params["administrator"], *command],
            # Not as an argument, which every user of the host can read.
            environ_update={"REDISCLI_AUTH": password},
            data=data,
        )
        return code, str(output), f"{errors} {output}".strip()

    def execute(self, *command: str) -> str:
        """Execute a command and return its output. An error fails the module."""
        code, output, error = self._run(self.password, *command)
        if code != 0:
            self._module.fail_json(msg=f"The server refuses {' '.join(command)}: {error}")
        return output

    def execute_hidden(self, commands: Iterable[Iterable[str]]) -> None:
        """Execute commands that each return a status or a number. They appear in no process list.

        The first error fails the module.
        """
        lines = [" ".join(f'"{word.translate(_ESCAPED)}"' for word in command) for command in commands]
        _, output, error = self._run(self.password, data="\n".join(lines))
        answers = output.split("\n")[: len(lines)]
        refused = [answer for answer in answers if answer != "OK" and not answer.isdigit()]
        if refused or len(answers) < len(lines):
            self._module.fail_json(msg=f"The server refuses a command: {' '.join(refused) or error}")
