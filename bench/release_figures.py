"""Figures about the costs of a release, computed from measurements."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median

RECAP = re.compile(r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+) .*\bskipped=(?P<skipped>\d+)", re.MULTILINE)
#: Seconds between the windows that are looked at.
STEP = 0.1


@dataclass(frozen=True)
class Line:
    """A line through points: y = a + b x."""

    a: float
    b: float

    def at(self, x: float) -> float:
        return self.a + self.b * x


def least_squares(points: Iterable[tuple[float, float]]) -> Line | None:
    """Return the least-squares line of points; None if they all have the same x."""
    points = list(points)
    if len({x for x, _ in points}) < 2:  # noqa: PLR2004 - two points make a line
        return None
    middle_x, middle_y = mean(x for x, _ in points), mean(y for _, y in points)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in points) / sum((x - middle_x) ** 2 for x, _ in points)
    return Line(middle_y - slope * middle_x, slope)


def tasks_a_host(output: str, hosts: Iterable[str]) -> float:
    """Return the average number of a playbook's tasks per host, including skipped ones."""
    hosts = set(hosts)
    found = [int(each["ok"]) + int(each["skipped"]) for each in RECAP.finditer(output) if each["host"] in hosts]
    return mean(found) if found else 0.0


def windows(times: Sequence[float], began: float, ended: float, seconds: float) -> list[int]:
    """Return the number of sorted times in each window between two times.

    A time that is shorter than the window has one window.

    Args:
        times: in seconds since the epoch, as are the moments.
        seconds: how long a window is.
    """
    count = max(1, int((ended - began - seconds) / STEP + 1))
    starts = (began + STEP * number for number in range(count))
    return [bisect_left(times, start + seconds) - bisect_left(times, start) for start in starts]


def lowest_share(
    times: Iterable[float], before: tuple[float, float], release: tuple[float, float], seconds: float
) -> float:
    """Return the lowest number in a window during a release, as a share of the median window before it.

    Args:
        times: at which tasks were done.
        before: when what counts as usual began and ended.
        release: when that began and ended.
        seconds: how long a window is.
    """
    times = sorted(times)
    usual = median(windows(times, *before, seconds))
    return min(windows(times, *release, seconds)) / usual if usual else 0.0


@dataclass(frozen=True)
class Extrapolation:
    """The costs of a release to more hosts than were measured, at the same costs per host.

    Attributes:
        cpu: seconds of the controller's processors.
        seconds: that it would take.
    """

    cpu: float
    seconds: float


def extrapolate(
    points: Sequence[tuple[int, float, float, float]], hosts: int, cores: int, *, one_by_one: bool
) -> Extrapolation | None:
    """Return the costs of a release to this number of hosts.

    One host after another takes as long as the line through the measured times says. Side by side it takes what the
    smallest fleet took, for a host's own work waits for nobody, and what the controller has to do more: its processors
    share that, except for Ansible's main process, which uses but one.

    Args:
        points: hosts, seconds that it took, CPU seconds of the controller, and of Ansible's main process alone.
        cores: the controller's processors.
        one_by_one: whether it goes from host to host.
    """
    cpu = least_squares((x, cpu) for x, _, cpu, _ in points)
    main = least_squares((x, main) for x, _, _, main in points)
    seconds = least_squares((x, wall) for x, wall, _, _ in points)
    if not (cpu and main and seconds):
        return None
    least = min(x for x, *_ in points)
    more = max((cpu.at(hosts) - cpu.at(least)) / cores, main.at(hosts) - main.at(least), 0.0)
    smallest = median(wall for x, wall, _, _ in points if x == least)
    return Extrapolation(cpu.at(hosts), seconds.at(hosts) if one_by_one else smallest + more)
