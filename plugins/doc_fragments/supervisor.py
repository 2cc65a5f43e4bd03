"""Options of the modules that talk to Supervisor."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of _supervisor.OPTIONS."""

    DOCUMENTATION = r"""
options:
  directory:
    description: Directory of the programs' configuration files, which Supervisor includes.
    type: path
    default: /etc/supervisor/conf.d
  socket:
    description: Supervisor's Unix socket.
    type: path
    default: /run/supervisor.sock
"""
