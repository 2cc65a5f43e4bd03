"""Whether a new release can run the tasks that the previous one has queued."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """A parameter of a task.

    Attributes:
        kind: its kind in Python's inspect, e.g. POSITIONAL_OR_KEYWORD or VAR_KEYWORD.
        required: whether it has no default.
    """

    name: str
    kind: str
    required: bool


Signatures = Mapping[str, Sequence[Parameter]]


def read_signatures(raw: Mapping[str, Sequence[Sequence[object]]]) -> dict[str, tuple[Parameter, ...]]:
    """Return signatures from a release's record, in which each parameter is [name, kind, required]."""
    return {
        task: tuple(Parameter(str(name), str(kind), bool(required)) for name, kind, required in parameters)
        for task, parameters in raw.items()
    }


def incompatible(old: Signatures, new: Signatures) -> dict[str, str]:
    """Return the tasks of the old release whose messages the new one can't run, with the reason.

    Args:
        old: signatures of the running release, by task name.
        new: signatures of the new release.
    """
    reasons = {}
    for task, parameters in sorted(old.items()):
        if task not in new:
            reasons[task] = "was removed, and a worker discards messages of unregistered tasks"
        elif reason := _unbound(parameters, new[task]):
            reasons[task] = reason
    return reasons


def lost(running: str, old: Signatures, new: Signatures) -> dict[str, str]:
    """Return for each task whose messages could be lost why, and how to avoid it.

    Args:
        running: version of the running release.
        old: signatures of the running release, by task name.
        new: signatures of the new release; empty if they are not known, which gives no reasons.
    """
    if not new:
        return {}
    return {
        task: f"The task {task} {reason}. Messages that {running} has sent could be lost. Change the task in two "
        "releases, or add it to celery_app_incompatible_tasks once none of its messages is queued"
        for task, reason in incompatible(old, new).items()
    }


def moves(
    old: Mapping[str, str], new: Mapping[str, str], periodic: Iterable[str], new_periodic: Iterable[str]
) -> list[str]:
    """Return the other differences between the running and the new release, a sentence each.

    Args:
        old: for each task of the running release, its queue.
        new: for each task of the new release, its queue.
        periodic: names of the periodic tasks of the running release.
        new_periodic: names of the periodic tasks of the new release.
    """
    moved = [
        f"The task {task} moves from the queue {queue} to {new[task]}. Messages in {queue} are still consumed"
        for task, queue in sorted(old.items())
        if queue and new.get(task) and new[task] != queue
    ]
    return moved + [f"The periodic task {name} was removed" for name in sorted({*periodic} - {*new_periodic})]


def _unbound(old: Sequence[Parameter], new: Sequence[Parameter]) -> str:
    """Return why calls of the old signature don't fit the new one; empty if all of them do."""
    kinds = {parameter.kind for parameter in new}
    names = {parameter.name: parameter for parameter in new if not parameter.kind.startswith("VAR_")}
    before = {parameter.name: parameter for parameter in old if not parameter.kind.startswith("VAR_")}
    for name, parameter in names.items():
        if parameter.required and name not in before:
            return f"requires {name}, which messages of the old release don't have. Give it a default"
        if parameter.required and not before[name].required:
            return f"requires {name}, which was optional. Give it a default"
    if "VAR_KEYWORD" not in kinds and (lost := [name for name in before if name not in names]):
        return f"no longer takes {', '.join(lost)}, which messages of the old release may have. Keep it for one release"
    if "VAR_POSITIONAL" not in kinds:
        order = [parameter.name for parameter in new if parameter.kind.startswith("POSITIONAL")]
        placed = [parameter.name for parameter in old if parameter.kind.startswith("POSITIONAL")]
        if order[: len(placed)] != placed:
            return f"takes its arguments in another order: ({', '.join(order)}), before ({', '.join(placed)})"
    if any(parameter.kind.startswith("VAR_") and parameter.kind not in kinds for parameter in old):
        return "no longer takes any number of arguments, which messages of the old release may have"
    return ""
