"""Import the application as its processes do, and write the report for the release check.

Run ``python -m celery_fleet_runtime.check MODULE:APPLICATION`` on the controller, and on each host before the
activation of a release. The last line of the output is the report, as JSON.

Exit code 1: the application has an error, or lacks a variable of its environment, which is the same on all machines.
NOT_HERE: the application may import on a host, where its files and services are.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import re
import resource
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, ClassVar

import celery
import celery_fleet_settings as fleet  # type: ignore[import-not-found]  # rendered
from celery.app.defaults import DEFAULTS
from celery.app.utils import find_app
from kombu import Queue  # type: ignore[attr-defined]
from kombu.utils.url import maybe_sanitize_url

# So many unset variables are listed after an error.
_NAMES = 20
# Modules and libraries that look up variables for their callers.
_READERS = {"os", "_collections_abc", "collections", "environ", "environs", "decouple"}
#: Exit code for an error that the machine may cause: a missing file, variable or service.
NOT_HERE = 3
_OLDEST = (5, 3)
# Errors of the code itself, on any machine.
_MISTAKES = (ModuleNotFoundError, SyntaxError, NameError, AttributeError, TypeError)
# Settings that options on the command line of each worker override.
_OPTIONS = ("worker_concurrency", "worker_max_memory_per_child", "worker_max_tasks_per_child", "worker_pool")
_UNSET = object()
# Names and content types of pickle and YAML.
_UNSAFE = re.compile("pickle|python-serialize|yaml")
#: The fleet's queues, without those that code of the application adds.
QUEUES = tuple(fleet.FIRM["task_queues"])


class RecordingEnviron(type(os.environ)):  # type: ignore[misc]
    """os.environ, which records the variables that are looked up and not set.

    Attributes:
        missing: names of all such variables.
        own: those that modules of the application or of its settings look up.
        packages: packages of these modules.
    """

    missing: ClassVar[set[str]] = set()
    own: ClassVar[set[str]] = set()
    packages: ClassVar[set[str]] = set()

    def __getitem__(self, name: str) -> str:
        try:
            return str(super().__getitem__(name))
        except KeyError:
            self.missing.add(name)
            if self._is_own(sys._getframe(1)):
                self.own.add(name)
            raise

    def _is_own(self, frame: FrameType | None) -> bool:
        while frame and (package := str(frame.f_globals.get("__name__")).partition(".")[0]) in _READERS:
            frame = frame.f_back
        return frame is not None and package in self.packages


def main() -> None:
    """Print the report on the application in the command line."""
    if celery.VERSION < _OLDEST:
        sys.exit(f"Celery {celery.__version__} is too old. Require celery>=5.3 in the application's dependencies")
    modules = (sys.argv[1], os.environ.get("DJANGO_SETTINGS_MODULE", ""))
    RecordingEnviron.packages.update(filter(None, (re.split("[.:]", name)[0] for name in modules)))
    os.environ.__class__ = RecordingEnviron
    try:
        app = load(sys.argv[1])
    except Exception as error:
        traceback.print_exc()
        if own := sorted(RecordingEnviron.own):
            more = f"and {len(own) - _NAMES} more" if len(own) > _NAMES else ""
            print("Variables that the application looks up and that are not set:", *own[:_NAMES], more, file=sys.stderr)
        if names := unset_variables(error):
            sys.exit(f"Not set in the environment: {', '.join(names)}. Set it in celery_app_environment")
        sys.exit(1 if is_mistake(error) else NOT_HERE)
    print("\n" + json.dumps(report(app)))


def is_mistake(error: Exception) -> bool:
    """Return whether an import would fail by this error on any machine."""
    # Another ImportError may be a missing shared library.
    wrong_version = isinstance(error, ImportError) and str(error).startswith("cannot import name")
    return wrong_version or isinstance(error, _MISTAKES)


def unset_variables(error: Exception) -> list[str]:
    """Return the variables that are not set and that an error names."""
    if isinstance(error, OSError):
        return []
    words = set(re.findall(r"\w+", str(error)))
    return sorted(words & RecordingEnviron.missing)


def load(name: str) -> Any:  # noqa: ANN401 - Celery has no types
    """Return the application that ``celery -A`` finds, with its tasks.

    Raises:
        SystemExit: the module contains no application.
    """
    module = importlib.import_module(name.partition(":")[0])
    try:
        app = find_app(name)
    except (AttributeError, ImportError):
        app = None
        # find_app imports this module, too, and hides its errors.
        submodule = module.__name__ + ".celery"
        if hasattr(module, "__path__") and importlib.util.find_spec(submodule):
            importlib.import_module(submodule)
    if not isinstance(app, celery.Celery):
        sys.exit(
            f"{module.__name__} imports, but contains no Celery application {name} (celery_app_module). "
            "Set it to module:variable, such as shop.celery:app"
        )
    app.loader.import_default_modules()
    app.finalize()
    return app


def report(app: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the report that _release_check.py evaluates."""
    tasks = {name: task for name, task in sorted(app.tasks.items()) if not name.startswith("celery.")}
    return {
        "tasks": list(tasks),
        "signatures": {name: parameters(task) for name, task in tasks.items()},
        "queues": {name: queue_of(app, task) for name, task in tasks.items()},
        "periodic": sorted(app.conf.beat_schedule or ()),
        "applies_settings": app.conf.task_queues is fleet.FIRM["task_queues"],
        "differences": differences(app),
        "undeclared": undeclared(app),
        "exchanges": exchanges(app),
        "time_limits": time_limits(app),
        "unsafe_serializers": unsafe_serializers(app) if hasattr(fleet, "SIGNING") else {},
        "priorities": priorities(app),
        "celery": celery.__version__,
        "timezone": os.environ.get("TZ", ""),
        "quorum_queues": [queue.name for queue in QUEUES if queue.queue_arguments.get("x-queue-type") == "quorum"],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "unknown": sorted(set(fleet.DECLARED) - set(DEFAULTS)),
        "left_out": sorted({*fleet.FIRM, *fleet.DEFAULTS} - {*fleet.DECLARED, *DEFAULTS}),
        "known": sorted(DEFAULTS),
    }


