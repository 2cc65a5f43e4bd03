"""Celery's loader in each process of the fleet, which applies the fleet's settings to any application.

CELERY_LOADER names it, so an application needs no line of its own. Settings come from up to three places: the module or
object that the application names, what its code sets on app.conf, and the fleet (celery_fleet_settings). Of the
fleet's, FIRM always apply, whatever the application's code sets before or after; DEFAULTS apply where the application
sets nothing. What the release's Celery does not know is left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import celery_fleet_settings as fleet  # type: ignore[import-not-found]  # it is rendered
from celery.app import base
from celery.app.defaults import DEFAULTS
from celery.bootsteps import StartStopStep
from celery.events.event import event_exchange
from celery.loaders.app import AppLoader
from celery.signals import before_task_publish
from celery_fleet_alive import INTERVAL_SECONDS, AliveFile  # type: ignore[import-not-found]  # module_utils/_alive.py


class Loader(AppLoader):  # type: ignore[misc]
    """Adds the fleet's settings to those of an application once these are read."""

    _connected = False
    #: The settings that the application was configured by, the strongest first; empty until then.
    own: tuple[Mapping[str, Any], ...] = ()

    @property
    def conf(self) -> Any:  # noqa: ANN401 - Celery has no types
        """Return what the application's configuration source says. Celery asks just before it puts all together."""
        if not self._connected:
            # Not in __init__: with Django, the loader is there before the application's signals are.
            self._connected = True
            self.app.on_after_configure.connect(self.apply, weak=False)
        return super().conf

    def apply(self, **_: object) -> None:
        """Put the fleet's settings around those of the application."""
        conf = self.app.conf
        before_task_publish.connect(leave_expiry_to_workers)
        take_fractions_of_a_second()
        if fleet.PRODUCER:
            _declare_nothing()
        if os.environ.get("CELERY_FLEET_COUNTS") and os.environ.get("SUPERVISOR_PROCESS_NAME"):
            self.app.steps["consumer"].add(SignOfLife)
        # The last are Celery's defaults. The first takes what code sets from now on.
        *own, defaults = conf.maps
        self.own = tuple(own)
        firm = {name: value for name, value in fleet.FIRM.items() if name in DEFAULTS}
        firm["task_routes"] = [*_listed(fleet.FIRM["task_routes"]), *_listed(conf.get("task_routes"))]
        # With a namespace, Celery looks for CELERY_TASK_ROUTES in all places before it looks for task_routes.
        firm |= {key: value for name, value in firm.items() for key in conf._to_keys(name)}
        weak = {name: value for name, value in fleet.DEFAULTS.items() if name in DEFAULTS}
        conf.__dict__["maps"] = [firm, *own, weak, defaults]
        # What copies of these settings are made from.
        conf.__dict__["defaults"] = [firm, *own[1:], weak, defaults]


class SignOfLife(StartStopStep):  # type: ignore[misc]
    """Has a worker report each second that it is alive, from its own event loop."""

    # It starts anew when the worker is connected anew, which clears the timers.
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: object) -> None:  # noqa: ANN401
        super().__init__(parent, **options)
        self._file = AliveFile(Path(os.environ["CELERY_FLEET_COUNTS"]), os.environ["SUPERVISOR_PROCESS_NAME"])

    def start(self, parent: Any) -> None:  # noqa: ANN401
        parent.timer.call_repeatedly(INTERVAL_SECONDS, self.report, (parent,))

    def report(self, consumer: Any) -> None:  # noqa: ANN401
        from celery.worker import state  # noqa: PLC0415 - there in a worker; a sender need not load it

        active = len(state.active_requests)
        self._file.write(
            [queue.name for queue in consumer.task_consumer.queues],
            active=active,
            held=max(0, len(state.reserved_requests) - active),
            done=sum(state.total_count.values()),
        )


def leave_expiry_to_workers(properties: dict[str, Any], **_: object) -> None:
    """Let a message that is too late come to a worker, which tells that its task is revoked.

    RabbitMQ would drop it by itself, and for a dead letter: whoever waits for its result would wait for ever.
    """
    properties.pop("expiration", None)


def take_fractions_of_a_second() -> None:
    """Let a task that is to run within the next second wait for one.

    With quorum queues, Celery 5.5 to 5.7 refuses its countdown, and a retry that has one is lost (Celery.send_task).
    """
    calculate = getattr(base, "calculate_routing_key", None)
    if calculate and not hasattr(calculate, "celery_fleet"):

        def at_least_one_second(countdown: int, routing_key: str) -> str:
            return str(calculate(max(countdown, 1), routing_key))

        at_least_one_second.celery_fleet = True  # type: ignore[attr-defined]
        base.calculate_routing_key = at_least_one_second


def _declare_nothing() -> None:
    """Leave queues and exchanges to the workers: the broker lets a producer publish, and nothing else."""
    for queue in fleet.FIRM["task_queues"]:
        queue.no_declare = True
    # Of Redis, kombu keeps a declared exchange in memory, and needs it.
    if fleet.FIRM["broker_url"].startswith("amqp"):
        event_exchange.no_declare = True


def _listed(routes: object) -> list[Any]:
    if not routes:
        return []
    return [*routes] if isinstance(routes, (list, tuple)) else [routes]
