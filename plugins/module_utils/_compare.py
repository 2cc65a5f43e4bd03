"""Whether a new release can run the tasks that the one before it has sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """A parameter of a task.

    Attributes:
        kind: as inspect names it, such as POSITIONAL_OR_KEYWORD or VAR_KEYWORD.
        required: whether it has no default.
    """

    name: str
    kind: str
    required: bool


Signatures = Mapping[str, Sequence[Parameter]]


def read_signatures(raw: Mapping[str, Sequence[Sequence[object]]]) -> dict[str, tuple[Parameter, ...]]:
    """Return signatures from what the release's check prints, and its record keeps: [name, kind, required] each."""
    return {
        task: tuple(Parameter(str(name), str(kind), bool(required)) for name, kind, required in parameters)
        for task, parameters in raw.items()
    }


def incompatible(old: Signatures, new: Signatures) -> dict[str, str]:
    """Return the tasks of the old release whose messages the new one can't run, with the reason.

    Args:
        old: signatures of the release that runs, by the tasks' names.
        new: those of the release that is to come.
    """
    found = {}
    for task, parameters in sorted(old.items()):
        if task not in new:
            found[task] = "is gone: a worker discards the messages of a task that it does not know"
        elif reason := _unbound(parameters, new[task]):
            found[task] = reason
    return found


def lost(running: str, old: Signatures, new: Signatures) -> dict[str, str]:
    """Return why messages could be lost where a release takes the place of another, a sentence for each such task.

    Args:
        running: version of the release that runs.
        old: its signatures, by the tasks' names.
        new: those of the release that takes its place; nothing is said if they are not known.
    """
    if not new:
        return {}
    return {
        task: f"The task {task} {reason}. Messages of it that {running} has sent could be lost. Change it in two "
        "releases, or add it to celery_app_incompatible_tasks once no message of it waits"
        for task, reason in incompatible(old, new).items()
    }


def moves(
    old: Mapping[str, str], new: Mapping[str, str], periodic: Iterable[str], new_periodic: Iterable[str]
) -> list[str]:
    """Return what else differs between a release that runs and the one that takes its place, a sentence each.

    Args:
        old: of each task of the one that runs, its queue.
        new: those of the other.
        periodic: names of the periodic tasks of the one that runs.
        new_periodic: those of the other.
    """
    moved = [
        f"The task {task} moves from the queue {queue} to {new[task]}. Messages in {queue} are still done there"
        for task, queue in sorted(old.items())
        if queue and new.get(task) and new[task] != queue
    ]
    return moved + [f"The periodic task {name} is gone" for name in sorted({*periodic} - {*new_periodic})]


def _unbound(old: Sequence[Parameter], new: Sequence[Parameter]) -> str:
    """Return why calls that fit the old signature don't fit the new one; empty if all of them do."""
    kinds = {parameter.kind for parameter in new}
    names = {parameter.name: parameter for parameter in new if not parameter.kind.startswith("VAR_")}
    before = {parameter.name: parameter for parameter in old if not parameter.kind.startswith("VAR_")}
    for name, parameter in names.items():
        if parameter.required and name not in before:
            return f"requires {name}, which messages of the old release don't have. Give it a default"
        if parameter.required and not before[name].required:
            return f"requires {name}, which was optional. Give it a default"
    if "VAR_KEYWORD" not in kinds and (lost := [name for name in before if name not in names]):
        return f"takes {', '.join(lost)} no more, which messages of the old release may have. Keep it for one release"
    if "VAR_POSITIONAL" not in kinds:
        order = [parameter.name for parameter in new if parameter.kind.startswith("POSITIONAL")]
        placed = [parameter.name for parameter in old if parameter.kind.startswith("POSITIONAL")]
        if order[: len(placed)] != placed:
            return f"takes its arguments in another order: ({', '.join(order)}), before ({', '.join(placed)})"
    if any(parameter.kind.startswith("VAR_") and parameter.kind not in kinds for parameter in old):
        return "takes no more any number of arguments, which messages of the old release may have"
    return ""
