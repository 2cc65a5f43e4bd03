#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Write a program's configuration files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
short_description: Write the files that a program is configured by, in one call
description:
  - Each call of a module costs a host a start of Python. This one does the work of many calls of
    M(ansible.builtin.copy) and M(ansible.builtin.file), for files that belong to root.
  - Every file that changes is checked by the program that reads it before the first is replaced. What is wrong with
    any of them is told at once, and nothing is touched then.
  - Directories that are missing on the way to a file are made, with mode V(0755).
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: It says what it would write, and does not have it checked.}
  diff_mode: {support: full, description: What a file with O(files[].secret) holds is not shown.}
options:
  directories:
    description: Directories, made before the files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where it is.
        type: path
        required: true
      group:
        description: Whose group it is.
        type: str
        default: root
      mode:
        description: Its mode, in octal digits.
        type: str
        default: "0755"
  files:
    description: Files, written in this order.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where it is.
        type: path
        required: true
      content:
        description: What it holds. It reaches no log.
        type: str
        required: true
      group:
        description: Whose group it is.
        type: str
        default: root
      mode:
        description: Its mode, in octal digits.
        type: str
        default: "0644"
      secret:
        description: Whether what it holds is to be kept out of the difference that is shown.
        type: bool
        default: false
      validate:
        description: Program and arguments that check it; V({}) is where it lies meanwhile. It must end with 0.
        type: list
        elements: str
        default: []
  links:
    description: Symbolic links, made after the files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where it is.
        type: path
        required: true
      target:
        description: What it points to, there or not.
        type: path
        required: true
  absent:
    description: Files and links that are removed.
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
written: {description: Files and directories that were made or changed., type: list, elements: str, returned: success}
linked: {description: Links that were made., type: list, elements: str, returned: success}
removed: {description: What was removed., type: list, elements: str, returned: success}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._config_files import (
    ConfigError,
    Directory,
    File,
    Link,
)


def place(mode: str) -> dict[str, dict[str, object]]:
    return {
        "path": {"type": "path", "required": True},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "default": mode},
    }


ARGUMENTS = {
    "directories": {"type": "list", "elements": "dict", "default": [], "options": place("0755")},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            **place("0644"),
            # Not for secrets alone: the host's journal has no use for any of it.
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
    given = module.params
    try:
        files = [File.of(item) for item in given["files"]]
        entries: list[Directory | File | Link] = [
            *(Directory.of(item) for item in given["directories"]),
            *files,
            *(Link.of(item) for item in given["links"]),
        ]
        # In a check run the program may not be there yet, nor what else it reads.
        rejections = [] if module.check_mode else [file.rejection(module.run_command) for file in files]
        if any(rejections):
            raise ConfigError("\n".join(filter(None, rejections)))
        changes = [entry for entry in entries if not entry.there()]
        absent = [path for path in map(Path, given["absent"]) if path.is_symlink() or path.exists()]
        differences = [entry.difference() for entry in changes] + [f"--- {path}\n+++ absent\n" for path in absent]
        if not module.check_mode:
            for entry in changes:
                entry.put()
            for path in absent:
                path.unlink()
    except KeyError as error:
        module.fail_json(msg=f"There is no such user or group on this host: {error}")
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
