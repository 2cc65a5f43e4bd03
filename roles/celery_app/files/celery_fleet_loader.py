"""Celery's loader in each process of the fleet, which applies the fleet's settings to any application.

CELERY_LOADER names it, so an application needs no line of its own. Settings come from up to three places: the module or
object that the application names, what its code sets on app.conf, and the fleet (celery_fleet_settings). Of the
fleet's, FIRM always apply, whatever the application's code sets before or after; DEFAULTS apply where the application
sets nothing. What the release's Celery does not know is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import celery_fleet_settings as fleet  # type: ignore[import-not-found]  # it is rendered
from celery.app import base
from celery.app.defaults import DEFAULTS
from celery.events.event import event_exchange
from celery.loaders.app import AppLoader
from celery.signals import before_task_publish
from kombu import Queue  # type: ignore[attr-defined]
from kombu.utils.url import maybe_sanitize_url

_UNSET = object()


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


def differences(app: Any) -> list[dict[str, str]]:  # noqa: ANN401
    """Return the settings for which application and fleet say different things.

    Args:
        app: a Celery application that has this loader.

    Returns:
        Of each, its name, both values as text without passwords, and whose value applies: "application" or "fleet".
    """
    conf, view = app.conf, _own(app)
    found = []
    for name, fleets in sorted((fleet.DEFAULTS | fleet.FIRM).items()):
        own = view.get(name, _UNSET)
        if own is _UNSET or own == fleets or (name == "task_routes" and not own):
            continue
        applies = "application" if conf.get(name) == own else "fleet"
        if name == "task_routes":
            applies = "fleet, then application"
        found.append({"name": name, "application": _text(own), "fleet": _text(fleets), "applies": applies})
    return found


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, Queue) for each in value):
        return ", ".join(f"{queue.name} of the exchange {queue.exchange.name!r}" for queue in value)
    return maybe_sanitize_url(value) if isinstance(value, str) and "://" in value else repr(value)


def undeclared(app: Any) -> dict[str, str]:  # noqa: ANN401
    """Return the queues that the application sends tasks to and the fleet does not declare, with where it says so.

    Args:
        app: a Celery application that has this loader.
    """
    declared = {queue.name for queue in fleet.FIRM["task_queues"]}
    found: dict[str, str] = {}
    for queue in _own(app).get("task_queues") or ():
        found.setdefault(queue if isinstance(queue, str) else queue.name, "task_queues")
    for where, route in _destinations(app):
        queue = route.get("queue")
        name = getattr(queue, "name", queue)
        if isinstance(name, str) and name:
            found.setdefault(name, where)
    return {name: where for name, where in found.items() if name not in declared}


def _destinations(app: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:  # noqa: ANN401
    """Yield where tasks go, as far as that does not depend on their arguments, each after where it is said."""
    for name, entry in (app.conf.beat_schedule or {}).items():
        yield f"beat_schedule[{name!r}]", entry.get("options") or {}
    for name, task in app.tasks.items():
        if own := getattr(task, "queue", None):
            yield f"the task {name}", {"queue": own}
            continue
        try:
            route = app.amqp.router.lookup_route(name)
        except Exception:  # noqa: S112 - a router of the application's that wants arguments
            continue
        yield f"the route of the task {name}", {"queue": route} if isinstance(route, str) else route or {}


def priorities(app: Any) -> dict[str, int]:  # noqa: ANN401
    """Return the highest priorities that the application wants and no queue of the fleet has, by where it says so.

    Args:
        app: a Celery application that has this loader.
    """
    if "task_queue_max_priority" not in fleet.FIRM:  # queues of Redis have priorities without it
        return {}
    view = _own(app)
    declared = {queue.name: _highest(queue) for queue in fleet.FIRM["task_queues"]}
    found = {
        f"task_queues[{queue.name!r}]": _highest(queue)
        for queue in view.get("task_queues") or ()
        if not isinstance(queue, str) and _highest(queue) > declared.get(queue.name, 0)
    }
    wanted = view.get("task_queue_max_priority") or 0
    if wanted and not any(declared.values()):
        found["task_queue_max_priority"] = wanted
    return found


def _highest(queue: Any) -> int:  # noqa: ANN401
    return queue.max_priority or (queue.queue_arguments or {}).get("x-max-priority") or 0


def time_limits(app: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the tasks whose own time limit is above that of the workers of their queue.

    Args:
        app: a Celery application that has this loader.

    Returns:
        Of each, its name, its queue, and both limits in seconds.
    """
    found = []
    for name, task in sorted(app.tasks.items()):
        if task.time_limit:
            queue = queue_of(app, task)
            longest = fleet.LONGEST_TASK.get(queue)
            if longest and task.time_limit > longest:
                found.append({"name": name, "queue": queue, "task": task.time_limit, "worker": longest})
    return found


def queue_of(app: Any, task: Any) -> str:  # noqa: ANN401
    """Return the queue that a task goes to; nothing where that depends on more than its name."""
    own = getattr(task, "queue", None)
    try:
        return str(app.amqp.router.route({"queue": own} if own else {}, task.name)["queue"].name)
    except Exception:
        return ""


def exchanges(app: Any) -> dict[str, str]:  # noqa: ANN401
    """Return the exchanges that tasks go to and the fleet does not declare, with where it is said.

    Args:
        app: a Celery application that has this loader.
    """
    declared = {queue.exchange.name for queue in fleet.FIRM["task_queues"]}
    found: dict[str, str] = {}
    for where, route in _destinations(app):
        exchange = route.get("exchange")
        name = getattr(exchange, "name", exchange)
        if name and name not in declared:
            found.setdefault(str(name), where)
    return found


def _own(app: Any) -> Any:  # noqa: ANN401
    """Return what the application sets itself, as settings without any default."""
    conf = app.conf
    conf.finalize()
    return type(conf)({}, list(getattr(app.loader, "own", ())), conf._keys, conf.prefix)
