"""Release hooks: commands of the application that run at named moments of a release."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._declaration import Problem, Reader, closest

MOMENTS = ("before_stage", "before_activate", "after_activate", "after_release", "after_rollback")
HOSTS = ("one", "each")
TIMEOUT = 600
# Of a program that timeout(1) has ended, and of one that it had to kill.
_TIMED_OUT = (124, 137)
_TAIL = 1000


@dataclass(frozen=True)
class Hook:
    """A command of the release.

    Attributes:
        argv: the command and its arguments.
        hosts: "one" host of the rollout runs it, or "each".
        timeout: seconds after which it is ended, and has failed.
    """

    argv: tuple[str, ...]
    hosts: str = "one"
    timeout: int = TIMEOUT


def read_hooks(raw: object, problems: list[Problem]) -> dict[str, list[dict[str, Any]]]:
    """Return the hooks of each moment.

    Args:
        raw: celery_hooks: by moment, commands as text, or mappings of command, hosts and timeout.
        problems: what is wrong with it is added.
    """
    if not isinstance(raw, Mapping):
        fix = 'Write it as {before_activate: ["django-admin migrate"]}'
        problems.append(Problem("celery_hooks", f"{raw!r} is not a mapping", fix))
        raw = {}
    for name in raw:
        if name not in MOMENTS:
            fix = f"Name one of {', '.join(MOMENTS)}"
            problems.append(Problem(f"celery_hooks.{name}", f"is no moment{closest(str(name), MOMENTS)}", fix))
    found = {}
    for moment in MOMENTS:
        entries = raw.get(moment) or []
        entries = entries if isinstance(entries, list) else [entries]
        hooks = [_read_hook(each, f"celery_hooks.{moment}[{index}]", problems) for index, each in enumerate(entries)]
        found[moment] = [asdict(hook) for hook in hooks if hook]
    return found


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
        # Quotes that don't end leave no command.
        with suppress(ValueError):
            argv = shlex.split(command)
    if not argv:
        what = f"{command!r} names no command" if command is not None else "names no command"
        problems.append(Problem(where, what, 'Set it to a text such as "django-admin migrate", or to a list of words'))
        return None
    return Hook(tuple(argv), hosts, timeout)


def hook_failures(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with the hooks that a host has run.

    Args:
        results: of each its hook as item, and rc, stdout and stderr. One that was skipped has no rc.
    """
    failures = []
    for result in results:
        code, hook = result.get("rc", 0), result["item"]
        if code:
            how = f"took longer than {hook['timeout']} s" if code in _TIMED_OUT else f"ended with {code}"
            output = (result["stderr"] or result["stdout"]).strip()[-_TAIL:]
            failures.append(f"The hook {shlex.join(hook['argv'])} {how}: {output}")
    return failures
