"""Measure the costs of a release by deploy.yml and by sequential SSH, in the same run.

Boots hosts of its own (a broker, one that sends tasks, and as many for workers as the largest fleet has) and removes
them at the end. Smaller fleets come first, each with an inventory of its own, so that hosts of a larger one have no
worker yet. The old way is bench/old_way.sh. What it finds goes to bench/results/release.json as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from bench.release_figures import Extrapolation, Line, extrapolate, least_squares, lowest_share, tasks_a_host
from bench.release_fleet import (
    deploy,
    fleet_of,
    flow,
    old_way,
    release_hosts,
    releases,
    settle,
    tidy,
    workers,
    write_inventory,
)
from lab.fleet import LOGS, ROOT, play

RESULTS = ROOT / "bench" / "results" / "release.json"

OLD = "old"
#: All hosts but one, then that one (of a queue's consumers one is always left), then the one that sends; not waited for
#: tasks to judge by. A queue that grew while all but one were away is no reason.
ALL_AT_ONCE = {
    "celery_rollout_batches": ["100%"],
    "celery_rollout_observe_seconds": 0,
    "celery_rollout_margins": {"min_depth": 1000000},
}
#: Seconds of tasks before a release, which are what is usual, and before those.
USUAL_SECONDS, WARM_UP_SECONDS = 15.0, 3.0
#: Seconds of the windows in which the least that was done is looked for.
WINDOWS = (1, 10)
EXTRAPOLATED_HOSTS, EXTRAPOLATED_CORES = 500, 2
BROKEN = 'raise RuntimeError("a bug, on purpose")'


@dataclass(frozen=True)
class Figure:
    """The costs of a release.

    Attributes:
        way: OLD, "warm" or "handover".
        batches: "all" at once without judging, "default", or "" the old way.
        long: seconds of the long tasks; 0: there were none.
        hosts: those with workers. One more host is brought to the release: that which sends.
        seconds: that it took.
        cpu: seconds of the controller's processors.
        main: those of Ansible's main process alone.
        tasks: of Ansible, a host with workers.
        load: of this machine, as its kernel counts it, just before.
        well: whether it came to its end.
        lowest: for each window of so many seconds, the least that was done in it as a share of what is usual.
    """

    way: str
    batches: str
    long: float
    hosts: int
    seconds: float
    cpu: float
    main: float
    tasks: float
    load: float
    well: bool
    lowest: dict[int, float]
    sent: int
    done: int
    failed: int
    lost: int
    repeated: int

    @property
    def name(self) -> str:
        """Return how it was released, for people."""
        return f"{self.way}, {self.batches}" if self.batches else self.way


class Bench:
    """Releases one after another, each with a new version.

    Attributes:
        rate: short tasks a second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.figures: list[Figure] = []
        self._count = 0

    def name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"

    def release(self, number: int, way: str, batches: str, long: float) -> None:
        """Release under load, and record the costs."""
        fleet, name = fleet_of(number), self.name(way)
        tidy(fleet)
        load = os.getloadavg()[0]
        log = LOGS / f"{name}.log"
        with tempfile.TemporaryDirectory() as temporary, flow(fleet, self.rate, long) as sent:
            source = example(Path(temporary), name)
            time.sleep(WARM_UP_SECONDS + USUAL_SECONDS)
            if way == OLD:
                run = old_way(number, name, log)
            else:
                more = ALL_AT_ONCE if batches == "all" else {}
                run = deploy(number, name, log, {"bench_activation": way, "celery_app_source": str(source), **more})
        tasks = settle(fleet, sent, long)
        figure = Figure(
            way=way,
            batches=batches,
            long=long,
            hosts=number,
            seconds=round(run.seconds, 1),
            cpu=round(run.cpu, 2),
            main=round(run.main, 2) if way != OLD else 0.0,
            tasks=round(tasks_a_host(run.output, workers(number)), 1),
            load=round(load, 1),
            well=run.code == 0 and set(releases(fleet).values()) == {name},
            lowest={
                seconds: round(
                    lowest_share(
                        tasks.done_at, (run.began - USUAL_SECONDS, run.began), (run.began, run.ended), seconds
                    ),
                    2,
                )
                for seconds in WINDOWS
            },
            sent=tasks.sent,
            done=tasks.done,
            failed=tasks.failed,
            lost=tasks.lost,
            repeated=tasks.repeated,
        )
        self.figures.append(figure)
        print(
            f"  {figure.name}{', long tasks' if long else ''}: {figure.seconds:.0f} s, CPU {figure.cpu:.1f} s; "
            f"{figure.sent} tasks sent, {figure.lost} lost, {figure.repeated} repeated"
            + ("" if figure.well else f"; IT FAILED, see {log.relative_to(ROOT)}"),
            flush=True,
        )

    def bad(self, number: int) -> list[dict[str, Any]]:
        """Release a version that fails its tasks, and record how long hosts ran it after the failure."""
        found = []
        for batches in ("default", "all"):
            fleet, name = fleet_of(number), self.name("bad")
            tidy(fleet)
            before = set(releases(fleet).values())
            with tempfile.TemporaryDirectory() as temporary, flow(fleet, self.rate, 0) as sent:
                time.sleep(WARM_UP_SECONDS)
                source = broken(example(Path(temporary), name))
                more = {"celery_rollout_batches": ["100%"]} if batches == "all" else {}
                run = deploy(number, name, LOGS / f"{name}.log", {"celery_app_source": str(source), **more})
            tasks = settle(fleet, sent, 0)
            judged = next((moment for moment, line in run.lines if "failed, and is rolled back" in line), None)
            if judged is None:
                raise RuntimeError(f"nobody saw that {name} is bad: {''.join(line for _, line in run.lines[-20:])}")
            found.append(
                {
                    "hosts": number,
                    "batches": batches,
                    "seconds_until_judged": round(judged - run.began, 1),
                    "seconds_from_judged_to_back": round(run.ended - judged, 1),
                    "back": set(releases(fleet).values()) == before,
                    "sent": tasks.sent,
                    "failed": tasks.failed,
                    "lost": tasks.lost,
                }
            )
            print(
                f"  bad, {batches}: judged after {found[-1]['seconds_until_judged']:.0f} s, back "
                f"{found[-1]['seconds_from_judged_to_back']:.1f} s later; {tasks.failed} of {tasks.sent} tasks failed",
                flush=True,
            )
        return found


