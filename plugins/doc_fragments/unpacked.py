"""Options of the modules that unpack an artifact."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of _unpacked.OPTIONS."""

    DOCUMENTATION = r"""
notes:
  - The directory's name holds the version and the checksum, so an update never changes files of a running program.
  - Keeps the current directory and the one before. Older ones are removed.
  - Restarts nothing.
attributes:
  check_mode: {support: full, description: Reports whether the directory would be created.}
  diff_mode: {support: full, description: Shows the directory that is created.}
options:
  root:
    description: Parent directory.
    type: path
    required: true
  version:
    description: The program's version. The directory's name begins with it.
    type: str
    required: true
  artifact:
    description: Path of the artifact on the host.
    type: path
    required: true
  sha256:
    description: SHA-256 checksum of the artifact.
    type: str
    required: true
"""
