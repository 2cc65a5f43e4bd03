"""Assertions that secrets are not readable."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

PLACES = "/etc /opt /run /srv /tmp /usr/local /var"


def assert_nobody_reads(host: Any, texts: Iterable[str], shown: str) -> None:
    """Fail if one of the texts is in a world-readable file, in the journal, or in the output of a command.

    Args:
        shown: a command whose output any user can see, e.g. ps.
    """
    texts = list(texts)
    patterns = "".join(f"{text}\n" for text in texts)
    host.check_output(f"umask 077; printf %s {shlex.quote(patterns)} >/root/secrets")
    files = host.run(
        f"runuser -u nobody -- find {PLACES} -xdev -type f -readable -print0 2>/dev/null"
        " | xargs -0 grep -lFf /root/secrets --"
    )
    assert not files.stdout
    # sudo logs what these tests do themselves.
    assert not host.run("journalctl --no-pager | grep -v ' sudo\\[' | grep -Ff /root/secrets").stdout
    output = host.check_output(shown)
    assert output
    assert not [text for text in texts if text in output]
    host.check_output("rm /root/secrets")
