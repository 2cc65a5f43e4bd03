"""Modules on many hosts at the same time, from within an action plugin."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ansible.executor.process import worker
from ansible.executor.task_executor import TaskExecutor
from ansible.playbook.task import Task
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.multiprocessing import context

# Seconds between two checks that Ansible's main process is alive.
_POLL_SECONDS = 1.0
_NO_RESULT = {"failed": True, "msg": "the process that ran the module ended without a result"}


class ModuleRunner:
    """Runs modules on hosts of the inventory as tasks of the action's play.

    Each module on each host has a process, as a task has in Ansible's own strategies, with Ansible's own executor. So
    connections, privilege escalation, variables, check mode and unreachable hosts are as in any other task, also where
    a strategy such as Mitogen's replaces the connections. The keywords come from the block, role and play of the
    action's task, not from the task itself.

    The executor is Ansible's own business: that of ansible-core 2.21 takes other arguments (see meta/runtime.yml).
    """

    def __init__(self, action: ActionBase, forks: int) -> None:
        self._task, self._loader, self._forks = action._task, action._loader, forks
        # The task as Ansible handed it to this process. The action's own play context is that of its host.
        self._worker = worker.current_worker
        self._parent = os.getppid()
        self.warnings: dict[str, Any] = {}

    def run(self, module: str, arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Run a module on hosts, and return the result of each. A failed one has failed or unreachable, and msg.

        Args:
            arguments: of each host that runs the module.
        """
        waiting = list(arguments.items())
        running: dict[Connection, tuple[str, Any]] = {}
        results: dict[str, dict[str, Any]] = {}
        while waiting or running:
            while waiting and len(running) < self._forks:
                name, options = waiting.pop(0)
                reader, writer = context.Pipe(duplex=False)
                process = context.Process(target=self._child, args=(writer, module, name, dict(options)))
                # Not while another thread holds the lock of the output, which the child would never get.
                with Display()._lock:
                    process.start()
                writer.close()
                running[reader] = (name, process)
            for reader in [each for each in wait(list(running), _POLL_SECONDS) if isinstance(each, Connection)]:
                name, process = running.pop(reader)
                try:
                    results[name] = reader.recv()
                except EOFError:
                    results[name] = dict(_NO_RESULT)
                reader.close()
                process.join()
            self._end_with_ansible()
        for name, result in results.items():
            for warning in result.pop("warnings", ()):
                self.warnings[str(warning)] = warning
            state = next((each for each in ("unreachable", "failed") if result.get(each)), "ok")
            Display().vv(f"{module}: {state}" + (f": {result.get('msg')}" if state != "ok" else ""), host=name)
        return {name: results[name] for name in arguments}

    def _end_with_ansible(self) -> None:
        """End, with all child processes, if Ansible's main process was killed: nobody would see what this one does."""
        if os.getppid() != self._parent:
            # The process of a task leads a process group, which has the processes of hosts and of SSH.
            with suppress(ProcessLookupError):
                os.killpg(os.getpid(), signal.SIGKILL)
            os._exit(1)

    def _child(self, writer: Connection, module: str, name: str, arguments: dict[str, Any]) -> None:
        # The handlers of a task's process end the group of its own.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            result = self._execute(module, name, arguments)
        except Exception as error:
            result = {"failed": True, "msg": str(error)}
        # Arguments may hold secrets.
        result.pop("invocation", None)
        writer.send(result)
        writer.close()

    def _execute(self, module: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        manager = self._worker._variable_manager
        task = Task.load(
            {"name": module, "action": module, "args": arguments},
            block=self._task._parent,
            role=self._task._role,
            variable_manager=manager,
            loader=self._loader,
        )
        host = manager._inventory.get_host(name)
        result: dict[str, Any] = TaskExecutor(
            host,
            task,
            manager.get_vars(play=task.get_play(), host=host, task=task),
            self._worker._play_context,
            self._loader,
            self._worker._shared_loader_obj,
            self._worker._final_q,
            manager,
        ).run()
        return result
