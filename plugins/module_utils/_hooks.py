"""Release hooks: commands of the application that run at defined moments of a release."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, Reader, closest

MOMENTS = ("before_stage", "before_activate", "after_activate", "after_release", "after_rollback")
HOSTS = ("one", "each")
TIMEOUT = 600
# Exit codes of timeout(1): after SIGTERM, and after SIGKILL.
_TIMED_OUT = (124, 137)
_TAIL = 1000


@dataclass(frozen=True)
class Hook:
    """A command of the release.

    Attributes:
        argv: the command and its arguments.
        hosts: whether "one" host of the rollout runs it, or "each".
        timeout: seconds after which it is killed, and has failed.
    """

    argv: tuple[str, ...]
    hosts: str = "one"
    timeout: int = TIMEOUT


def read_hooks(raw: object, problems: list[Problem]) -> dict[str, tuple[Hook, ...]]:
    """Return the hooks of each moment.

    Args:
        raw: celery_hooks. For each moment, commands as strings, or mappings of command, hosts and timeout.
        problems: gets the errors of raw.
    """
    if not isinstance(raw, Mapping):
        fix = 'Set it to a mapping, e.g. {before_activate: ["django-admin migrate"]}'
        problems.append(Problem("celery_hooks", f"{raw!r} is not a mapping", fix))
        raw = {}
    for name in raw:
        if name not in MOMENTS:
            fix = f"Use one of {', '.join(MOMENTS)}"
            problems.append(
                Problem(f"celery_hooks.{name}", f"is not a moment of a release{closest(str(name), MOMENTS)}", fix)
            )
    hooks_at = {}
    for moment in MOMENTS:
        entries = raw.get(moment) or []
        entries = entries if isinstance(entries, list) else [entries]
        hooks = [_read_hook(each, f"celery_hooks.{moment}[{index}]", problems) for index, each in enumerate(entries)]
        hooks_at[moment] = tuple(hook for hook in hooks if hook)
    return hooks_at


def _read_hook(raw: object, where: str, problems: list[Problem]) -> Hook | None:
    entry = raw if isinstance(raw, Mapping) else {"command": raw}
    reader = Reader(entry, where, problems)
    reader.known.add("command")
    hosts = reader.choice("hosts", HOSTS, "one")
    timeout = reader.seconds("timeout") or TIMEOUT
    reader.unknown_keys()
    command = entry.get("command")
    argv: list[str] = []
    if isinstance(command, list):
        argv = [str(word) for word in command]
    elif isinstance(command, str):
        # An unclosed quote leaves no command.
        with suppress(ValueError):
            argv = shlex.split(command)
    if not argv:
        what = f"{command!r} is not a command" if command is not None else "has no command"
        problems.append(
            Problem(where, what, 'Set it to a string, e.g. "django-admin migrate", or to a list of arguments')
        )
        return None
    return Hook(tuple(argv), hosts, timeout)


def hook_failures(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return why hooks failed on a host.

    Args:
        results: for each hook, a result with item (the hook), rc, stdout and stderr. A skipped one has no rc.
    """
    failures = []
    for result in results:
        code, hook = result.get("rc", 0), result["item"]
        if code:
            how = f"timed out after {hook['timeout']} s" if code in _TIMED_OUT else f"failed with exit code {code}"
            output = (result["stderr"] or result["stdout"]).strip()[-_TAIL:]
            failures.append(f"The hook {shlex.join(hook['argv'])} {how}: {output}")
    return failures
