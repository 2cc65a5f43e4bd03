"""Test nginx's whole configuration with a candidate in the place of one of its sites.

A program, not a module: roles hand its text to the host's Python as a check of config_files.

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
    """Return nginx's exit code."""
    configuration = MAIN.read_text(encoding="utf-8")
    if INCLUDE not in configuration:
        sys.exit(f"{MAIN} does not say: {INCLUDE}")
    others = (str(path) for path in Path(site).parent.glob("*.conf") if path != Path(site))
    includes = " ".join(f"include {name};" for name in (candidate, *others))
    # Beside the real one, for what that includes by a relative path.
    with tempfile.NamedTemporaryFile("w", dir=MAIN.parent, prefix=".test-") as test:
        test.write(configuration.replace(INCLUDE, includes))
        test.flush()
        return subprocess.call(["nginx", "-t", "-q", "-c", test.name])  # noqa: S607


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
