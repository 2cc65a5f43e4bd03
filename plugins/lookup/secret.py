# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Return a password of the fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret
short_description: Return a password of the fleet that the user gave, a command prints, or the controller generated
description:
  - A generated password has 32 letters and digits. It is kept in a file that only the controller's user can read.
  - If the variable C(celery_secrets_encrypted) is true, the file is encrypted with Ansible Vault, with the vault
    password of the run. A file is read whichever form it has.
author: Celery Fleet (@celery-fleet)
options:
  _terms:
    description: Name of the password's file, such as C(rabbitmq_application).
    required: true
  directory:
    description: Directory of the generated passwords.
    type: path
    required: true
  given:
    description: The user's own password. It is returned as it is unless it is empty, and nothing is generated then.
    type: str
    default: ""
  command:
    description:
      - Command that prints a password that is not O(given), such as C([pass, show, "shop/{name}"]). Nothing is
        generated then.
      - Each C({name}) in its arguments is replaced by the name of the password's file. It runs for each use of a
        password.
    type: list
    elements: str
    default: []
    vars: [{name: celery_secret_command}]
"""

EXAMPLES = r"""
- name: Connect as the application
  ansible.builtin.set_fact:
    password: "{{ lookup('fleet.celery.secret', 'rabbitmq_application', directory='~/secrets') }}"
  no_log: true
"""

RETURN = r"""
_raw: {description: "One entry: the password.", type: list, elements: str}
"""

import subprocess
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretError, open_store, read_password


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible has no types
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:  # noqa: ANN401 - as Ansible calls it
        self.set_options(var_options=variables, direct=kwargs)
        if given := self.get_option("given"):
            return [given for _ in terms]
        # A variable's value is not rendered yet.
        if command := self._templar.template(self.get_option("command")):
            return [printed(str(argument).replace("{name}", term) for argument in command) for term in terms]
        store = open_store(self.get_option("directory"), self, variables or {})
        try:
            return [read_password(store, term) for term in terms]
        except SecretError as error:
            raise AnsibleError(str(error)) from None
        except OSError as error:
            raise AnsibleError(f"A password in {store.directory} can't be read or generated: {error}") from None


def printed(command: Iterable[str]) -> str:
    """Return the password that a command prints."""
    argv = list(command)
    try:
        run = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise AnsibleError(f"celery_secret_command: {argv[0]} does not run: {error.strerror}") from error
    password = run.stdout.rstrip("\n")
    if run.returncode or not password:
        why = run.stderr.strip() or f"exit code {run.returncode}"
        raise AnsibleError(f"celery_secret_command: {' '.join(argv)} prints no password: {why}")
    return password
