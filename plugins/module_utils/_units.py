"""Sizes in bytes, parsed from and formatted for people."""

from __future__ import annotations

import re

from ansible.module_utils.common.text.formatters import bytes_to_human, human_to_bytes

MIB = 1024 * 1024

_SIZE = re.compile(r"\s*\d+(\.\d+)?\s*[KMGT]i?B?\s*", re.IGNORECASE)


def parse_size(text: object) -> int:
    """Return the bytes of a size such as "200MB" or "1.5 GiB".

    Units are powers of 1024, as in Ansible's own human_to_bytes.

    Raises:
        ValueError: the text is not a size, or has no unit.
    """
    if not isinstance(text, str) or not _SIZE.fullmatch(text):
        raise ValueError(f"{text!r} is not a size with a unit, e.g. 200MB or 2GB")
    return int(human_to_bytes(re.sub("i", "", text.strip(), flags=re.IGNORECASE)))


def format_size(size: int) -> str:
    """Return bytes for people: 209715200 is "200 MB"."""
    return str(bytes_to_human(size)).replace(".00 ", " ")
