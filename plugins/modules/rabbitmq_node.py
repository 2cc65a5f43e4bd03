#!/usr/bin/python
# Copyright (c) 2026 Celery Fleet
# MIT License (see LICENSE)
"""Wait for a state of a node of a RabbitMQ cluster, and drain it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_node
short_description: Wait for a state of a node of a RabbitMQ cluster, and drain it
description:
  - Runs on the node's host. Waits until the node has a state, or fails and says what is missing.
  - Nothing is restarted.
author: Celery Fleet (@celery-fleet)
requirements:
  - RabbitMQ 3.10 or later, run as root on the node's host
attributes:
  check_mode: {support: full, description: Nothing is awaited and nothing is drained.}
  diff_mode: {support: none, description: Nothing is rendered.}
options:
  state:
    description:
      - V(startable) waits, for a node without data, until another node accepts connections, so that the node joins it.
        The first of O(nodes) does not wait, as it founds the cluster. Fails if the others have the node as a member,
        whose data is lost.
      - V(replaceable) waits until all nodes but O(replaced) run, and O(replaced) does not.
      - V(joined) waits until the node has started, and it and those before it in O(nodes) run in its cluster.
      - V(complete) waits until all O(nodes), and no others, are in the cluster and run.
      - V(stoppable) waits until the cluster is complete, and no queue needs this node for its majority. Queues that
        lack members get them. A node that does not run may be stopped.
      - V(drained) waits for the same, then moves leaders of queues to other nodes and closes client connections.
    type: str
    choices: [startable, replaceable, joined, complete, stoppable, drained]
    required: true
  node:
    description: Name of this node, such as C(rabbit@broker1).
    type: str
    required: true
  nodes:
    description: Addresses of all nodes of the cluster, by their names, in order.
    type: dict
    required: true
  replaced:
    description: Name of a node whose host was lost.
    type: str
    default: ""
  port:
    description: Port of connections between nodes.
    type: int
    default: 25672
  timeout:
    description: Seconds to wait.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Wait until the node may stop
  fleet.celery.rabbitmq_node:
    state: stoppable
    node: rabbit@broker1
    nodes: {rabbit@broker1: 10.0.0.1, rabbit@broker2: 10.0.0.2, rabbit@broker3: 10.0.0.3}
"""

RETURN = r"""
running:
  description: Names of the running nodes of the cluster. Empty if the node does not run, or was not asked.
  type: list
  elements: str
  returned: success
members:
  description: Names of all nodes of the cluster. Empty if the node does not run, or was not asked.
  type: list
  elements: str
  returned: success
"""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq import as_rabbitmq, find_command
from ansible_collections.fleet.celery.plugins.module_utils._rabbitmq_cluster import cluster_problems

DATA = Path("/var/lib/rabbitmq/mnesia")
INTERVAL_SECONDS = 3.0
DRAIN_TRIES = 5