def example(directory: Path, name: str) -> Path:
    """Return a copy of the example with unique code."""
    source = directory / "example"
    shutil.copytree(ROOT / "example", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    (source / "shop" / "release.py").write_text(f'NAME = "{name}"\n', encoding="utf-8")
    return source


def broken(source: Path) -> Path:
    """Change a copy of the example so that it starts, but fails its tasks."""
    path = source / "shop" / "customers" / "tasks.py"
    text = path.read_text(encoding="utf-8")
    good = "    return customer\n"
    if good not in text:
        raise RuntimeError(f"{path.relative_to(source)} has changed: this benchmark no longer knows how to break it")
    path.write_text(text.replace(good, f"    {BROKEN}\n"), encoding="utf-8")
    return source


# ---- What it tells ----


def kinds(figures: Iterable[Figure]) -> dict[tuple[str, str, float], dict[int, list[Figure]]]:
    """Return the figures by kind of release and load, and by the number of hosts."""
    found: dict[tuple[str, str, float], dict[int, list[Figure]]] = {}
    for figure in figures:
        found.setdefault((figure.way, figure.batches, figure.long), {}).setdefault(figure.hosts, []).append(figure)
    return found


def ratio(figures: Sequence[Figure], one: Figure) -> float | None:
    """Return the ratio of its seconds to those of sequential SSH, on as many hosts with the same tasks."""
    old = [each.seconds for each in figures if (each.way, each.hosts, each.long) == (OLD, one.hosts, one.long)]
    return one.seconds / median(old) if old else None


def lines_of(figures: Iterable[Figure]) -> dict[str, tuple[Line, Extrapolation]]:
    """Return for each kind of release without long tasks CPU = a + b hosts, and its extrapolation to more hosts."""
    found = {}
    for (way, batches, long), by_hosts in kinds(each for each in figures if each.well).items():
        points = [(each.hosts, each.seconds, each.cpu, each.main) for some in by_hosts.values() for each in some]
        line = least_squares((hosts, cpu) for hosts, _, cpu, _ in points)
        more = extrapolate(points, EXTRAPOLATED_HOSTS, EXTRAPOLATED_CORES, one_by_one=way == OLD)
        if line and more and not long:
            found[f"{way}, {batches}" if batches else way] = (line, more)
    return found


HEADINGS = (
    "hosts",
    "tasks",
    "way",
    "seconds",
    "/ old",
    "CPU s",
    "a host",
    "Ansible's",
    "1 s",
    "10 s",
    "sent",
    "lost",
    "twice",
)
LEFT_COLUMNS = (1, 2)


def table(figures: Sequence[Figure]) -> list[str]:
    """Return the lines of the table, with a line for each round."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for figure in sorted(figures, key=lambda each: (each.hosts, each.long, each.way != OLD, each.way, each.batches)):
        against = ratio(figures, figure)
        rows.append(
            (
                str(figure.hosts),
                f"long, {figure.long:.0f} s" if figure.long else "short",
                figure.name + ("" if figure.well else " (failed)"),
                f"{figure.seconds:.1f}",
                f"{against:.2f}" if against else "-",
                f"{figure.cpu:.1f}",
                f"{figure.cpu / figure.hosts:.2f}",
                f"{figure.tasks:.0f}" if figure.tasks else "-",
                *(f"{100 * figure.lowest[seconds]:.0f}%" for seconds in WINDOWS),
                str(figure.sent),
                str(figure.lost),
                str(figure.repeated),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return [
        "  ".join(
            cell.ljust(width) if column in LEFT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


NOTES = """
/ old: seconds over those of the old way. CPU s: seconds of the controller's processors, also for a host with workers.
Ansible's: its tasks on such a host. 1 s, 10 s: the least that was done in such a window, of the median one before.
The hosts share this machine's processors: their own work, which is side by side in a fleet, here takes turns.
Ansible uses some 0.03 s of CPU in each second that it waits for them: in a fleet, a host costs less than it does here.
""".strip()


def report(figures: Sequence[Figure], bad: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the results, and write them to a file."""
    print("", *table(figures), "", NOTES, "", sep="\n")
    found = lines_of(figures)
    for name, (line, more) in found.items():
        print(
            f"{name}: CPU = {line.a:.1f} s + {line.b:.2f} s a host. Extrapolated, not measured: {EXTRAPOLATED_HOSTS} "
            f"hosts, a controller of {EXTRAPOLATED_CORES} cores: CPU {more.cpu:.0f} s, {more.seconds:.0f} s"
        )
    data = {
        "date": datetime.now(UTC).date().isoformat(),
        "ansible": version("ansible-core"),
        "celery": version("celery"),
        "cores": os.cpu_count(),
        "tasks_per_second": options.rate,
        "figures": [
            {
                "way": each.way,
                "batches": each.batches,
                "hosts": each.hosts,
                "long_task_seconds": each.long,
                "seconds": each.seconds,
                "ratio_to_old": round(against, 3) if (against := ratio(figures, each)) else None,
                "controller_cpu_seconds": each.cpu,
                "ansible_main_process_cpu_seconds": each.main,
                "ansible_tasks_per_host": each.tasks,
                "load_before": each.load,
                "well": each.well,
                **{f"lowest_{seconds}_second_share": share for seconds, share in each.lowest.items()},
                **{name: getattr(each, name) for name in ("sent", "done", "failed", "lost", "repeated")},
            }
            for each in figures
        ],
        "controller_cpu": {
            name: {
                "seconds": round(line.a, 2),
                "seconds_per_host": round(line.b, 3),
                "extrapolated": {
                    "hosts": EXTRAPOLATED_HOSTS,
                    "cores": EXTRAPOLATED_CORES,
                    "cpu_seconds": round(more.cpu),
                    "seconds": round(more.seconds),
                },
            }
            for name, (line, more) in found.items()
        },
        "bad": list(bad),
    }
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def numbers(text: str) -> list[int]:
    return sorted({int(each) for each in text.split(",") if each})


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=numbers, default=[2, 4, 8, 16], help="with workers (default: 2,4,8,16)")
    parser.add_argument(
        "--judged", type=numbers, help="of those, where default batches are measured too (default: all)"
    )
    parser.add_argument("--long", type=float, default=60, help="seconds of a long task (default: 60); 0: none")
    parser.add_argument("--only-long", action="store_true", help="measure nothing without long tasks")
    parser.add_argument("--rate", type=float, default=15, help="short tasks a second (default: 15)")
    parser.add_argument("--rounds", type=int, default=1, help="of each (default: 1)")
    parser.add_argument("--bad", action="store_true", help="also a bad release, to the largest fleet")
    parser.add_argument("--only-bad", action="store_true", help="nothing but that")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: bench/results/release.json")
    return parser.parse_args()


