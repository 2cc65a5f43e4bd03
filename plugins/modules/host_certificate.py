#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Give a host a certificate, its key, and the authorities that it trusts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_certificate
short_description: Give a host a certificate, its key, and the authorities that it trusts
description:
  - The certificate is made if there is none, if its names or its issuer differ, if its key does not fit, and in the
    last third of its lifetime. Each has a new key (ECDSA P-256), which is made on the host and never leaves it.
  - By default, the fleet's own certificate authority signs, which is made on the controller at first. O(command) asks
    another one. With O(certificate_file) and O(key_file), files of the controller are copied instead.
  - Files are validated before the first one is replaced. If a run is interrupted in between, the next one repairs the
    pair.
  - Needs C(openssl) on the host, unless O(names) is empty or O(certificate_file) is set, and C(cryptography) on the
    controller.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Reports the files that would change. No key and no authority is made.}
  diff_mode: {support: full, description: Shows names and dates of the certificates. Keys are never shown.}
options:
  names:
    description:
      - DNS names and IP addresses by which clients reach the host.
      - If empty, the host only gets the file of O(files.ca).
    type: list
    elements: str
    default: []
  files:
    description: Where the files are on the host.
    type: dict
    required: true
    suboptions:
      ca:
        description: Certificates of the authorities that clients trust, with mode V(0644).
        type: path
        required: true
      certificate:
        description: The host's certificate, followed by intermediate ones, with mode V(0644).
        type: path
        required: true
      key:
        description: Its key, with mode V(0640).
        type: path
        required: true
      group:
        description: Group of the key, whose members are the users of the services.
        type: str
        required: true
  secrets_dir:
    description: Directory on the controller. Its C(ca) has the fleet's certificate authority.
    type: path
    required: true
  days:
    description: Lifetime of the certificates that the fleet's authority signs.
    type: int
    default: 90
  certificate_file:
    description: A certificate on the controller, followed by intermediate ones. Needs O(key_file) and O(ca_file).
    type: path
  key_file:
    description: Its key on the controller, without a passphrase.
    type: path
  ca_file:
    description: Certificates on the controller that clients are to trust instead of the fleet's own authority.
    type: path
  command:
    description:
      - Command that is run on the controller, as a list of arguments. It gets the certificate signing request of the
        host on stdin, and prints the certificate, followed by intermediate ones. All are in PEM. Needs O(ca_file).
    type: list
    elements: str
    default: []
  state:
    description: What the action does on the host. Do not set it.
    type: str
    choices: [read, requested, installed]
    default: read
  content:
    description: The contents of the files. Set by the action.
    type: dict
    suboptions:
      ca:
        description: Content of O(files.ca).
        type: str
        required: true
      certificate:
        description: Content of O(files.certificate). Without it, the host's certificate and key stay.
        type: str
        default: ""
      key:
        description: Content of O(files.key). Without it, the key of the last request is used.
        type: str
        default: ""
"""

EXAMPLES = r"""
- name: Ensure that the host has a certificate
  fleet.celery.host_certificate:
    names: [broker1.example.com, 10.0.0.11]
    secrets_dir: ~/.local/share/celery-fleet/shop
    files:
      ca: /etc/celery-fleet/tls/ca.crt
      certificate: /etc/celery-fleet/tls/host.crt
      key: /etc/celery-fleet/tls/host.key
      group: celery-fleet-tls
"""

RETURN = r"""
reason:
  description: Why the certificate was replaced; empty if it was not.
  type: str
  returned: success
  sample: its last third has begun
