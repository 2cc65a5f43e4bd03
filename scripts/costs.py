"""What the steps of a test run cost: wall time, and the time of processors on the controller and on the lab's hosts."""

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
    """What a phase of a step cost, in seconds.

    Attributes:
        wall: by the clock.
        controller: processors, by what the step started here: Ansible, pytest, browsers.
        hosts: processors, by all that ran on its hosts.
    """

    step: str
    phase: str
    wall: float
    controller: float
    hosts: float


def stat_of(pid: int) -> list[str]:
    """Return what /proc tells of a process, from its state on: the third field in proc(5). Empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # The second field, a name, may hold anything.
    return text.rpartition(")")[2].split()


def process_seconds(pid: int) -> float:
    """Return the processor seconds of a process and of those that it started and waited for; 0 if it is gone."""
    return sum(map(int, stat_of(pid)[11:15])) / TICKS


def machine_seconds() -> tuple[float, float]:
    """Return the processor seconds since the machine booted: those in use, and all."""
    ticks = [int(each) for each in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    # proc(5): the fourth is idle, the fifth waits for disks.
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS, sum(ticks) / TICKS


def container_seconds(container: str) -> float | None:
    """Return the processor seconds of a container, by its whole id; None if it does not run."""
    for path in CGROUPS.glob(f"cpuacct/*/libpod-{container}/cpuacct.usage"):
        return int(path.read_text(encoding="ascii")) / 1e9
    for path in CGROUPS.glob(f"*/libpod-{container}*/cpu.stat"):
        return int(path.read_text(encoding="ascii").split()[1]) / 1e6
    return None


@dataclass
class Meter:
    """Measures the phases of a step, one after another.

    Attributes:
        network: of its hosts; empty if it has none.
    """

    step: str
    network: str = ""
    costs: list[Cost] = field(default_factory=list)
    # By container: seconds until it was booted last, and since.
    _containers: dict[str, tuple[float, float]] = field(default_factory=dict)
    _since: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def hosts(self) -> float:
        """Return the processor seconds of all hosts that there ever were.

        To be called now and then: what a host used from the last call until it was shut down is not known.
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
        """End the phase that was begun.

        Args:
            controller: processor seconds of the step's process until now.
        """
        then, before, hosts = self._since
        self.costs.append(Cost(self.step, phase, now - then, max(0.0, controller - before), self.hosts() - hosts))


def table(costs: Iterable[Cost]) -> list[str]:
    """Return a table in Markdown: a line a step and phase, those of the longest step first."""
    costs = list(costs)
    wall: dict[str, float] = defaultdict(float)
    for cost in costs:
        wall[cost.step] += cost.wall
    lines = [
        "| step | phase | wall s | controller's processor s | hosts' processor s |",
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
    """Return a table in Markdown of what scenarios spent their time on, by kind.

    Args:
        paths: a file for each scenario, with a line of JSON for each thing; one that is missing has none.
    """
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            entry = json.loads(line)
            found[entry["kind"]][path.stem] += entry["seconds"]
    lines = ["| scenarios' time went to | wall s | most of it in |", "| --- | --: | --- |"]
    for kind, parts in sorted(found.items(), key=lambda item: -sum(item[1].values())):
        where = [f"{name} {parts[name]:.0f}" for name in sorted(parts, key=lambda name: -parts[name])[:3]]
        lines.append(f"| {kind} | {sum(parts.values()):.0f} | {', '.join(where)} |")
    return lines
