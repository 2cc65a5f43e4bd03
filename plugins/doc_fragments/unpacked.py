"""What the modules that unpack an artifact have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """What _unpacked.OPTIONS holds, for people."""

    DOCUMENTATION = r"""
notes:
  - Another content of the same version gets a directory of its own, so what runs on the old one is not disturbed. The
    one before is kept, older ones are removed.
  - Restarts nothing.
attributes:
  check_mode: {support: full, description: It says what it would make.}
  diff_mode: {support: full, description: It names the directory that is made.}
options:
  root:
    description: Directory that holds the directories.
    type: path
    required: true
  version:
    description: Begins the directory's name.
    type: str
    required: true
  artifact:
    description: The artifact's file on the host.
    type: path
    required: true
  sha256:
    description: The artifact's checksum.
    type: str
    required: true
"""
