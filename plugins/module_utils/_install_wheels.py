"""Install wheels into a virtual environment: python3 -I -c TEXT VENV SITE_PACKAGES WHEEL...

Uses Debian's python3-installer, which copies files and runs no code of the wheels. The environment's own Python would
run some (.pth files). Root installs the wheels, and need not trust them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    # Here, because the collection imports this file where the library is missing, to run its text on a host.
    from installer import install  # noqa: PLC0415
    from installer.destinations import SchemeDictionaryDestination  # noqa: PLC0415
    from installer.sources import WheelFile  # noqa: PLC0415

    class Destination(SchemeDictionaryDestination):
        """The environment's directories, which a wheel may not leave."""

        def write_to_fs(self, scheme: Any, path: Any, stream: Any, is_executable: bool) -> Any:  # noqa: ANN401 - as the library calls it
            root = self.scheme_dict[scheme]
            target = os.path.normpath(os.path.join(root, path))  # noqa: PTH118 - Path would keep the ..
            if not target.startswith(root + os.sep):
                raise SystemExit(f"{wheel.name} contains {path}, which is outside of the environment")
            # Like pip, allow two wheels with the same file.
            Path(target).unlink(missing_ok=True)
            return super().write_to_fs(scheme, path, stream, is_executable)

    os.umask(0o022)
    venv, site = sys.argv[1:3]
    for wheel in map(Path, sys.argv[3:]):
        with WheelFile.open(wheel) as source:
            scripts, headers = f"{venv}/bin", f"{venv}/include/site/{source.distribution}"
            scheme = {"purelib": site, "platlib": site, "scripts": scripts, "data": venv, "headers": headers}
            install(source, Destination(scheme, f"{scripts}/python", "posix"), {"INSTALLER": b"celery-fleet"})


if __name__ == "__main__":
    main()
