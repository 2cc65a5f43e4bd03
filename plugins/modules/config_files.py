#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Write the configuration files of a program."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
short_description: Write the configuration files of a program in one call
description:
  - Each call of a module starts Python on the host. This module replaces many calls of M(ansible.builtin.copy) and
    M(ansible.builtin.file), for files that root owns.
  - All files that change are validated before the first one is replaced. If one is rejected, none is replaced, and the
    error lists all rejections.
  - Missing parent directories are created with mode V(0755).
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: "Reports the files that would be written, without validating them."}
  diff_mode: {support: full, description: "The content of a file with O(files[].secret) is not shown."}
options:
  directories:
    description: Directories, created before the files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path of the directory.
        type: path
        required: true
      group:
        description: Group owner.
        type: str
        default: root
      mode:
        description: Mode, in octal digits.
        type: str
        default: "0755"
  files:
    description: Files, written in this order.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path of the file.
        type: path
        required: true
      content:
        description: File content. Never logged.
        type: str
        required: true
      group:
        description: Group owner.
        type: str
        default: root
      mode:
        description: Mode, in octal digits.
        type: str
        default: "0644"
      secret:
        description: Whether the content is left out of the diff.
        type: bool
        default: false
      validate:
        description:
          - Command that validates the file, as a list of arguments. It rejects the file by a non-zero exit code.
          - V({}) stands for the path of the candidate.
        type: list
        elements: str
        default: []
  links:
    description: Symbolic links, created after the files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path of the link.
        type: path
        required: true
      target:
        description: Target of the link. It need not exist.
        type: path
        required: true
  absent:
    description: Files and links to remove.
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: Configure the node exporter
  fleet.celery.config_files:
    files:
      - path: /etc/prometheus-node-exporter/web.yml
        content: "{{ lookup('ansible.builtin.template', 'web.yml.j2') }}"
        group: prometheus
        mode: "0640"
        secret: true
      - path: /etc/default/prometheus-node-exporter
        content: "{{ lookup('ansible.builtin.template', 'prometheus-node-exporter.j2') }}"
  notify: Restart the node exporter
"""

RETURN = r"""
written:
  description: Files and directories that were created or changed.
  type: list
  elements: str
  returned: success
linked:
  description: Links that were created or changed.
  type: list
  elements: str
  returned: success
removed:
  description: Files and links that were removed.
  type: list
  elements: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._config_files import (
    ConfigError,
    Directory,
    File,
    Link,
)


def common_options(mode: str) -> dict[str, dict[str, object]]:
    """Return the options of files and directories, with a default mode."""
    return {
        "path": {"type": "path", "required": True},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "default": mode},
    }


ARGUMENTS = {
    "directories": {"type": "list", "elements": "dict", "default": [], "options": common_options("0755")},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            **common_options("0644"),
            # Also for files without secrets: no content belongs into the host's journal.
            "content": {"type": "str", "required": True, "no_log": True},
            "secret": {"type": "bool", "default": False, "no_log": False},
            "validate": {"type": "list", "elements": "str", "default": []},
        },
    },
    "links": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"path": {"type": "path", "required": True}, "target": {"type": "path", "required": True}},
    },
    "absent": {"type": "list", "elements": "path", "default": []},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    try:
        files = [File.of(item) for item in params["files"]]
        entries: list[Directory | File | Link] = [
            *(Directory.of(item) for item in params["directories"]),
            *files,
            *(Link.of(item) for item in params["links"]),
        ]
        # In check mode, the program or other files that it reads may not exist yet.
        rejections = [] if module.check_mode else [file.rejection(module.run_command) for file in files]
        if any(rejections):
            raise ConfigError("\n".join(filter(None, rejections)))
        changes = [entry for entry in entries if not entry.there()]
        absent = [path for path in map(Path, params["absent"]) if path.is_symlink() or path.exists()]
        differences = [entry.difference() for entry in changes] + [f"--- {path}\n+++ absent\n" for path in absent]
        if not module.check_mode:
            for entry in changes:
                entry.put()
            for path in absent:
                path.unlink()
    except KeyError as error:
        module.fail_json(
            msg=f"The user or group {error} does not exist on this host. Create it first, or correct group"
        )
    except (ConfigError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(changes or absent),
        written=[str(entry.path) for entry in changes if not isinstance(entry, Link)],
        linked=[str(entry.path) for entry in changes if isinstance(entry, Link)],
        removed=[str(path) for path in absent],
        diff=[{"prepared": text} for text in differences],
    )


if __name__ == "__main__":
    main()
