"""What faults do to a fleet under load: whether a task is lost or repeated, how soon all is whole, and who reports it.

Boots four hosts of its own for each broker (a broker, two for workers, one for beat and the monitor) and removes them
at the end. While short and longer tasks flow, one fault after another is brought about. What it finds goes to
bench/results/faults.json as well, a fault and broker each; those that are not run stay as they were.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.faults_figures import (
    Outcome,
    Result,
    alerts_since,
    consume,
    done_by,
    events_of,
    findings_since,
    outcome,
    result_of,
    status_says,
    table,
    takers,
)
from bench.faults_fleet import (
    WORKERS,
    Hosts,
    Load,
    faults_hosts,
    fleet_of,
    forget,
    ledger,
    load,
    wait_until,
    write_inventory,
)
from bench.faults_injected import FAULTS, Fault, Seen
from lab.fleet import BROKERS, ROOT, LabError, become_options, get

RESULTS = ROOT / "bench" / "results" / "faults.json"
QUEUES = {"customers": ["customers", "ticks"], "email": ["email"], "reports": ["reports", "video"]}
EXPECTED = {(worker, host): queues for worker, queues in QUEUES.items() for host in WORKERS}
#: Each host takes tasks of each of these, as they flow.
TAKERS = {(queue, host) for queue in QUEUES for host in WORKERS}
#: Seconds that tasks flow before a fault and after it.
BEFORE_SECONDS, AFTER_SECONDS = 10, 10
#: Until the fleet is whole, and until alerts of the fault before are over.
WHOLE_SECONDS, QUIET_SECONDS = 420, 60
#: Seconds without the end of a task after which those that are open are given up.
PATIENCE_SECONDS = 60
#: Seconds after which what a worker of Redis had taken is swept, as an operator would.
SWEEP_SECONDS = 15
#: An answer of the workers counts if it is no older.
FRESH_SECONDS = 6
ALERT_SECONDS = 2.0


class Watch:
    """Notes which alerts fire."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self.began = time.time()
        self.found: dict[str, float] = {}
        self._over = threading.Event()

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {alert["labels"]["alertname"] for alert in self._alerts()}

    def _alerts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = get(self._hosts.fleet, "alertmanager", "/api/v2/alerts")
        return found

    def _go_on(self) -> None:
        while not self._over.wait(ALERT_SECONDS):
            try:
                found = alerts_since(self._alerts(), self.began)
            except (LabError, OSError):
                continue
            for name, at in found.items():
                self.found.setdefault(name, round(at - self.began, 1))

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch while the block runs, and count seconds from now."""
        self.began = time.time()
        thread = threading.Thread(target=self._go_on)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def whole(hosts: Hosts, flow: Load) -> bool:
    """Return whether all programs run and all workers consume their queues."""
    at, seen = flow.seen
    return time.time() - at < FRESH_SECONDS and consume(seen, EXPECTED) and hosts.well()


def begun_everywhere(hosts: Hosts, since: float) -> float | None:
    """Return when the last worker began a task that was sent after a moment; None if one has not yet."""
    found = takers(events_of(ledger(hosts.fleet)), since)
    return max(found[taker] for taker in TAKERS) if set(found) >= TAKERS else None


def settle(hosts: Hosts, flow: Load, notes: list[str]) -> Outcome:
    """Wait until each task has ended, or none does any more, and return what became of them."""
    swept = False
    most, since = -1, time.monotonic()
    while True:
        found = outcome(events_of(ledger(hosts.fleet)), flow.sent, set(flow.refused))
        if found.done > most:
            most, since = found.done, time.monotonic()
        still = time.monotonic() - since
        if not found.lost or still > PATIENCE_SECONDS:
            return found
        if hosts.fleet.kind == "redis" and not swept and still > SWEEP_SECONDS:
            swept, since = True, time.monotonic()
            run = hosts.playbook("sweep")
            notes.append(f"{found.lost} tasks open; sweep.yml ended with {run.process.returncode}")
        time.sleep(1)


def bring_about(hosts: Hosts, fault: Fault) -> Result:
    """Bring a fault about under load, and return what it did."""
    fault.prepare(hosts)
    try:
        return under_load(hosts, fault)
    finally:
        fault.restore(hosts)


def under_load(hosts: Hosts, fault: Fault) -> Result:
    """As above, on hosts that are ready for it."""
    seen, doctor = Seen(), list[str]()
    watch = Watch(hosts)
    wait_until(lambda: not watch.firing(), QUIET_SECONDS, 3)
    forget(hosts.fleet)
    with watch.on(), load(hosts.fleet) as flow:
        if not wait_until(lambda: whole(hosts, flow), WHOLE_SECONDS):
            raise LabError(f"the fleet is not whole before {fault.name}: {flow.seen}")
        time.sleep(BEFORE_SECONDS)
        watch.found.clear()
        began = watch.began = time.time()
        try:
            fault.inject(hosts, seen)
            if fault.hold:
                doctor = findings_since(hosts.doctor(), began)
                seen.status += status_says(hosts.status(), hosts.fleet.app_hosts)
                time.sleep(max(0.0, began + fault.hold - time.time()))
            over = time.time()
        finally:
            fault.undo(hosts)
        came_back = bool(wait_until(lambda: whole(hosts, flow), WHOLE_SECONDS))
        consumed = time.time()
        begun = wait_until(lambda: begun_everywhere(hosts, consumed), WHOLE_SECONDS) if came_back else None
        time.sleep(AFTER_SECONDS)
    seen.notes += [f"{count} senders were told: {why}" for why, count in Counter(flow.refused.values()).items()]
    tasks = settle(hosts, flow, seen.notes)
    entries = events_of(ledger(hosts.fleet))
    since = over if fault.hold else began
    if not fault.hold:
        doctor = findings_since(hosts.doctor(), began)
    ends = max(consumed, done_by(entries, consumed))
    return Result(
        fault=fault.name,
        broker=hosts.fleet.kind,
        outcome=tasks,
        seconds=round(ends - since, 1) if begun else None,
        held=round(over - began, 1) if fault.hold else 0,
        alerts=watch.found,
        doctor=doctor,
        status=seen.status,
        watchdog=hosts.watchdog(began),
        notes=[*seen.notes, *(f"TROUBLE: {trouble}" for trouble in seen.trouble)],
    )


def tell(result: Result) -> None:
    """Print what was found of a fault."""
    print(*table([result])[2:], sep="\n")
    for name in ("doctor", "status", "watchdog", "notes"):
        for text in getattr(result, name):
            print(f"    {name}: {text}")
    if result.outcome.lost:
        print(f"    lost: {result.outcome.lost_at}")
    sys.stdout.flush()


def keep(path: Path, results: list[Result]) -> None:
    """Write what was found; what an earlier run found of other faults stays."""
    old = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
    now = {(result.broker, result.fault): result for result in results}
    kept = [each for each in old if (each["broker"], each["fault"]) not in now]
    date = datetime.now(UTC).date().isoformat()
    new = [{"date": date, "celery": version("celery")} | result.as_json() for result in results]
    order = [fault.name for fault in FAULTS]
    found = sorted([*kept, *new], key=lambda each: (BROKERS.index(each["broker"]), order.index(each["fault"])))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"results": found}, indent=2) + "\n", encoding="utf-8")


def show(path: Path) -> None:
    """Print the tables of what was found, as docs/reliability.md has them."""
    found = [result_of(values) for values in json.loads(path.read_text(encoding="utf-8"))["results"]]
    names = {fault.name: fault.what for fault in FAULTS}
    for kind in BROKERS:
        print("", kind, "", *table([result for result in found if result.broker == kind], names), sep="\n")


def options() -> argparse.Namespace:
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--broker", choices=BROKERS, action="append", help="default: each, one after the other")
    parser.add_argument(
        "--fault", choices=names, action="append", metavar="NAME", help=f"default: all: {', '.join(names)}"
    )
    parser.add_argument("--image", default="debian12", help="the hosts' Debian: debian12 (default) or debian13")
    parser.add_argument("--keep-hosts", action="store_true", help="leave the hosts as they are; one broker alone")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: bench/results/faults.json")
    parser.add_argument("--show", action="store_true", help="print the tables of what was found, and run nothing")
    given = parser.parse_args()
    given.broker = given.broker or list(BROKERS)
    if given.keep_hosts and len(given.broker) > 1:
        parser.error("--keep-hosts: the brokers use the same hosts. Name one by --broker")
    return given


def measure(kind: str, given: argparse.Namespace) -> list[str]:
    """Bring the faults about on a fleet with a broker, and return those that could not be."""
    hosts = Hosts(fleet_of(kind), write_inventory(kind, given.image))
    failed = []
    with faults_hosts(hosts.inventory, become_options(), keep=given.keep_hosts):
        for fault in FAULTS:
            if kind not in fault.brokers or (given.fault and fault.name not in given.fault):
                continue
            print(f"{kind}: {fault.what}", flush=True)
            try:
                result = bring_about(hosts, fault)
            except (LabError, subprocess.CalledProcessError) as error:
                failed.append(f"{kind}, {fault.name}: {error}")
                print(f"    FAILED: {error}", flush=True)
                continue
            tell(result)
            keep(given.results, [result])
    return failed


def main() -> int:
    given = options()
    if given.show:
        show(given.results)
        return 0
    failed = [each for kind in given.broker for each in measure(kind, given)]
    print(*failed, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