class Node:
    """The node on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self.name: str = module.params["node"]
        self.nodes: dict[str, str] = module.params["nodes"]
        self.timeout: int = module.params["timeout"]
        self.running: list[str] = []
        self.members: list[str] = []

    def run(self, command: str, *arguments: str) -> tuple[int, str]:
        path = str(find_command(self._module, command))
        # A node that is cut off from the others may leave a command without an answer.
        argv = as_rabbitmq("timeout", "60", path, "--silent", *arguments)
        code, out, err = self._module.run_command(argv, cwd="/")
        return int(code), str(out) if code == 0 else str(err or out)

    def active(self) -> bool:
        """Return whether the service runs, or starts."""
        code, _, _ = self._module.run_command(["systemctl", "is-active", "--quiet", "rabbitmq-server"])
        return int(code) == 0

    def takes_part(self) -> bool:
        """Return whether the service runs, and its application is not stopped, as while the others are cut off."""
        if not self.active():
            return False
        code, text = self.run("rabbitmqctl", "eval", "rabbit:is_running().")
        return code != 0 or text.strip() != "false"

    def status(self, name: str = "") -> tuple[dict[str, Any], str]:
        """Return the cluster as a node has it, by default this one, or why it is not known."""
        name = name or self.name
        code, text = self.run("rabbitmqctl", "--node", name, "cluster_status", "--formatter", "json")
        if code:
            return {}, f"{name} does not answer: {' '.join(text.split())[-300:]}"
        found: dict[str, Any] = json.loads(text[text.index("{") :])
        self.running, self.members = sorted(found["running_nodes"]), sorted(found["disk_nodes"])
        return found, ""

    def startable(self) -> str:
        """Return why the node must not start yet."""
        if (DATA / self.name).is_dir() or self.active():
            return ""
        for name, address in self.nodes.items():
            if name != self.name and self._accepts(address):
                status, error = self.status(name)
                if self.name in status.get("disk_nodes", []):
                    # It would take part in votes without what it has forgotten.
                    what = f"{self.name} has lost its data, and is still a member of its cluster"
                    self._module.fail_json(msg=f"{what}. Run broker_replace.yml")
                return error
        if self.name == next(iter(self.nodes)):
            return ""
        return f"{self.name} has no data, and reaches no other node at port {self._module.params['port']}"

    def replaceable(self) -> str:
        """Return why the cluster must not forget a node."""
        status, error = self.status()
        replaced = self._module.params["replaced"]
        if replaced in self.running:
            return f"{replaced} runs"
        others = [name for name in self.nodes if name != replaced]
        present = {**status, "disk_nodes": [name for name in status.get("disk_nodes", []) if name != replaced]}
        return error or "; ".join(cluster_problems(present, others))

    def _accepts(self, address: str) -> bool:
        try:
            socket.create_connection((address, self._module.params["port"]), timeout=5).close()
        except OSError:
            return False
        return True

    def joined(self) -> str:
        """Return why the node is not in the cluster."""
        _, error = self.status()
        names = list(self.nodes)
        before = names[: names.index(self.name) + 1]
        lacking = [name for name in before if name not in self.running]
        return error or (f"{self.name} runs without {', '.join(lacking)}" if lacking else "")

    def complete(self) -> str:
        """Return why the cluster is not as it is planned."""
        status, error = self.status()
        return error or "; ".join(cluster_problems(status, list(self.nodes)))

    def stoppable(self) -> str:
        """Return why the node must not stop."""
        if not self.takes_part():
            return ""
        if error := self.complete():
            return f"without {self.name}, the cluster could lose its majority: {error}"
        code, text = self.run("rabbitmq-queues", "check_if_node_is_quorum_critical")
        if code:
            # Queues that were declared while a node was down have no member there. RabbitMQ 3.10 never adds one.
            for name in self.nodes:
                self.run("rabbitmq-queues", "grow", name, "all")
            code, text = self.run("rabbitmq-queues", "check_if_node_is_quorum_critical")
        return f"without {self.name}, queues would lose their majority: {' '.join(text.split())[-300:]}" if code else ""

    def drain(self) -> None:
        """Move the leaders of queues to other nodes, and close client connections."""
        if self.takes_part():
            # It fails if a client ends its connection in the moment in which the node would close it.
            for _ in range(DRAIN_TRIES):
                code, text = self.run("rabbitmq-upgrade", "drain")
                if not code:
                    return
            self._module.fail_json(msg=f"{self.name} could not be drained: {text.strip()[-1000:]}")

    def wait(self, check: Callable[[], str]) -> None:
        """Wait until there is no reason against it."""
        deadline = time.monotonic() + self.timeout
        while reason := check():
            if time.monotonic() > deadline:
                self._module.fail_json(msg=f"After {self.timeout} s: {reason}", running=self.running)
            time.sleep(INTERVAL_SECONDS)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "required": True,
                "choices": ["startable", "replaceable", "joined", "complete", "stoppable", "drained"],
            },
            "node": {"type": "str", "required": True},
            "nodes": {"type": "dict", "required": True},
            "replaced": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 25672},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    node = Node(module)
    drained = module.params["state"] == "drained"
    if not module.check_mode:
        node.wait(getattr(node, "stoppable" if drained else module.params["state"]))
        if drained:
            node.drain()
    module.exit_json(changed=drained and bool(node.running), running=node.running, members=node.members)


if __name__ == "__main__":
    main()
