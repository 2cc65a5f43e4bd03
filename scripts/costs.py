"""The costs of a test run's steps: wall time, and CPU time on the controller and on the lab's hosts."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
TICKS = os.sysconf("SC_CLK_TCK")
PODMAN = ["podman"] if os.geteuid() == 0 else ["sudo", "-n", "podman"]


@dataclass(frozen=True)
class Cost:
    """The costs of a phase of a step, in seconds.

    Attributes:
        wall: wall time.
        controller: CPU time of the step's processes on the controller: Ansible, pytest, browsers.
        hosts: CPU time of all processes on the step's hosts.
    """

    step: str
    phase: str
    wall: float
    controller: float
    hosts: float


def stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state, its third field, on; empty if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # The second field, a name, may contain any character.
    return text.rpartition(")")[2].split()


def process_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and of its children that it waited for; 0 if it has exited."""
    return sum(map(int, stat_of(pid)[11:15])) / TICKS


def machine_seconds() -> tuple[float, float]:
    """Return the CPU seconds since the machine was booted: busy, and in total."""
    ticks = [int(each) for each in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    # proc(5): the fourth is idle, the fifth iowait.
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS, sum(ticks) / TICKS


def container_seconds(container: str) -> float | None:
    """Return the CPU seconds of a container, by its full id; None if it is not running."""
    for path in CGROUPS.glob(f"cpuacct/*/libpod-{container}/cpuacct.usage"):
        return int(path.read_text(encoding="ascii")) / 1e9
    for path in CGROUPS.glob(f"*/libpod-{container}*/cpu.stat"):
        return int(path.read_text(encoding="ascii").split()[1]) / 1e6
    return None


@dataclass
class Meter:
    """Measures the phases of a step, one after another.

    Attributes:
        network: network of its hosts; empty if it has none.
    """

    step: str
    network: str = ""
    costs: list[Cost] = field(default_factory=list)
    # For each container, CPU seconds before its last boot, and since.
    _containers: dict[str, tuple[float, float]] = field(default_factory=dict)
    _since: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def hosts(self) -> float:
        """Return the CPU seconds of all hosts, also of those that were removed.

        Call it regularly: CPU time between the last call and the shutdown of a host is not included.
        """
        if self.network:
            names = [*PODMAN, "ps", "--no-trunc", "--quiet", "--filter", f"name=^{self.network}-"]
            for container in subprocess.run(names, capture_output=True, text=True, check=False).stdout.split():
                before, last = self._containers.get(container, (0.0, 0.0))
                if (now := container_seconds(container)) is not None:
                    self._containers[container] = (before + last, now) if now < last else (before, now)
        return sum(before + now for before, now in self._containers.values())

    def begin(self, now: float, pid: int) -> None:
        """Begin a phase."""
        self._since = (now, process_seconds(pid), self.hosts())

    def end(self, phase: str, now: float, controller: float) -> None:
        """End the current phase.

        Args:
            controller: CPU seconds of the step's process.
        """
        then, before, hosts = self._since
        self.costs.append(Cost(self.step, phase, now - then, max(0.0, controller - before), self.hosts() - hosts))


def table(costs: Iterable[Cost]) -> list[str]:
    """Return a Markdown table with a line for each step and phase, the longest step first."""
    costs = list(costs)
    wall: dict[str, float] = defaultdict(float)
    for cost in costs:
        wall[cost.step] += cost.wall
    lines = [
        "| step | phase | wall s | CPU s on the controller | CPU s on hosts |",
        "| --- | --- | --: | --: | --: |",
    ]
    for step in sorted(wall, key=lambda step: -wall[step]):
        lines += [
            f"| {each.step} | {each.phase} | {each.wall:.0f} | {each.controller:.0f} | {each.hosts:.0f} |"
            for each in costs
            if each.step == step
        ]
    total = [sum(getattr(cost, name) for cost in costs) for name in ("wall", "controller", "hosts")]
    return [*lines, "| all | | " + " | ".join(f"{each:.0f}" for each in total) + " |"]


def spent_table(paths: Sequence[Path]) -> list[str]:
    """Return a Markdown table of the time that scenarios spent, by kind of work.

    Args:
        paths: for each scenario, a file with a line of JSON for each kind. It may be missing.
    """
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            entry = json.loads(line)
            spent[entry["kind"]][path.stem] += entry["seconds"]
    lines = ["| time spent on | wall s | most of it in |", "| --- | --: | --- |"]
    for kind, parts in sorted(spent.items(), key=lambda item: -sum(item[1].values())):
        where = [f"{name} {parts[name]:.0f}" for name in sorted(parts, key=lambda name: -parts[name])[:3]]
        lines.append(f"| {kind} | {sum(parts.values()):.0f} | {', '.join(where)} |")
    return lines
