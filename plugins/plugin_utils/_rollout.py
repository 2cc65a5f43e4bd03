"""A rollout: activates a release in batches, checks each batch against the baseline, and rolls back a failed one.

Pure: it acts through a fleet, whose hosts run modules. The same rollout runs on real hosts and on simulated ones.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._batches import fleet_batches
from ansible_collections.fleet.celery.plugins.module_utils._hooks import hook_failures
from ansible_collections.fleet.celery.plugins.module_utils._judge import Margins, batch_failures, depth_limits
from ansible_collections.fleet.celery.plugins.module_utils._lock import STALE_SECONDS
from ansible_collections.fleet.celery.plugins.module_utils._report import Results, page, rollout_of
from ansible_collections.fleet.celery.plugins.module_utils._rollout import (
    activation_progress,
    batch_summary,
    rollback_release,
    verdict,
)
from ansible_collections.fleet.celery.plugins.module_utils._table import listed, some_lines, status_table
from ansible_collections.fleet.celery.plugins.plugin_utils._fleet import (
    SLICE_SECONDS,
    Fleet,
    ProgressReports,
    Result,
    failure_of,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._rollout_lock import Lock, acquire, release

ACTIVATE, STATUS = "fleet.celery.celery_activate", "fleet.celery.celery_status_info"
COMMAND = "ansible.builtin.command"
# Task results are collected from so many seconds before the rollout, to show the rate before it.
LEAD_SECONDS = 30


@dataclass(frozen=True)
class Part:
    """The part of a host in a rollout.

    Attributes:
        version: release to activate.
        programs: the option programs of celery_activate.
        restart_before: the option of celery_activate.
        staged: when the release was staged (began) and how long that took (seconds); empty if it was staged earlier.
    """

    version: str
    programs: Sequence[Mapping[str, Any]] = ()
    restart_before: float = 0.0
    staged: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Hooks:
    """The commands that run at the moments of a rollout, as the plan has them."""

    after_activate: Sequence[Mapping[str, Any]] = ()
    after_rollback: Sequence[Mapping[str, Any]] = ()
    after_success: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Order:
    """A rollout as it was ordered.

    Attributes:
        label: name of the rollout in reports.
        app: the plan's app.
        parts: the part of each host, in the order of the inventory.
        workers: for each host, the plan's programs, each with worker and queues.
        queues: queues whose depth is compared with the baseline.
        sizes: celery_rollout_batches.
        report_dir: directory of the HTML report.
        only: programs to restart; all if empty.
        check: whether this is a run in check mode, which changes nothing.
    """

    label: str
    app: Mapping[str, Any]
    lock: Lock
    parts: Mapping[str, Part]
    workers: Mapping[str, Sequence[Mapping[str, Any]]]
    report_dir: str
    queues: Sequence[str] = ()
    sizes: Sequence[object] = ("1", "25%", "100%")
    only: Sequence[str] = ()
    stop_by: str = "supervisor"
    start_timeout: int = 180
    keep_releases: int = 5
    observe_tasks: int = 20
    observe_seconds: int = 30
    margins: Margins = field(default_factory=Margins)
    auto_rollback: bool = True
    hooks: Hooks = field(default_factory=Hooks)
    check: bool = False


@dataclass
class Host:
    """A host in a rollout, from its beginning to its end; a result is empty until its module has run.

    Attributes:
        baseline: result of celery_status_info before the rollout.
        activation: latest result of celery_activate.
        hook: why a hook failed; empty if none did.
        health: result of celery_status_info after the activation.
        final: result of celery_status_info at the end.
    """

    name: str
    part: Part
    baseline: Result = field(default_factory=dict)
    activation: Result = field(default_factory=dict)
    hook: str = ""
    health: Result = field(default_factory=dict)
    final: Result = field(default_factory=dict)


class StoppedError(Exception):
    """The rollout can't go on. The message says why."""


