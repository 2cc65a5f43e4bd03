"""Reports as an HTML page, such as that of a rollout: phases of programs, and the task rate of the fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._rollout import changeover
from ansible_collections.fleet.celery.plugins.module_utils._table import MANY_HOSTS

WIDTH, LEFT, LANE, CHART = 960, 190, 16, 120
# A letter of a label, at most.
LETTER = 7
# Seconds between two ticks of the time axis, and the largest number of ticks.
STEPS, TICKS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600), 12
#: Colours of the phases that celery_activate records. Other phases are not drawn.
COLOURS = {
    "unchanged": "#b9dcc3",
    "staging": "#8d7bc4",
    "draining": "#d98e04",
    "starting": "#3d7dca",
    "up": "#3f9b57",
    "killed": "#b3261e",
    "down": "#bdbdbd",
}


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What happened on the fleet's hosts. All times are seconds since the epoch.

    Attributes:
        phases: for each host and program, the start and the name of each phase, in order.
        seconds: second, tasks done and tasks failed on the whole fleet, in order. May begin earlier, and leaves out
            seconds without tasks.
    """

    began: float
    ended: float
    phases: Mapping[str, Mapping[str, Sequence[tuple[float, str]]]]
    seconds: Sequence[tuple[int, int, int]]

    @property
    def span(self) -> float:
        """Return the seconds that the page shows, at least one."""
        return max(1.0, self.ended - self.began)

    def x(self, moment: float) -> float:
        """Return the horizontal position of a moment in the charts."""
        share = (min(max(moment, self.began), self.ended) - self.began) / self.span
        return round(self.left + share * (WIDTH - self.left - 10), 1)

    @cached_property
    def left(self) -> int:
        """Return the width of the labels."""
        longest = max((len(f"{host} {name}") for host, programs in self.phases.items() for name in programs), default=0)
        return min(max(LEFT, longest * LETTER), WIDTH // 2)


@dataclass(frozen=True, kw_only=True)
class Rollout(Timeline):
    """The content of the page of a rollout.

    Attributes:
        before: for each host, its release before the rollout.
        after: for each host, its release after the rollout.
        open_before: tasks that were started and had not finished at the beginning.
        open_after: tasks that were started and had not finished at the end.
        verdict: why the rollout failed; empty if it succeeded.
    """

    app: str
    label: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    open_before: int = 0
    open_after: int = 0
    verdict: str = ""

    @property
    def done(self) -> int:
        return sum(done for second, done, _ in self.seconds if second >= self.began)

    @property
    def failed(self) -> int:
        return sum(failed for second, _, failed in self.seconds if second >= self.began)

    def slowest(self, window: int) -> float:
        """Return the lowest task rate, in tasks a second, over a window of this many seconds."""
        done = {second: tasks for second, tasks, _ in self.seconds}
        first, last = int(self.began), int(self.ended)
        starts = range(first, max(first, last - window) + 1)
        return min(sum(done.get(start + offset, 0) for offset in range(window)) for start in starts) / window


@dataclass(frozen=True)
class Results:
    """The results of a host's modules during a rollout; empty where a module did not run.

    Attributes:
        before: of celery_status_info, before the rollout.
        staged: of celery_release.
        activated: of the latest celery_activate.
        after: of celery_status_info, after the rollout.
    """

    before: Mapping[str, Any]
    staged: Mapping[str, Any]
    activated: Mapping[str, Any]
    after: Mapping[str, Any]

    def phases(self, began: float) -> dict[str, list[tuple[float, str]]]:
        """Return the start and the name of each phase, for each program."""
        phases = {name: [tuple(phase) for phase in each] for name, each in self.activated.get("programs", {}).items()}
        for item in self.before.get("programs", []):
            if item["name"] in phases:
                phases[item["name"]].insert(0, (began, "unchanged"))
        for name, moment in self.after.get("ended", {}).items():
            if name in phases and phases[name][-1][1] == "draining":
                phases[name].append((moment, "down"))
        if "began" in self.staged:
            end = self.staged["began"] + self.staged["seconds"]
            phases["release"] = [(self.staged["began"], "staging"), (end, "")]
        return phases


def rollout_of(app: str, label: str, began: float, results: Mapping[str, Results], verdict: str) -> Rollout:
    """Return the content of the page from the results of each host."""
    done: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    for host in results.values():
        for second, good, bad in host.after.get("seconds", []):
            done[second] += good
            failed[second] += bad
    # The page begins with the staging, during which all programs are unchanged.
    began = min([began, *(host.staged["began"] for host in results.values() if "began" in host.staged)])
    phases = {name: host.phases(began) for name, host in results.items()}
    times = [moment for programs in phases.values() for each in programs.values() for moment, _ in each]
    return Rollout(
        app=app,
        label=label,
        began=min([began, *times]),
        ended=max([began, *times, *done]),
        phases=phases,
        seconds=[(second, done[second], failed[second]) for second in sorted(done)],
        before={name: host.before.get("current", "") for name, host in results.items()},
        after={name: host.after.get("current", "") for name, host in results.items()},
        open_before=sum(open_tasks(host.before) for host in results.values()),
        open_after=sum(open_tasks(host.after) for host in results.values()),
        verdict=verdict,
    )


def open_tasks(status: Mapping[str, Any]) -> int:
    """Return how many tasks of a host were started and have not finished.

    These are in-flight tasks and all that were ever interrupted. A rollout that interrupts none leaves no more of them.

    Args:
        status: result of celery_status_info.
    """
    return sum(
        counts.get("begun", 0) - sum(counts.get(kind, 0) for kind in ("done", "failed", "retried"))
        for counts in status.get("counts", {}).values()
    )


def page(rollout: Rollout) -> str:
    """Return the HTML page of a rollout."""
    outcome = rollout.verdict or "succeeded on all hosts"
    began = datetime.fromtimestamp(rollout.began, UTC)
    facts = (
        ("began", began.strftime("%Y-%m-%d %H:%M:%S UTC")),
        ("duration", f"{rollout.span:.0f} s"),
        ("outcome", outcome),
        ("tasks done", f"{rollout.done:,}"),
        ("tasks failed", f"{rollout.failed:,}"),
        ("tasks started and not finished", f"{rollout.open_before:,} before, {rollout.open_after:,} after"),
        ("lowest rate over 1 s", f"{rollout.slowest(1):.0f} tasks a second"),
        ("lowest rate over 10 s", f"{rollout.slowest(10):.1f} tasks a second"),
    )
    hosts = "".join(
        f"<tr><td>{escape(host)}</td><td>{escape(old)}</td><td>{escape(rollout.after.get(host, ''))}</td></tr>"
        for host, old in sorted(rollout.before.items())
    )
    table = f"<table><tr><th>host</th><th>before</th><th>after</th></tr>{hosts}</table>"
    if len(rollout.before) > MANY_HOSTS:
        moves = Counter((old, rollout.after.get(host, "")) for host, old in rollout.before.items())
        counts = "".join(
            f"<li>{escape(old)} to {escape(new)}: {count:,}</li>" for (old, new), count in moves.most_common()
        )
        table = f"<ul>{counts}</ul><details><summary>All {len(rollout.before):,} hosts</summary>{table}</details>"
    table = f"<h2>Hosts</h2>\n{table}"
    return document(f"{rollout.app}: {rollout.label}", facts, rollout, table)


def document(title: str, facts: Iterable[tuple[str, str]], timeline: Timeline, end: str = "") -> str:
    """Return an HTML page, which loads nothing else.

    Args:
        facts: names and values.
        end: HTML at the end of the page.
    """
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    shown = {phase for programs in timeline.phases.values() for each in programs.values() for _, phase in each}
    colours = {name: colour for name, colour in COLOURS.items() if name in shown}
    legend = " ".join(f'<span><i style="background:{colour}"></i>{name}</span>' for name, colour in colours.items())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: {WIDTH}px; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }}
