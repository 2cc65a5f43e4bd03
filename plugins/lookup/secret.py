# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Return a password of the fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret
short_description: Return a password of the fleet, generated on the controller unless the user gave one
description:
  - A generated password has 32 letters and digits. It is kept in a file that only the controller's user can read.
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

from pathlib import Path
from typing import Any

from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase

LENGTH = 32
CHARACTERS = ["ascii_letters", "digits"]


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible has no types
    """The lookup."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:  # noqa: ANN401 - as Ansible calls it
        self.set_options(var_options=variables, direct=kwargs)
        if given := self.get_option("given"):
            return [given for _ in terms]
        files = [str(Path(self.get_option("directory")) / term) for term in terms]
        generator = lookup_loader.get("ansible.builtin.password", loader=self._loader, templar=self._templar)
        passwords: list[str] = generator.run(files, variables, length=LENGTH, chars=CHARACTERS)
        return passwords