"""

import grp
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._certificate_files import alternative_names, fits, pending
from ansible_collections.fleet.celery.plugins.module_utils._config_files import make_parents
from ansible_collections.fleet.celery.plugins.module_utils._files import belongs, give, write_file

PUBLIC = 0o644
PRIVATE = 0o640
SECRET = 0o600


class HostCertificate:
    """The files of this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        files = module.params["files"]
        self._ca, self._certificate, self._key = (Path(files[name]) for name in ("ca", "certificate", "key"))
        self._group = files["group"]

    def read(self) -> dict[str, Any]:
        """Return what the action needs to decide. No secret is in it."""
        there = [self._ca]
        if self._module.params["names"]:
            there += [self._certificate, self._key]
        return {
            "ca": _content(self._ca),
            "certificate": _content(self._certificate),
            "fits": fits(self._certificate, self._key),
            "owned": all(path.exists() and self._owned(path) for path in there),
        }

    def request(self) -> dict[str, Any]:
        """Make a key, and return a request for its certificate."""
        key, names = pending(self._key), self._module.params["names"]
        make_parents(key)
        key.unlink(missing_ok=True)
        # openssl would make the file with the mode of the umask.
        os.close(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET))
        openssl = self._module.get_bin_path("openssl", True)
        make = [openssl, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256"]
        make += ["-keyout", str(key), "-subj", f"/CN={names[0][:64]}", "-addext", alternative_names(names)]
        _, csr, _ = self._module.run_command(make, check_rc=True)
        return {"csr": csr}

    def install(self) -> dict[str, Any]:
        """Replace the files."""
        content = self._module.params["content"]
        make_parents(self._ca)
        if _content(self._ca) != content["ca"]:
            write_file(self._ca, content["ca"], PUBLIC, "root")
        if content["certificate"]:
            self._replace_pair(content["certificate"], content["key"])
        for path in (self._ca, self._certificate, self._key):
            if path.exists() and not self._owned(path):
                give(path, self._mode(path), self._group_of(path))
        return {}

    def _replace_pair(self, certificate: str, key: str) -> None:
        new_certificate, new_key = pending(self._certificate), pending(self._key)
        make_parents(self._certificate)
        make_parents(self._key)
        write_file(new_certificate, certificate, PUBLIC, "root")
        if key:
            write_file(new_key, key, SECRET, "root")
        if not fits(new_certificate, new_key):
            new_certificate.unlink()
            self._module.fail_json(msg="The key does not fit the certificate. No file was replaced")
        give(new_key, PRIVATE, self._group)
        # Interrupted in between, the key does not fit, and the next run makes a new pair.
        new_key.replace(self._key)
        new_certificate.replace(self._certificate)

    def _owned(self, path: Path) -> bool:
        return belongs(path, self._mode(path), "root", self._group_of(path))

    def _mode(self, path: Path) -> int:
        return PRIVATE if path == self._key else PUBLIC

    def _group_of(self, path: Path) -> str:
        return self._group if path == self._key else "root"


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "files": {
                "type": "dict",
                "required": True,
                "options": {
                    "ca": {"type": "path", "required": True},
                    "certificate": {"type": "path", "required": True},
                    "key": {"type": "path", "required": True, "no_log": False},
                    "group": {"type": "str", "required": True},
                },
            },
            "secrets_dir": {"type": "path", "required": True, "no_log": False},
            "days": {"type": "int", "default": 90},
            "certificate_file": {"type": "path"},
            "key_file": {"type": "path", "no_log": False},
            "ca_file": {"type": "path"},
            "command": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["read", "requested", "installed"], "default": "read"},
            "content": {
                "type": "dict",
                "options": {
                    "ca": {"type": "str", "required": True},
                    "certificate": {"type": "str", "default": ""},
                    "key": {"type": "str", "default": "", "no_log": True},
                },
            },
        },
        required_if=[("state", "installed", ["content"])],
        supports_check_mode=True,
    )
    host = HostCertificate(module)
    state = module.params["state"]
    if state == "read":
        module.exit_json(changed=False, **host.read())
    if module.check_mode:
        module.exit_json(changed=True)
    try:
        grp.getgrnam(module.params["files"]["group"])
    except KeyError:
        if module.params["names"]:
            module.fail_json(msg=f"The group {module.params['files']['group']} does not exist. Create it first")
    module.exit_json(changed=True, **(host.request() if state == "requested" else host.install()))


if __name__ == "__main__":
    main()