def measure(bench: Bench, number: int, options: argparse.Namespace) -> None:
    """Release to a fleet with this number of hosts by each kind of release, in turns."""
    judged = options.judged is None or number in options.judged
    flows = ([] if options.only_long else [0.0]) + ([options.long] if options.long else [])
    inventory = write_inventory(number, options.long)
    for _ in range(options.rounds):
        for activation, ways in (("warm", (OLD, "warm")), ("handover", ("handover",))):
            print(f"{number} hosts: site.yml, workers come to releases by {activation}", flush=True)
            play(inventory, "site.yml", ["-e", f"bench_activation={activation}"])
            for long in flows:
                for way in ways:
                    for batches in ("",) if way == OLD else ("all", "default") if judged else ("all",):
                        bench.release(number, way, batches, long)


def main() -> None:
    given = options()
    bench = Bench(given.rate)
    bad: list[dict[str, Any]] = []
    largest = max(given.hosts)
    try:
        with release_hosts(largest, given.long):
            for number in [] if given.only_bad else given.hosts:
                measure(bench, number, given)
            if given.bad or given.only_bad:
                print(f"{largest} hosts: a bad release", flush=True)
                play(
                    write_inventory(largest, given.long), "site.yml", ["-e", f"celery_app_version={bench.name('good')}"]
                )
                bad = bench.bad(largest)
    finally:
        if bench.figures or bad:
            report(bench.figures, bad, given)


if __name__ == "__main__":
    main()
