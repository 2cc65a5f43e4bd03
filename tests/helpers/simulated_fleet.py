"""A fleet whose hosts, programs and time are simulated, for tests of whole rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._activation import Observed, Step, Wanted, next_step
from ansible_collections.fleet.celery.plugins.module_utils._lock import Holder, acquire
from ansible_collections.fleet.celery.plugins.plugin_utils._drain import DRAIN
from ansible_collections.fleet.celery.plugins.plugin_utils._rollout import ACTIVATE, COMMAND, STATUS
from ansible_collections.fleet.celery.plugins.plugin_utils._rollout_lock import LOCK

LOCK_HOST = "broker"
START_SECONDS = 2
UNREACHABLE = {"unreachable": True, "msg": "timed out"}


class KilledError(BaseException):
    """The controller was killed: nothing of it runs on, no exception handler either."""


@dataclass(eq=False)
class Slot:
    """A program in Supervisor."""

    name: str
    worker: str
    queues: frozenset[str] = frozenset()
    state: str = "RUNNING"
    release: str = "1.0"
    since: float = 0.0
    stopped_at: float = 0.0
    tried: float | None = None
    idle: bool = False


@dataclass(eq=False)
class SimulatedHost:
    """A host.

    Attributes:
        live: for each worker, the slot that starts at boot.
        bad: for each release that is bad here, how: it "dies", "hangs", or "fails" its tasks.
        drain_seconds: how long a worker takes to finish its tasks.
    """

    slots: dict[str, Slot] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)
    releases: set[str] = field(default_factory=lambda: {"1.0", "1.1"})
    bad: dict[str, str] = field(default_factory=dict)
    drain_seconds: float = 3.0
    current: str = "1.0"
    previous: str = ""
    activation: tuple[str, str] = ("", "")
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    lost: bool = False
    drained_since: int = 0

    def add(self, worker: str, queues: Iterable[str], slots: int = 1) -> None:
        names = [worker] if slots == 1 else [f"{worker}-a", f"{worker}-b"]
        self.live[worker] = names[0]
        for name in names:
            state = "RUNNING" if name == names[0] else "STOPPED"
            self.slots[name] = Slot(name, worker, frozenset(queues), state)

    def consumes(self, slot: Slot) -> bool:
        return slot.state == "RUNNING" and self.bad.get(slot.release) != "hangs" and not self.lost

    def programs(self) -> list[dict[str, Any]]:
        """Return the option programs of celery_activate."""
        return [
            {"name": slot.name, "slot_of": slot.worker, "queues": sorted(slot.queues)} for slot in self.slots.values()
        ]


@dataclass
class SimulatedFleet:
    """The fleet, as a rollout drives it.

    Attributes:
        events: what happens at which second.
        failing_hooks: hosts on which the commands of the release fail.
        watch: is called every second.
    """

    hosts: dict[str, SimulatedHost]
    events: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    failing_hooks: set[str] = field(default_factory=set)
    watch: Callable[[], None] = lambda: None
    clock: int = 1_000_000
    kill_at: int | None = None
    killed: bool = False
    # The processes of controllers that are alive.
    controllers: set[str] = field(default_factory=set)
    holder: Holder | None = None
    lines: list[str] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)
    hooks: list[tuple[str, str]] = field(default_factory=list)
    renewals: list[int] = field(default_factory=list)

    # ---- The protocol of a rollout ----

    def now(self) -> float:
        return float(self.clock)

    def report(self, lines: Iterable[str]) -> None:
        self.lines += lines

    def write_page(self, directory: str, name: str, content: str) -> str:
        self.pages[name] = content
        return f"{directory}/{name}"

    def run(self, module: str, arguments: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        if self.killed:
            raise KilledError
        calls = {ACTIVATE: self._activate, STATUS: self._status, LOCK: self._lock, COMMAND: self._command}
        call = {**calls, DRAIN: self._drain}[module]
        results: dict[str, dict[str, Any]] = {}
        began = self.clock
        while True:
            for name in arguments.keys() - results.keys():
                lost = name != LOCK_HOST and self.hosts[name].lost
                result = dict(UNREACHABLE) if lost else call(name, arguments[name], self.clock - began)
                if result is not None:
                    results[name] = result
            if len(results) == len(arguments):
                return {name: results[name] for name in arguments}
            self.tick()

    # ---- Time ----

    def tick(self) -> None:
        """Let a second pass."""
        self.clock += 1
        if self.kill_at is not None and self.clock >= self.kill_at:
            self.kill_at, self.killed = None, True
            raise KilledError
        for event in self.events.pop(self.clock, []):
            event()
        for host in self.hosts.values():
            for slot in host.slots.values():
                self._age(host, slot)
        self.watch()

    def _age(self, host: SimulatedHost, slot: Slot) -> None:
        if slot.state == "STARTING" and self.clock >= slot.since + START_SECONDS:
            slot.state = "FATAL" if host.bad.get(slot.release) == "dies" else "RUNNING"
        elif slot.state == "STOPPING" and self.clock >= slot.stopped_at:
            slot.state = "STOPPED"
        if host.consumes(slot) and slot.queues:
            outcome = "failed" if host.bad.get(slot.release) == "fails" else "done"
            counts = host.counts.setdefault(slot.release, {"done": 0, "failed": 0})
            counts[outcome] += 1

    def lose(self, name: str, *, power: bool) -> None:
        """Cut a host off, with or without its power."""
        host = self.hosts[name]
        host.lost = True
        if power:
            for slot in host.slots.values():
                slot.state = "STOPPED"

    def find_again(self, name: str) -> None:
        """Bring a host back; it starts what starts at boot."""
        host = self.hosts[name]
        host.lost = False
        for worker, live in host.live.items():
            if all(slot.state == "STOPPED" for slot in host.slots.values() if slot.worker == worker):
                self._start(host, host.slots[live])

    def next_controller(self) -> None:
        """Run Ansible again, after its first run was killed."""
        self.killed = False
        self.controllers.clear()

    # ---- Modules ----

    def _lock(self, _name: str, options: Mapping[str, Any], _waited: int) -> dict[str, Any]:
        if not options.get("held", True):
            if self.holder and self.holder.run == options["run"]:
                self.holder = None
            return {"changed": False, "message": ""}
        controller = options["controller"]
        mine = Holder(
            options["run"],
            options["owner"],
            controller["machine"],
            controller["process"],
            self.clock,
            self.clock,
        )
        holder, message = acquire(self.holder, mine, self.controllers)
        if holder is None:
            return {"failed": True, "msg": message}
        self.holder = holder
        self.renewals.append(self.clock)
        return {"changed": False, "message": message}

    def _command(self, name: str, options: Mapping[str, Any], _waited: int) -> dict[str, Any]:
        self.hooks.append((name, options["argv"][-1]))
        code = int(name in self.failing_hooks)
        return {"rc": code, "failed": bool(code), "stdout": "", "stderr": "no such table" if code else ""}

    def _status(self, name: str, options: Mapping[str, Any], waited: int) -> dict[str, Any] | None:
        if options.get("version") and waited < options["seconds"]:
            return None
        host = self.hosts[name]
        return {
            "drained": False,
            "current": host.current,
            "previous": host.previous,
            "programs": [
                {"name": slot.name, "state": slot.state, "release": slot.release}
                for slot in host.slots.values()
                if slot.state != "STOPPED" or host.live[slot.worker] == slot.name
            ],
            "counts": {release: dict(counts) for release, counts in host.counts.items()},
            "depths": dict.fromkeys(options.get("queues", []), 0),
            "first_depths": {},
            "seconds": [],
            "ended": {},
            "strays": [],
        }

    def _drain(self, name: str, options: Mapping[str, Any], waited: int) -> dict[str, Any] | None:
        host = self.hosts[name]
        programs = [host.slots[each] for each in options["programs"]]
        interrupted = []
        for slot in programs:
            if slot.state in {"STARTING", "RUNNING"}:
                host.drained_since = self.clock
                slot.state, slot.stopped_at = "STOPPING", self.clock + host.drain_seconds
            late = options["deadline"] and self.clock >= host.drained_since + options["deadline"]
            if slot.state == "STOPPING" and late:
                interrupted.append(slot.name)
                slot.state = "STOPPED"
        left = [slot.name for slot in programs if slot.state == "STOPPING"]
        if left and not interrupted and waited < options["seconds"]:
            return None
        waits = [f"{slot} is finishing its tasks" for slot in left]
        return {"done": not left, "waits": waits, "broken_off": interrupted}

    def _activate(self, name: str, options: Mapping[str, Any], waited: int) -> dict[str, Any] | None:
        host, version = self.hosts[name], options["version"]
        if version not in host.releases:
            return self._activated(host, failures=[f"release {version} is not staged on this host"])
        if host.activation != (version, options["run"]):
            host.activation = (version, options["run"])
            for slot in host.slots.values():
                slot.tried = None
        if host.current != version:
            host.previous = options.get("previous", host.current)
            host.current = version
        steps = [
            self._step(host, worker, options)
            for worker in host.live
            if not options["only"] or worker in options["only"]
        ]
        waits = [step.waits for step in steps if step.waits]
        failures = [step.failure for step in steps if step.failure]
        if waits and not failures and waited < options["seconds"]:
            return None
        return self._activated(host, waits=waits, failures=failures)

    def _step(self, host: SimulatedHost, worker: str, options: Mapping[str, Any]) -> Step:
        """Carry out the next step of a worker."""
        slots = {slot.name: slot for slot in host.slots.values() if slot.worker == worker}
        observed = {slot.name: self._observed(host, slot, options["restart_before"]) for slot in slots.values()}
        queues = next(iter(slots.values())).queues
        wanted = Wanted(worker, tuple(slots), queues, options["start_timeout"])
        step = next_step(wanted, observed, host.live[worker])
        if step.live:
            host.live[worker] = step.live
        if step.stop:
            slots[step.stop].state, slots[step.stop].stopped_at = "STOPPING", self.clock + host.drain_seconds
        if step.kill:
            slots[step.kill].state, slots[step.kill].idle = "STOPPED", False
        if step.start:
            self._start(host, slots[step.start])
            slots[step.start].idle = True
        return step

    def _observed(self, host: SimulatedHost, slot: Slot, restart_before: float) -> Observed:
        up = slot.state in {"STARTING", "RUNNING"}
        current = up and slot.release == host.current and slot.since >= restart_before
        if current and slot.tried is None:
            slot.tried = self.clock
        answers = current and host.consumes(slot)
        if answers:
            slot.idle = False
        tried = None if slot.tried is None else self.clock - slot.tried
        return Observed(slot.state, current, answers, slot.queues if answers else frozenset(), tried, slot.idle)

    def _start(self, host: SimulatedHost, slot: Slot) -> None:
        slot.state, slot.release, slot.since = "STARTING", host.current, float(self.clock)
        slot.tried = self.clock if slot.tried is None else slot.tried

    def _activated(self, host: SimulatedHost, **result: list[str]) -> dict[str, Any]:
        waits, failures = result.get("waits", []), result.get("failures", [])
        return {
            "version": host.activation[0] or host.current,
            "done": not waits and not failures,
            "failures": failures,
            "waits": waits,
            "previous": host.previous,
            "programs": {},
        }


def dump(fleet: SimulatedFleet) -> str:
    """Return the fleet as text, for a test that fails."""
    states = {name: [asdict(slot) for slot in host.slots.values()] for name, host in fleet.hosts.items()}
    return "\n".join([*fleet.lines, *(f"{name}: {slot}" for name, slots in states.items() for slot in slots)])
