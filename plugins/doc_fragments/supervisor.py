"""Options of the modules that talk to Supervisor."""

from __future__ import annotations


class ModuleDocFragment:
    """What _supervisor.OPTIONS holds, for people."""

    DOCUMENTATION = r"""
options:
  directory:
    description: Directory that Supervisor includes.
    type: path
    default: /etc/supervisor/conf.d
  socket:
    description: Supervisor's socket.
    type: path
    default: /run/supervisor.sock
"""