def parameters(task: Any) -> list[list[Any]]:  # noqa: ANN401
    """Return name, kind and whether it is required for each parameter of a task; any if they can't be read."""
    try:
        found = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return [["args", "VAR_POSITIONAL", False], ["kwargs", "VAR_KEYWORD", False]]
    return [[each.name, each.kind.name, each.default is each.empty and "VAR_" not in each.kind.name] for each in found]


def differences(app: Any) -> list[dict[str, str]]:  # noqa: ANN401
    """Return the settings that application and fleet set differently.

    Args:
        app: a Celery application with the fleet's loader.

    Returns:
        For each setting, its name, both values as text without passwords, and whose value applies: "application",
        "fleet", "fleet, then application", "workers" for the options of each worker,
        or "hosts" for an address that hosts must reach.
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
    backend = str(view.get("result_backend") or "")
    if "result_backend" not in fleet.FIRM and "://" in backend and not backend.startswith("rpc:"):
        found.append({"name": "result_backend", "application": _text(backend), "fleet": "", "applies": "hosts"})
    found += [
        {"name": name, "application": _text(own), "fleet": "", "applies": "workers"}
        for name in _OPTIONS
        if (own := view.get(name)) is not None
    ]
    return found


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, Queue) for each in value):
        return ", ".join(f"{queue.name} of the exchange {queue.exchange.name!r}" for queue in value)
    if isinstance(value, str) and "://" in value:
        return ";".join(map(maybe_sanitize_url, value.split(";")))
    return repr(_masked(value))


def _masked(value: object) -> object:
    """Return a value without the passwords in it, such as that of Sentinels in broker_transport_options."""
    if not isinstance(value, Mapping):
        return value
    return {name: "**" if "password" in str(name).lower() else _masked(each) for name, each in value.items()}


def undeclared(app: Any) -> dict[str, str]:  # noqa: ANN401
    """Return undeclared queues that the application sends tasks to, with the place that names each.

    Args:
        app: a Celery application with the fleet's loader.
    """
    declared = {queue.name for queue in QUEUES}
    found: dict[str, str] = {}
    for queue in [*(_own(app).get("task_queues") or ()), *(app.conf.task_queues or ())]:
        found.setdefault(queue if isinstance(queue, str) else queue.name, "task_queues")
    for where, route in _destinations(app):
        queue = route.get("queue")
        name = getattr(queue, "name", queue)
        if isinstance(name, str) and name:
            found.setdefault(name, where)
    return {name: where for name, where in found.items() if name not in declared}


def _destinations(app: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:  # noqa: ANN401
    """Yield the routes that do not depend on arguments of tasks, each after the place that sets it."""
    for name, entry in (app.conf.beat_schedule or {}).items():
        yield f"beat_schedule[{name!r}]", entry.get("options") or {}
    for name, task in app.tasks.items():
        if own := getattr(task, "queue", None):
            yield f"the task {name}", {"queue": own}
            continue
        try:
            route = app.amqp.router.lookup_route(name)
        except Exception:  # noqa: S112 - a router of the application that needs arguments
            continue
        yield f"the route of the task {name}", {"queue": route} if isinstance(route, str) else route or {}


def priorities(app: Any) -> dict[str, int]:  # noqa: ANN401
    """Return the highest priorities that the application sets and no queue of the fleet has, by place.

    Args:
        app: a Celery application with the fleet's loader.
    """
    if "task_queue_max_priority" not in fleet.FIRM:  # queues of Redis have priorities without it
        return {}
    view = _own(app)
    declared = {queue.name: _highest(queue) for queue in QUEUES}
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


def unsafe_serializers(app: Any) -> dict[str, str]:  # noqa: ANN401
    """Return the settings that allow a serializer which runs code of a message, each with that serializer."""
    names = ("accept_content", "result_accept_content", "task_serializer", "result_serializer", "event_serializer")
    values = {name: app.conf.get(name) for name in names}
    given = {name: [value] if isinstance(value, str) else value or () for name, value in values.items()}
    return {name: unsafe for name, listed in given.items() for unsafe in listed if _UNSAFE.search(unsafe)}


def time_limits(app: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the tasks whose time limit is above the time limit of their queue's workers.

    Args:
        app: a Celery application with the fleet's loader.

    Returns:
        For each task, its name, its queue, and both limits in seconds.
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
    """Return the queue that a task is sent to; empty if the route depends on more than its name."""
    own = getattr(task, "queue", None)
    try:
        return str(app.amqp.router.route({"queue": own} if own else {}, task.name)["queue"].name)
    except Exception:
        return ""


def exchanges(app: Any) -> dict[str, str]:  # noqa: ANN401
    """Return undeclared exchanges that tasks are sent to, with the place that names each.

    Args:
        app: a Celery application with the fleet's loader.
    """
    declared = {queue.exchange.name for queue in QUEUES}
    found: dict[str, str] = {}
    for where, route in _destinations(app):
        exchange = route.get("exchange")
        name = getattr(exchange, "name", exchange)
        if name and name not in declared:
            found.setdefault(str(name), where)
    return found


def _own(app: Any) -> Any:  # noqa: ANN401
    """Return the application's own settings, without Celery's and the fleet's."""
    conf = app.conf
    conf.finalize()
    return type(conf)({}, list(getattr(app.loader, "own", ())), conf._keys, conf.prefix)


if __name__ == "__main__":
    main()
