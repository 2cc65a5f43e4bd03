"""Options of connections to Sentinels, with a login that no reply to an inspection contains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.backoff import NoBackoff
from redis.retry import Retry


class SentinelOptions(Mapping[str, Any]):
    """What redis-py gets as sentinel_kwargs.

    Workers send their transport options, in the clear, to everyone who inspects them, such as Flower's page. So what
    kombu and Celery send is the user alone.
    """

    def __init__(self, options: Mapping[str, Any], broker_url: str) -> None:
        """Take the login of a broker's URL, which is that of the Sentinels, too."""
        login = urlsplit(broker_url.split(";", maxsplit=1)[0])
        self._user = unquote(login.username or "")
        # redis-py would try to connect to a Sentinel that is down four times.
        retry = Retry(NoBackoff(), 0)
        self._options = {**options, "username": self._user, "password": unquote(login.password or ""), "retry": retry}

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - as redis-py takes them
        return self._options[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __repr__(self) -> str:
        return f"<SentinelOptions of {self._user}>"

    def __json__(self) -> str:
        return repr(self)
