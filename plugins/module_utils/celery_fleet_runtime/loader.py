"""Celery loader that applies the fleet's settings to any application.

CELERY_LOADER names it, so an application needs no change. Settings have up to three sources: the application's
configuration module or object, its code that sets app.conf, and the fleet (celery_fleet_settings). The fleet's FIRM
override the application's settings. The application's settings override the fleet's DEFAULTS. Settings that the
release's Celery does not have are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, SupportsIndex

import celery_fleet_settings as fleet  # type: ignore[import-not-found]  # rendered
from celery.app import base
from celery.app.defaults import DEFAULTS
from celery.bootsteps import CLOSE, TERMINATE, StartStopStep
from celery.events.event import event_exchange
from celery.loaders.app import AppLoader
from celery.signals import before_task_publish

from .alive import INTERVAL_SECONDS, AliveFile


class Queues(list):  # type: ignore[type-arg]
    """The fleet's queues. Code of the application may add others, but not replace or remove these."""

    def __init__(self, queues: Iterable[Any]) -> None:
        super().__init__(queues)
        self._names = frozenset(queue.name for queue in self)

    def append(self, queue: Any) -> None:  # noqa: ANN401
        # Celery uses the last queue of a name, and this one may have other arguments than the declared queue.
        if getattr(queue, "name", queue) not in self._names:
            super().append(queue)

    def extend(self, queues: Iterable[Any]) -> None:
        for queue in queues:
            self.append(queue)

    def insert(self, _index: SupportsIndex, queue: Any) -> None:  # noqa: ANN401
        self.append(queue)

    def __iadd__(self, queues: Iterable[Any]) -> Queues:  # type: ignore[misc]
        self.extend(queues)
        return self

    def remove(self, queue: Any) -> None:  # noqa: ANN401
        if getattr(queue, "name", queue) not in self._names:
            super().remove(queue)


class Routes(list):  # type: ignore[type-arg]
    """The fleet's routes, then the application's. Code of the application may change its own as a dictionary."""

    def __init__(self, fleets: object, own: object) -> None:
        listed = _listed(own)
        self._own: dict[str, Any] = own if isinstance(own, dict) else {}
        super().__init__([*_listed(fleets), *listed, *([] if listed and listed[-1] is self._own else [self._own])])

    def update(self, *routes: Any, **more: Any) -> None:  # noqa: ANN401
        self._own.update(*routes, **more)

    def setdefault(self, name: str, route: Any = None) -> Any:  # noqa: ANN401
        return self._own.setdefault(name, route)

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401
        return self._own.get(name, default)

    def pop(self, name: Any = -1, *default: Any) -> Any:  # noqa: ANN401
        return self._own.pop(name, *default)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        return self._own[index] if isinstance(index, str) else super().__getitem__(index)

    def __setitem__(self, index: Any, route: Any) -> None:  # noqa: ANN401
        if isinstance(index, str):
            self._own[index] = route
        else:
            super().__setitem__(index, route)


fleet.FIRM["task_queues"] = Queues(fleet.FIRM["task_queues"])


class Loader(AppLoader):  # type: ignore[misc]
    """Loader that adds the fleet's settings after the application is configured."""

    _connected = False
    #: The application's own settings, the strongest first; empty before its configuration.
    own: tuple[Mapping[str, Any], ...] = ()

    @property
    def conf(self) -> Any:  # noqa: ANN401 - Celery has no types
        """Return the application's configuration source. Celery reads it just before it merges all settings."""
        if not self._connected:
            # Not in __init__: with Django, the loader exists before the application's signals.
            self._connected = True
            self.app.on_after_configure.connect(self.apply, weak=False)
        return super().conf

    def apply(self, **_: object) -> None:
        """Merge the fleet's settings with the application's."""
        conf = self.app.conf
        before_task_publish.connect(leave_expiry_to_workers)
        raise_short_countdowns()
        leave_declarations_to_the_fleet()
        if os.environ.get("CELERY_FLEET_COUNTS") and os.environ.get("SUPERVISOR_PROCESS_NAME"):
            self.app.steps["consumer"].add(Heartbeat)
        # The last map has Celery's defaults. The first gets the values that code sets from now on.
        *own, defaults = conf.maps
        self.own = tuple(own)
        firm = {name: value for name, value in fleet.FIRM.items() if name in DEFAULTS}
        firm["task_routes"] = Routes(fleet.FIRM["task_routes"], conf.get("task_routes"))
        # With a namespace, Celery searches all maps for CELERY_TASK_ROUTES before it searches them for task_routes.
        firm |= {key: value for name, value in firm.items() for key in conf._to_keys(name)}
        weak = {name: value for name, value in fleet.DEFAULTS.items() if name in DEFAULTS}
        conf.__dict__["maps"] = [firm, *own, weak, defaults]
        # Copies of these settings are made from this.
        conf.__dict__["defaults"] = [firm, *own[1:], weak, defaults]