th, td {{ text-align: left; vertical-align: top; white-space: pre-line; padding: .15em 1em .15em 0 }}
i {{ display: inline-block; width: .8em; height: .8em; margin-right: .3em }} span {{ margin-right: 1em }}
svg text {{ font: 11px system-ui, sans-serif; fill: #333 }}
</style></head><body>
<h1>{escape(title)}</h1>
<table>{rows}</table>
<h2>Tasks done per second</h2>
{_chart(timeline)}
<h2>Programs</h2>
<p>{legend}</p>
{_slowest_lanes(timeline)}
{end}
</body></html>
"""


def _chart(timeline: Timeline) -> str:
    done = {second: tasks for second, tasks, _ in timeline.seconds}
    failed = {second: tasks for second, _, tasks in timeline.seconds}
    seconds = range(int(timeline.began), int(timeline.ended) + 1)
    most = max([1, *done.values(), *failed.values()])

    def line(values: Mapping[int, int], colour: str) -> str:
        height = (CHART - 15) / most
        points = " ".join(f"{timeline.x(second)},{CHART - values.get(second, 0) * height:.1f}" for second in seconds)
        return f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'

    return (
        f'<svg viewBox="0 0 {WIDTH} {CHART + 18}" role="img">'
        f'<text x="{timeline.left - 8}" y="20" text-anchor="end">{most}</text>'
        f'<text x="{timeline.left - 8}" y="{CHART}" text-anchor="end">0</text>'
        f"{line(done, '#3f9b57')}{line(failed, '#b3261e')}{_axis(timeline, CHART + 14)}</svg>"
    )


def _axis(timeline: Timeline, y: int) -> str:
    """Return the labels of the time axis: seconds since the beginning."""
    span = timeline.ended - timeline.began
    step = next((step for step in STEPS if span / step <= TICKS), STEPS[-1])
    ticks = range(0, int(span) + 1, step)
    return "".join(
        f'<text x="{timeline.x(timeline.began + tick)}" y="{y}" text-anchor="middle">{tick} s</text>' for tick in ticks
    )


def _slowest_lanes(timeline: Timeline) -> str:
    """Return the lanes of all programs; of many hosts, those of the ones that took longest."""
    if len(timeline.phases) <= MANY_HOSTS:
        return _lanes(timeline, timeline.phases)
    times = {host: changeover(programs.values()) for host, programs in timeline.phases.items()}
    slowest = sorted(times, key=lambda host: -times[host])[:MANY_HOSTS]
    lanes = _lanes(timeline, {host: timeline.phases[host] for host in slowest})
    return f"<p>The {MANY_HOSTS} of {len(times):,} hosts that took longest:</p>\n{lanes}"


def _lanes(timeline: Timeline, shown: Mapping[str, Mapping[str, Sequence[tuple[float, str]]]]) -> str:
    parts, lane, x = [], 0, timeline.x
    for host, programs in sorted(shown.items()):
        for program, phases in sorted(programs.items()):
            y = lane * (LANE + 4)
            label = escape(f"{host} {program}")
            parts.append(f'<text x="{timeline.left - 8}" y="{y + LANE - 4}" text-anchor="end">{label}</text>')
            ends = [start for start, _ in phases[1:]] + [timeline.ended]
            for (start, name), end in zip(phases, ends, strict=True):
                if name in COLOURS and end >= timeline.began:
                    width = max(1.5, x(end) - x(start))
                    parts.append(
                        f'<rect x="{x(start)}" y="{y}" width="{width:.1f}" height="{LANE}" fill="{COLOURS[name]}">'
                        f"<title>{label}: {name}, {end - start:.1f} s</title></rect>"
                    )
            lane += 1
    return f'<svg viewBox="0 0 {WIDTH} {max(1, lane) * (LANE + 4)}" role="img">{"".join(parts)}</svg>'
