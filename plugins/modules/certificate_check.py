#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""The documentation of the action plugin certificate_check, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_check
short_description: Check the certificates of a fleet before any host is changed
description:
  - Checks the user's own certificates, their keys and authorities, and whether the fleet's own authority can sign. A
    certificate must be valid for another 14 days.
  - Runs on the controller and changes nothing. It fails with all problems at once.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Changes nothing.}
  diff_mode: {support: none, description: Changes nothing.}
options:
  hosts:
    description:
      - By name of each host, a mapping with its C(names), and the C(certificate), C(key), C(ca) and C(command) that it
        has instead of those of the fleet's own authority. C(certificate), C(key) and C(ca) are paths on the controller,
        C(command) is a list of arguments.
      - A host without C(names) is only a client, whose C(certificate) and C(key) are not read.
    type: dict
    required: true
  secrets_dir:
    description: Directory on the controller. Its C(ca) has the fleet's certificate authority.
    type: path
    required: true
  days:
    description: Lifetime of the certificates that it is to sign.
    type: int
    default: 90
  strict:
    description:
      - Whether clients verify strictly, as C(ssl.create_default_context) does since Python 3.13. Then a certificate
        needs some more extensions, which authorities made with OpenSSL's defaults often lack.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Check the certificates of the fleet
  fleet.celery.certificate_check:
    secrets_dir: ~/.local/share/celery-fleet/shop
    hosts:
      broker1:
        names: [broker1.example.com, 10.0.0.11]
        certificate: ~/certificates/broker1.crt
        key: ~/certificates/broker1.key
        ca: ~/certificates/root.crt
      web1: {ca: ~/certificates/root.crt}
  run_once: true
"""

RETURN = r"""
{}
"""