class Heartbeat(StartStopStep):  # type: ignore[misc]
    """Bootstep that writes a worker's heartbeat each second, from the worker's event loop.

    While the worker connects, the loop stands still. The last heartbeat before that says so.
    """

    # A reconnect clears the timers, and restarts this step after the step Tasks.
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: object) -> None:  # noqa: ANN401
        super().__init__(parent, **options)
        self._file = AliveFile(Path(os.environ["CELERY_FLEET_COUNTS"]), os.environ["SUPERVISOR_PROCESS_NAME"])
        self._write((), connected=False)

    def start(self, parent: Any) -> None:  # noqa: ANN401
        parent.timer.call_repeatedly(INTERVAL_SECONDS, self.report, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ANN401
        # Celery also stops the steps of a worker that shuts down. That worker has its connection still.
        if parent.blueprint.state not in {CLOSE, TERMINATE}:
            self._write((), connected=False)

    def report(self, consumer: Any) -> None:  # noqa: ANN401
        self._write([queue.name for queue in consumer.task_consumer.queues], connected=True)

    def _write(self, queues: Iterable[str], *, connected: bool) -> None:
        from celery.worker import state  # noqa: PLC0415 - a producer does not need it

        active = len(state.active_requests)
        self._file.write(
            queues,
            active=active,
            held=max(0, len(state.reserved_requests) - active),
            done=sum(state.total_count.values()),
            connected=connected,
        )


def leave_expiry_to_workers(properties: dict[str, Any], **_: object) -> None:
    """Remove the expiry of a message, so that a worker gets it and revokes its task.

    RabbitMQ would dead-letter an expired message, and a caller would wait for the result without end.
    """
    properties.pop("expiration", None)


def raise_short_countdowns() -> None:
    """Raise countdowns below one second to one second.

    With quorum queues, Celery 5.5 to 5.7 refuses such a countdown, and a retry with it is lost (Celery.send_task).
    """
    calculate = getattr(base, "calculate_routing_key", None)
    if calculate and not hasattr(calculate, "celery_fleet"):

        def at_least_one_second(countdown: int, routing_key: str) -> str:
            return str(calculate(max(countdown, 1), routing_key))

        at_least_one_second.celery_fleet = True  # type: ignore[attr-defined]
        base.calculate_routing_key = at_least_one_second


def leave_declarations_to_the_fleet() -> None:
    """Don't declare what the fleet has declared: on RabbitMQ, neither workers nor producers have the permission.

    With Redis, queues and exchanges exist in kombu's memory. There, only producers don't bind queues.
    """
    amqp = fleet.FIRM["broker_url"].startswith("amqp")
    for queue in fleet.FIRM["task_queues"]:
        # RabbitMQ drops a transient queue when it stops, so workers declare it.
        queue.no_declare = fleet.PRODUCER or (amqp and queue.durable)
        queue.exchange.no_declare = amqp
    if amqp:
        event_exchange.no_declare = True
        with suppress(ImportError):  # Celery 5.3 and 5.4
            from celery.worker.consumer.delayed_delivery import DelayedDelivery  # noqa: PLC0415

            DelayedDelivery.start = bind_transient_queues


def bind_transient_queues(_step: object, consumer: Any) -> None:  # noqa: ANN401
    """Bind the transient queues for delayed messages, as the bootstep DelayedDelivery does with all queues."""
    with consumer.app.connection_for_write() as connection:
        for queue in consumer.app.amqp.queues.values():
            if not queue.no_declare:
                bound = queue.bind(connection.default_channel)
                bound.declare()
                bound.bind_to(bound.exchange, routing_key=f"#.{bound.routing_key}")


def _listed(routes: object) -> list[Any]:
    if not routes:
        return []
    return [*routes] if isinstance(routes, (list, tuple)) else [routes]
