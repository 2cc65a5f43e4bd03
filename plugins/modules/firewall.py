#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Close the ports of a host that the plan does not name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Close the ports of a host that the plan does not name
description:
  - Loads a table of nftables that accepts the connections of the plan and no others. Tables of others are left alone.
  - A change is on trial for a minute. Unless O(state=confirmed) follows over a new connection, the host reverts it by
    itself, so nobody is shut out.
author: Celery Fleet (@celery-fleet)
attributes:
  check_mode: {support: full, description: Reports whether the rules would change.}
  diff_mode: {support: full, description: Shows the rules.}
options:
  state:
    description:
      - V(checked) changes nothing. It fails if the table is not loaded yet, and would close a port on which another
        service listens, or refuse a client that is connected to a service of the fleet.
      - V(tried) loads the rules for O(listeners) on trial.
      - V(confirmed) keeps what is on trial, also after a reboot.
      - V(absent) removes the table.
    type: str
    required: true
    choices: [checked, tried, confirmed, absent]
  listeners:
    description: The C(listeners) of the plan's host.
    type: list
    elements: dict
    default: []
  closed_ports:
    description: Ports that may be closed although something listens on them.
    type: list
    elements: int
    default: []
  ssh_connection:
    description: The value of E(SSH_CONNECTION) of the login on the host. Its controller stays able to connect.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Load the rules on trial
  fleet.celery.firewall:
    state: tried
    listeners: "{{ celery_plan.hosts[inventory_hostname].listeners }}"
    ssh_connection: "{{ login.stdout }}"
"""

RETURN = r"""
ruleset:
  description: The rules as a file for nft.
  type: str
  returned: with O(state=tried)
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._files import make_directory, write_file
from ansible_collections.fleet.celery.plugins.module_utils._firewall import (
    TABLE,
    closed_services,
    refused_clients,
    ruleset,
    session,
)

DIRECTORY = Path("/etc/celery-fleet")
RULES = DIRECTORY / "firewall.nft"
CANDIDATE = DIRECTORY / "firewall.candidate.nft"
UNIT = "celery-fleet-firewall"
TRIAL = f"{UNIT}-trial"
TRIAL_SECONDS = 60
FIX = (
    "No rule was changed. Set celery_firewall_page_sources to the networks from which people open the fleet's own "
    "pages, and celery_firewall_broker_sources to the clients of the broker that are not in the inventory. Add other "
    "ports to celery_firewall_ports to keep them open, or to celery_firewall_closed_ports to close them. "
    "celery_firewall: false keeps all ports open"
)


class Firewall:
    """The table on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def run(self, *argv: str, check: bool = True) -> tuple[int, str]:
        """Run a command, and return its exit code and its stdout."""
        program = self._module.get_bin_path(argv[0], True)
        code, out, _err = self._module.run_command([program, *argv[1:]], check_rc=check)
        return code, out

    def loaded(self) -> bool:
        if self._module.get_bin_path("nft") is None:
            return False
        return self.run("nft", "list", "table", "inet", TABLE, check=False)[0] == 0

    def check(self) -> None:
        """Fail if the first table would close a port that others use, or refuse a client that is connected."""
        if self.loaded():
            self._module.exit_json(changed=False)
        _, sockets = self.run("ss", "-Htulpn")
        _, connections = self.run("ss", "-Htn", "state", "established")
        _, interfaces = self.run("ip", "-oneline", "address")
        _, ssh_port = session(self._module.params["ssh_connection"])
        listeners, accepted = self._module.params["listeners"], {*self._module.params["closed_ports"], ssh_port}
        closed = closed_services(sockets, listeners, accepted)
        refused = refused_clients(connections, interfaces, listeners, accepted)
        problems = [f"The firewall would close {', '.join(closed)} of this host."] if closed else []
        problems += [f"The firewall would refuse {', '.join(refused)}, which are connected now."] if refused else []
        if problems:
            self._module.fail_json(" ".join([*problems, FIX]))
        self._module.exit_json(changed=False)

    def try_(self) -> None:
        routes = "".join(self.run("ip", version, "route", "show", "default")[1] for version in ("-4", "-6"))
        text = ruleset(self._module.params["listeners"], self._module.params["ssh_connection"], routes)
        before = RULES.read_text(encoding="utf-8") if RULES.exists() else ""
        changed = before != text or not self.loaded()
        if changed and not self._module.check_mode:
            make_directory(DIRECTORY, 0o755, "root", "root")
            write_file(CANDIDATE, text, 0o600, "root")
            self.run("nft", "--check", "--file", str(CANDIDATE))
            self.run("systemctl", "stop", f"{TRIAL}.timer", check=False)
            revert = f"nft -f {RULES}" if RULES.exists() else f"nft delete table inet {TABLE}"
            self.run(
                "systemd-run",
                f"--unit={TRIAL}",
                f"--on-active={TRIAL_SECONDS}",
                "--timer-property=AccuracySec=1",
                "/bin/sh",
                "-c",
                f"{revert}; rm -f {CANDIDATE}",
            )
            self.run("nft", "--file", str(CANDIDATE))
        diff = {"before": before, "after": text, "before_header": str(RULES), "after_header": str(RULES)}
        self._module.exit_json(changed=changed, ruleset=text, diff=diff)

    def confirm(self) -> None:
        """Keep what is on trial. The timer is stopped first, so that it can't revert what is kept."""
        code, _ = self.run("systemctl", "is-active", "--quiet", f"{TRIAL}.timer", check=False)
        self.run("systemctl", "stop", f"{TRIAL}.timer", check=False)
        if code or not CANDIDATE.exists():
            self._module.fail_json(
                f"The firewall's new rules were reverted, because no new connection succeeded within {TRIAL_SECONDS} s"
            )
        write_file(RULES, CANDIDATE.read_text(encoding="utf-8"), 0o600, "root")
        CANDIDATE.unlink()
        self._module.exit_json(changed=True)

    def remove(self) -> None:
        """Remove the table, and what loads it at boot."""
        unit = Path(f"/etc/systemd/system/{UNIT}.service")
        there = unit.exists() or RULES.exists() or self.loaded()
        if there and not self._module.check_mode:
            self.run("systemctl", "disable", f"{UNIT}.service", check=False)
            self.run("systemctl", "stop", f"{UNIT}.service", f"{TRIAL}.timer", check=False)
            if self.loaded():
                self.run("nft", "delete", "table", "inet", TABLE)
            for path in (unit, RULES, CANDIDATE):
                path.unlink(missing_ok=True)
            self.run("systemctl", "daemon-reload")
        self._module.exit_json(changed=there)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["checked", "tried", "confirmed", "absent"]},
            "listeners": {"type": "list", "elements": "dict", "default": []},
            "closed_ports": {"type": "list", "elements": "int", "default": []},
            "ssh_connection": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    firewall = Firewall(module)
    actions = {
        "checked": firewall.check,
        "tried": firewall.try_,
        "confirmed": firewall.confirm,
        "absent": firewall.remove,
    }
    actions[module.params["state"]]()


if __name__ == "__main__":
    main()
