#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Ensure that a service serves the certificate in a file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: served_certificate
short_description: Ensure that a service serves the certificate in a file
description:
  - Connects to the service by TLS, without verifying it, and compares its certificate with the first one in the file.
    If they differ, the module runs a command that makes the service read its files again, and waits until it serves
    the new one.
  - Unlike a handler, it also finds a service that missed a renewal, e.g. because an earlier run was interrupted.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Reports whether the command would run.}
  diff_mode: {support: full, description: Shows the fingerprints of both certificates.}
options:
  address:
    description: Address on which the service listens.
    type: str
    required: true
  port:
    description: Its port.
    type: int
    required: true
  certificate:
    description: Path of the file in PEM. The service's own certificate is the first in it.
    type: path
    required: true
  command:
    description:
      - Command that makes the service read its files again, as a list of arguments. Every user of the host can see
        them, so pass passwords by O(environment).
    type: list
    elements: str
    required: true
  environment:
    description:
      - Environment variables of the command. They are never logged.
      - The C(environment) of a task is no place for a password, because every user of the host can see it while the
        task runs.
    type: dict
    default: {}
  timeout:
    description: Seconds to wait for a connection, and for the new certificate after the command.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Ensure that nginx serves the current certificate
  fleet.celery.served_certificate:
    address: 127.0.0.1
    port: 443
    certificate: /etc/celery-fleet/tls/host.crt
    command: [systemctl, reload, nginx]
"""

RETURN = r"""
fingerprint:
  description: SHA-256 fingerprint of the certificate in the file.
  type: str
  returned: if the file exists
"""

import functools
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._served_certificate import (
    ServiceError,
    fingerprint,
    first_certificate,
    served_certificate,
    wait_until_served,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "certificate": {"type": "path", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    address, port, timeout = (module.params[name] for name in ("address", "port", "timeout"))
    path, command = Path(module.params["certificate"]), module.params["command"]
    if module.check_mode and not path.exists():
        # On a new host, the file and the service are yet to come.
        module.exit_json(changed=True)
    try:
        expected = first_certificate(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        module.fail_json(msg=f"{path} can't be read: {error}. Run the role certificate for this host first")
    except ServiceError as error:
        module.fail_json(msg=f"{path} {error}. Run the role certificate for this host first")
    fetch = functools.partial(served_certificate, address, port)
    try:
        before = fetch(timeout)
    except ServiceError as error:
        if module.check_mode:  # the service may be yet to come
            module.exit_json(changed=True)
        module.fail_json(msg=f"{error}. Start the service, or correct the address and the port")
    result = {"changed": before != expected, "fingerprint": fingerprint(expected)}
    if before == expected:
        module.exit_json(**result)
    result["diff"] = {"before": f"{fingerprint(before)}\n", "after": f"{fingerprint(expected)}\n"}
    if not module.check_mode:
        ran = " ".join(command)
        # In /, as the command may run as a user who can't enter the current directory.
        code, out, err = module.run_command(command, cwd="/", environ_update=module.params["environment"])
        output = f"{err}\n{out}".strip()
        if code != 0:
            module.fail_json(
                msg=f"{ran} failed with exit code {code}: {output}. The service on {address} port {port} serves its "
                "old certificate until it reads its files again"
            )
        try:
            wait_until_served(fetch, expected, timeout)
        except ServiceError as error:
            module.fail_json(
                msg=f"The service on {address} port {port} does not serve the certificate of {path} {timeout} s after "
                f"{ran}: {error}. The file's certificate has {fingerprint(expected)}. Check that the service uses this "
                f"file{f'. Output of the command: {output}' if output else ''}"
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
