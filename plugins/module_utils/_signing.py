"""Signed messages in the plan: the mode, and the replay cache in which workers record the messages that have run.

Sizes are bytes, times are seconds. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem, Variables
from ansible_collections.fleet.celery.plugins.module_utils._sentinel import Sentinel
from ansible_collections.fleet.celery.plugins.module_utils._tls import read_mode
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB, format_size

#: Shortest window: clocks of hosts differ, and a message may wait in a queue.
WINDOW_LEAST = 600
#: Smallest memory of a replay cache: an empty Redis takes a part of it.
MEMORY_LEAST = 16 * MIB
#: Ports of the replay cache beside RabbitMQ, without and with TLS.
PORT, TLS_PORT = 6379, 6380

_SERIALIZERS = ("task_serializer", "result_serializer", "event_serializer")
_ACCEPTED = ("accept_content", "result_accept_content")
# Names and content types of kombu's serializers whose decoder can run code of the message.
_UNSAFE = {"pickle", "yaml", "application/x-python-serialize", "application/x-yaml"}


@dataclass(frozen=True)
class SigningOptions:
    """The declaration of signed messages.

    Attributes:
        mode: off, both or only. With both, workers also accept messages without a signature.
        window: how long after its sending, or after its eta, a message may be started.
        memory: limit of the replay cache.
    """

    mode: str = "off"
    window: int = 86_400
    memory: int = 128 * MIB

    @property
    def enabled(self) -> bool:
        """Return whether messages are signed."""
        return self.mode != "off"


@dataclass(frozen=True)
class ReplayCache:
    """The Redis server in which workers record the messages that have run.

    Attributes:
        host: name of the broker's host, which the cache shares; the first one if there are Sentinels.
        address: that workers connect to. With Sentinels, they ask these for it.
        port: that workers connect to.
        tls: whether port has TLS.
        plain_port: on which it listens without TLS; 0 if it does not.
        tls_port: on which it listens with TLS; 0 if it does not.
        key_prefix: of all of its keys.
        memory: bytes that it may take.
        maxclients: connections above which it refuses more; 0 if it is the broker, which has a limit of its own.
        sentinel: those of the broker; None if there is one server.
    """

    host: str
    address: str
    port: int
    tls: bool
    plain_port: int
    tls_port: int
    user: str
    key_prefix: str
    memory: int
    maxclients: int
    sentinel: Sentinel | None = None


@dataclass(frozen=True)
class Signing:
    """The signing of messages, as roles use it.

    Attributes:
        mode: both or only.
        keep: seconds for which a message that an earlier key has signed may be valid.
        senders: whether each key may control workers, by its name.
        dead_letters: queue of refused tasks.
    """

    mode: str
    window: int
    dead_letters: str
    keep: int
    senders: Mapping[str, bool]
    replay_cache: ReplayCache


def senders_of(app_hosts: Iterable[str], producers: Iterable[str], flower: str) -> dict[str, bool]:
    """Return the names of the keys that sign messages, and whether each may control workers.

    Args:
        app_hosts, producers: names of hosts. Root has a key of its own on the former.
        flower: name of Flower's host; empty if there is none.
    """
    hosts = tuple(app_hosts)
    keys = dict.fromkeys((*hosts, *producers), False)
    operators = [f"{host}.operator" for host in hosts] + ([f"{flower}.flower"] if flower else [])
    return keys | dict.fromkeys(operators, True)


def read_signing(reader: Variables, settings: Mapping[str, Any]) -> SigningOptions:
    """Return the declaration of signed messages.

    Args:
        settings: celery_settings.
    """
    mode = read_mode(reader, "signed_messages", enabled="only") or SigningOptions.mode
    window = reader.integer("signed_messages_window", least=WINDOW_LEAST, unit="a number of seconds")
    memory = reader.size("replay_cache_memory")
    if mode == "off":
        for key in ("signed_messages_window", "replay_cache_memory"):
            if reader.take(key) is not None:
                what = "has no effect, because messages are not signed"
                reader.problem(key, what, "Remove it, or set celery_signed_messages: both or only")
        return SigningOptions()
    if memory is not None and memory < MEMORY_LEAST:
        what = f"{format_size(memory)} is less than {format_size(MEMORY_LEAST)}"
        reader.problem("replay_cache_memory", what, f"Raise it to {format_size(SigningOptions.memory)}, or remove it")
    if unsafe := list(_unsafe_serializers(settings)):
        reader.problem(
            "settings",
            f"{', '.join(unsafe)} lets a message run code, whoever has signed it",
            "Remove it, as the fleet's serializer is json, or set celery_signed_messages: off",
        )
    return SigningOptions(mode, window or SigningOptions.window, memory or SigningOptions.memory)


def _unsafe_serializers(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings with a serializer that can run code, as name: value."""
    for name in (*_SERIALIZERS, *_ACCEPTED):
        value = settings.get(name)
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if str(each).lower() in _UNSAFE:
                yield f"{name}: {each}"


def check_window(options: SigningOptions, visibility_timeout: int, problems: list[Problem]) -> None:
    """Refuse a window in which Redis does not redeliver the tasks of a lost worker.

    Args:
        visibility_timeout: seconds after which clients of Redis redeliver an unacknowledged task; 0 on RabbitMQ.
    """
    if options.enabled and options.window < visibility_timeout:
        problems.append(
            Problem(
                "celery_signed_messages_window",
                f"{options.window} s is below the visibility timeout of {visibility_timeout} s, after which the tasks "
                "of a lost worker are redelivered, so workers would refuse them",
                f"Raise it to {visibility_timeout} or more",
            )
        )
