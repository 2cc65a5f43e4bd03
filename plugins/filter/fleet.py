"""Filters that hand values to the typed core; the logic is in module_utils."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._environment import environment_text
from ansible_collections.fleet.celery.plugins.module_utils._facts import host_facts
from ansible_collections.fleet.celery.plugins.module_utils._supervisor_text import command, escape
from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url, management_url, result_url


class FilterModule:
    """The filters of fleet.celery."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "broker_url": broker_url,
            "environment_text": environment_text,
            "host_facts": _host_facts,
            "management_url": management_url,
            "python_literal": _python_literal,
            "result_url": result_url,
            "salted_sha1": _salted_sha1,
            "supervisor_command": command,
            "supervisor_escape": escape,
        }


def _host_facts(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {host: host_facts(hostvars[host]) for host in hosts}


def _python_literal(value: object) -> str:
    # Through JSON, which leaves plain types of what Ansible passes in its own.
    return repr(json.loads(json.dumps(value)))


def _salted_sha1(password: str, salt: str) -> str:
    """Return a password as nginx compares it (RFC 2307), the same each time for the same salt.

    Of what nginx knows it is the best that every Python can compute: crypt is gone from it.
    """
    grain = hashlib.sha256(salt.encode()).digest()[:8]
    digest = hashlib.sha1(password.encode() + grain).digest()  # noqa: S324
    return "{SSHA}" + base64.b64encode(digest + grain).decode()
