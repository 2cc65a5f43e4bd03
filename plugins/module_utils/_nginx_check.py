"""Validate nginx's whole configuration with a candidate in place of one of its sites.

This is a program, not a module: roles pass its text to the host's Python as a validation command of config_files.

Arguments: the site's file, and the candidate.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

MAIN = Path("/etc/nginx/nginx.conf")
INCLUDE = "include /etc/nginx/conf.d/*.conf;"


def main(site: str, candidate: str) -> int:
    """Return the exit code of nginx -t."""
    configuration = MAIN.read_text(encoding="utf-8")
    if INCLUDE not in configuration:
        sys.exit(f"{MAIN} lacks the line: {INCLUDE}. Add it, as in Debian's own file")
    others = (str(path) for path in Path(site).parent.glob("*.conf") if path != Path(site))
    includes = " ".join(f"include {name};" for name in (candidate, *others))
    # In the same directory, for relative includes.
    with tempfile.NamedTemporaryFile("w", dir=MAIN.parent, prefix=".test-") as test:
        test.write(configuration.replace(INCLUDE, includes))
        test.flush()
        return subprocess.call(["nginx", "-t", "-q", "-c", test.name])  # noqa: S607


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