class Rollout:
    """A rollout."""

    def __init__(self, order: Order, fleet: Fleet) -> None:
        self.order, self._fleet = order, fleet
        self.hosts = {name: Host(name, part) for name, part in order.parts.items()}
        self.began = self._renewed = fleet.now()
        # Why the rollout failed, and the hosts that it had reached by then.
        self.reasons: list[str] = []
        self.reached: list[Host] = []

    def run(self) -> str:
        """Run the rollout and return why it failed; empty if it succeeded."""
        try:
            try:
                self._activate_in_batches()
            except StoppedError as error:
                self.reasons.append(str(error))
            outcome = self._finish()
        finally:
            unlocked = self._release_lock()
        errors = [outcome, unlocked] if outcome or unlocked else [self._run_last_hooks()]
        return "\n".join(error for error in errors if error)

    # ---- Steps ----

    def _activate_in_batches(self) -> None:
        self._renew_lock()
        self._collect_baseline()
        batches = [[self.hosts[name] for name in names] for names in self._batches()]
        self._fleet.report([f"Batch {number}: {_names(batch)}" for number, batch in enumerate(batches, 1)])
        for number, batch in enumerate(batches, 1):
            # The check of the previous batch took its time.
            self._renew_lock()
            self._fleet.report([f"Activating {self.order.label} on batch {number} of {len(batches)}: {_names(batch)}"])
            self.reached += batch
            self._activate(batch)
            if summary := batch_summary({host.name: host.activation for host in batch}):
                self._fleet.report([f"Batch {number}: {summary}"])
            self.reasons = self._activation_failures(batch) or self._check(batch)
            if self.reasons:
                self._roll_back()
                return

    def _batches(self) -> list[list[str]]:
        return fleet_batches(self.hosts, self.order.workers, self.order.sizes)

    def _collect_baseline(self) -> None:
        # Queue depths are the same on every host, so one host queries the broker.
        first = next(iter(self.hosts))
        results = self._fleet.run(
            STATUS,
            {name: self._status(queues=list(self.order.queues) if name == first else []) for name in self.hosts},
        )
        for name, host in self.hosts.items():
            host.baseline = results[name]
        failures = [f"{name}: {failure}" for name, result in results.items() if (failure := failure_of(result))]
        if failures:
            raise StoppedError("\n  ".join(["No worker was touched. The baseline could not be collected:", *failures]))

    def _activate(self, hosts: Sequence[Host], *, rollback: bool = False) -> None:
        """Activate the release on hosts, or roll them back, until each is done or failed.

        A failed host ends the activation of the others, but not their rollback.
        """
        waiting = list(hosts)
        reports = ProgressReports(self._fleet)
        while waiting:
            results = self._fleet.run(ACTIVATE, {host.name: self._activation(host, rollback) for host in waiting})
            for host in waiting:
                host.activation = results[host.name]
            progress = activation_progress({host.name: host.activation for host in hosts}, _ids(hosts))
            reports.show(some_lines(progress.progress))
            self._renew_lock()
            if progress.failures and not rollback:
                return
            waiting = [host for host in waiting if host.name in progress.waiting]

    def _activation_failures(self, batch: Sequence[Host]) -> list[str]:
        failures = activation_progress({host.name: host.activation for host in batch}, _ids(batch)).failures
        return [f"{name}: {text}" for name, texts in failures.items() for text in texts]

    def _check(self, batch: Sequence[Host]) -> list[str]:
        """Return why an activated batch is unhealthy; empty if it is healthy."""
        if self.order.check:
            return []
        if self.order.hooks.after_activate:
            # The one host of a hook is the first of the rollout, so only the first batch has it.
            one = self.reached[0]
            for name, failure in self._run_hooks(self.order.hooks.after_activate, batch, one).items():
                self.hosts[name].hook = failure
            if failed := [f"{host.name}: {host.hook}" for host in batch if host.hook]:
                return failed
        self._fleet.report([f"Checking {_names(batch)} against the baseline"])
        margins = self.order.margins
        baselines = {name: host.baseline for name, host in self.hosts.items()}
        results = self._fleet.run(
            STATUS,
            {
                host.name: self._status(
                    queues=list(self.order.queues) if host is batch[0] else [],
                    version=host.part.version,
                    # A host without workers runs no tasks to wait for.
                    tasks=self.order.observe_tasks if self.order.workers.get(host.name) else 0,
                    seconds=self.order.observe_seconds,
                    fewest=margins.min_failures,
                    limits=depth_limits(baselines, margins),
                )
                for host in batch
            },
        )
        for host in batch:
            host.health = results[host.name]
        failed = [f"{host.name}: {host.health.get('msg')}" for host in batch if host.health.get("failed")]
        after = {host.name: host.health for host in batch if not host.health.get("failed")}
        versions = {host.name: str(host.activation["version"]) for host in batch}
        return failed + batch_failures(versions, baselines, after, margins)

    def _roll_back(self) -> None:
        rolled_back = self.order.auto_rollback and not self.order.check
        consequence = ", and is rolled back" if rolled_back else ""
        self._fleet.report([f"{self.order.label} failed{consequence}:", *(f"  {reason}" for reason in self.reasons)])
        if not rolled_back:
            return
        self._fleet.report([f"Rolling back {_names(self.reached)}"])
        self._activate(self.reached, rollback=True)
        reachable = [host for host in self.reached if not host.activation.get("unreachable")]
        if reachable:
            failures = self._run_hooks(self.order.hooks.after_rollback, reachable, reachable[0])
            self.reasons += [f"{name}: {text}" for name, text in failures.items()]

    def _finish(self) -> str:
        """Collect and report the final state of the hosts, and return why the rollout failed."""
        arguments = self._status(app=False, since=self.began - LEAD_SECONDS)
        results = self._fleet.run(STATUS, dict.fromkeys(self.hosts, arguments))
        for name, host in self.hosts.items():
            host.final = results[name]
        why = self._verdict()
        lines = status_table({host.name: host.final for host in self._in_batch_order()})
        if not self.order.check:
            lines += ["", self._fleet.write_page(self.order.report_dir, self._page_name(), self._page(why))]
        self._fleet.report(lines)
        return why

    def _run_last_hooks(self) -> str:
        hooks = self.order.hooks.after_success
        if not hooks or self.order.check:
            return ""
        hosts = self._in_batch_order()
        failures = self._run_hooks(hooks, hosts, hosts[0])
        return "\n".join(f"{name}: {text}" for name, text in failures.items())

    def _run_hooks(self, hooks: Sequence[Mapping[str, Any]], hosts: Sequence[Host], one: Host) -> dict[str, str]:
        """Run commands of the release, and return for each host on which one failed, why.

        Args:
            one: the host that runs the commands that only one host runs.
        """
        if self.order.check:
            return {}
        failures: dict[str, list[str]] = {}
        for hook in hooks:
            targets = [host.name for host in hosts if hook["hosts"] == "each" or host is one]
            run = ["timeout", "--kill-after=30", str(hook["timeout"]), f"{self.order.app['root']}/bin/celery_run"]
            results = self._fleet.run(COMMAND, {name: {"argv": [*run, *hook["argv"]]} for name in targets})
            for name, result in results.items():
                output = {key: str(result.get(key) or "") for key in ("stdout", "stderr")}
                text = "\n".join(each for each in output.values() if each)
                command = shlex.join(hook["argv"])
                self._fleet.report([f"{name}: {command}", *(f"  {line}" for line in text.splitlines())])
                found = hook_failures([{"rc": result.get("rc", 0), "item": hook, **output}])
                if not found and (failure := failure_of(result)):
                    found = [f"The hook {command} did not run: {failure}"]
                if found:
                    failures.setdefault(name, []).extend(found)
        return {name: "\n".join(texts) for name, texts in failures.items()}

    # ---- Lock ----

    def _renew_lock(self) -> None:
        found = acquire(self.order.lock, self._fleet)
        what = f"The rollout lock could not be renewed on {'; '.join(found.failures)}"
        if found.held:
            self._renewed = self._fleet.now()
            self._fleet.report(found.messages)
        elif found.refused or self._fleet.now() - self._renewed > STALE_SECONDS / 2:
            raise StoppedError(what)
        # A minority of its hosts does not matter. No other run takes the lock before it is stale.
        if found.failures:
            self._fleet.report([what])

    def _release_lock(self) -> str:
        """Release the rollout lock and return why that failed; empty if it did not."""
        found = release(self.order.lock, self._fleet)
        return "" if found.held else f"The rollout lock could not be released on {'; '.join(found.failures)}"

    # ---- Arguments of the modules ----

    def _activation(self, host: Host, rollback: bool) -> dict[str, Any]:
        order = self.order
        arguments = {
            **self._identity("name", "module", "user", "root", "config_dir", "state_dir"),
            "version": host.part.version,
            "run": order.lock.run,
            "programs": list(host.part.programs),
            "only": list(order.only),
            "restart_before": host.part.restart_before,
            "stop_by": order.stop_by,
            "start_timeout": order.start_timeout,
            "keep_releases": order.keep_releases,
            "seconds": SLICE_SECONDS,
        }
        if rollback:
            arguments["version"] = rollback_release(host.baseline, host.part.version)
            # A later rollback must not select the failed release.
            arguments["previous"] = host.baseline["previous"]
        return arguments

    def _status(self, *, app: bool = True, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - the module's options
        names = ("name", "module", "root", "state_dir") if app else ("name", "root", "state_dir")
        return {**self._identity(*names), **options}

    def _identity(self, *names: str) -> dict[str, Any]:
        options = {"name": "app_name", "module": "app"}
        return {options.get(name, name): self.order.app[name] for name in names}

    # ---- Reports ----

    def _in_batch_order(self) -> list[Host]:
        names = [name for batch in self._batches() for name in batch]
        return [self.hosts[name] for name in names]

    def _verdict(self) -> str:
        if not self.reasons:
            return ""
        unreachable = [name for name, host in self.hosts.items() if host.final.get("unreachable")]
        slices = {host.name: host.activation for host in self.reached if host.activation}
        return verdict(self.order.label, self.reasons, slices, unreachable)

    def _page_name(self) -> str:
        moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.began))
        return f"{moment}-{re.sub('[^A-Za-z0-9._+-]+', '-', self.order.label)}.html"

    def _page(self, why: str) -> str:
        results = {
            host.name: Results(host.baseline, host.part.staged, host.activation, host.final)
            for host in self._in_batch_order()
        }
        return page(rollout_of(self.order.app["name"], self.order.label, self.began, results, why))


def _ids(hosts: Iterable[Host]) -> list[str]:
    return [host.name for host in hosts]


def _names(hosts: Iterable[Host]) -> str:
    return listed(_ids(hosts))
