"""Drain this host when its instance metadata service announces that the instance will be interrupted.

Root runs it. It polls the instance metadata service of AWS, version 2 (IMDSv2), for three notices: the interruption of
a spot instance, the target state Terminated of an auto scaling group, and, if enabled, the rebalance recommendation.

Sources: Amazon EC2 User Guide, "Spot Instance interruption notices", "EC2 instance rebalance recommendations" and "Use
the Instance Metadata Service"; Amazon EC2 Auto Scaling User Guide, "Retrieve the target lifecycle state".
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .drain import POLL_SECONDS, Deadline, HostDrain, drain_of, log, report, write_json
from .supervisor import SupervisorError

TOKEN_SECONDS = 6 * 3600
# The service is on the instance's own host. A lost answer must not delay the drain for long.
TIMEOUT_SECONDS = 1.0
_LONGEST_ANSWER = 1 << 16
# Seconds between SIGKILL and the end of the instance.
KILL_MARGIN_SECONDS = 5


class MetadataError(Exception):
    """The instance metadata service does not answer as documented. The text is for the user."""


@dataclass(frozen=True)
class Notice:
    """A notice that this instance will be interrupted.

    Attributes:
        kind: spot-interruption, scale-in or rebalance-recommendation.
        identity: tells it from another notice of its kind.
        end: when the instance ends, in seconds since the epoch; 0 if it is not known.
    """

    kind: str
    identity: str
    end: float = 0.0


@dataclass(frozen=True)
class State:
    """What the service must know after a restart.

    Attributes:
        notices: those that were answered by a drain, with kind and identity.
        began: when the first of them was seen, in seconds since the epoch.
        end: when the instance ends, in seconds since the epoch; 0 if it is not known.
    """

    notices: tuple[tuple[str, str], ...] = ()
    began: float = 0.0
    end: float = 0.0

    @property
    def deadline(self) -> Deadline | None:
        """The deadline of the drain, which leaves a margin before the end of the instance."""
        return Deadline(self.began, self.end - KILL_MARGIN_SECONDS) if self.end else None

    def after(self, notice: Notice | None, now: float, *, drained: bool) -> State:
        """Return the state after a poll.

        A known notice changes nothing, so that an operator may undrain the host despite it. Another one only brings the
        end forward.

        Args:
            notice: the notice that was found; None if there is none.
            now: seconds since the epoch.
            drained: whether the host is drained.
        """
        if notice is None:
            return State() if self.notices else self
        if (notice.kind, notice.identity) in self.notices:
            return self
        notices = (*self.notices, (notice.kind, notice.identity))
        if not self.notices or not drained:
            return State(notices, now, notice.end)
        return replace(self, notices=notices, end=min(filter(None, (self.end, notice.end)), default=0.0))


def read_instance_action(text: str) -> Notice:
    """Return the notice of spot/instance-action.

    Raises:
        ValueError: it is not as documented.
    """
    action, at = _members(text, "action", "time")
    return Notice("spot-interruption", f"{action} at {at}", _seconds(at))


def read_lifecycle_state(text: str, now: float, seconds: float) -> Notice | None:
    """Return the notice of autoscaling/target-lifecycle-state; None if the instance stays.

    Args:
        now: seconds since the epoch.
        seconds: from the notice to the end of the instance.
    """
    return Notice("scale-in", "Terminated", now + seconds) if text.strip() == "Terminated" else None


def read_rebalance(text: str) -> Notice:
    """Return the notice of events/recommendations/rebalance, which has no end.

    Raises:
        ValueError: it is not as documented.
    """
    (at,) = _members(text, "noticeTime")
    _seconds(at)
    return Notice("rebalance-recommendation", at)


def _members(text: str, *names: str) -> list[str]:
    raw = json.loads(text)
    if not isinstance(raw, dict) or not all(isinstance(raw.get(name), str) for name in names):
        raise ValueError(f"{text!r} has not the strings {' and '.join(names)}")
    return [raw[name] for name in names]


def _seconds(text: str) -> float:
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


@dataclass
class MetadataService:
    """A client of IMDSv2.

    Attributes:
        url: http://HOST or http://HOST:PORT.
    """

    url: str
    _token: str = field(default="", repr=False)

    def get(self, path: str) -> str:
        """Return an item of the metadata; an empty text if it does not exist.

        Raises:
            MetadataError: it can't be read.
        """
        for _ in range(2):
            if not self._token:
                status, token = self._request(
                    "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
                )
                if status != http.client.OK:
                    raise MetadataError(f"{self.url} refuses a token with the status {status}")
                self._token = token
            status, text = self._request("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
            if status == http.client.OK:
                return text
            if status == http.client.NOT_FOUND:
                return ""
            if status != http.client.UNAUTHORIZED:
                raise MetadataError(f"{self.url} answers {path} with the status {status}")
            # The token has expired.
            self._token = ""
        raise MetadataError(f"{self.url} refuses its own token")

    def _request(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        parts = urlsplit(self.url)
        # Neither a proxy nor a redirection is followed.
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            return response.status, response.read(_LONGEST_ANSWER).decode(errors="replace")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise MetadataError(f"{self.url} does not answer: {error or type(error).__name__}") from error
        finally:
            connection.close()


def find_notice(service: MetadataService, options: Mapping[str, Any], now: float) -> Notice | None:
    """Return the most urgent notice; None if there is none.

    Args:
        options: InterruptionNotices of the plan.
        now: seconds since the epoch.

    Raises:
        MetadataError: the metadata can't be read.
    """
    path = "spot/instance-action"
    try:
        if text := service.get(path):
            return read_instance_action(text)
        path = "autoscaling/target-lifecycle-state"
        if notice := read_lifecycle_state(service.get(path), now, options["scale_in_deadline"]):
            return notice
        path = "events/recommendations/rebalance"
        if options["drain_on_rebalance"] and (text := service.get(path)):
            return read_rebalance(text)
    except ValueError as error:
        raise MetadataError(f"{service.url} has an unknown value of {path}: {error}") from error
    return None


class Watch:
    """The service: polls for notices, and drains the host."""

    def __init__(self, config: Mapping[str, Any], file: Path) -> None:
        """Continue from the state that an earlier process left.

        Args:
            config: the configuration that the role renders.
            file: of the state, which the Celery exporter reads.
        """
        self._config, self._file = config, file
        self._service = MetadataService(config["notices"]["metadata_url"])
        self._marker = Path(config["marker"])
        # The last errors of the metadata service and of Supervisor, each of which is logged once.
        self._error = self._failure = ""
        self._drain: HostDrain | None = None
        self._done = False
        self.state = self._read()
        if self.state.notices and self._marker.exists():
            self._begin()

    def _read(self) -> State:
        try:
            raw = json.loads(self._file.read_text(encoding="utf-8"))
            return State(tuple((kind, identity) for kind, identity in raw["notices"]), raw["began"], raw["end"])
        except (OSError, ValueError, KeyError, TypeError):
            return State()

    @property
    def busy(self) -> bool:
        """Whether workers are being stopped."""
        return self._drain is not None and not self._done

    def poll(self) -> None:
        """Poll the metadata service once. Log an error when it begins and when it ends."""
        now = time.time()
        error, notice = "", None
        try:
            notice = find_notice(self._service, self._config["notices"], now)
        except MetadataError as caught:
            error = str(caught)
        if bool(error) != bool(self._error):
            log(f"Interruption notices are unavailable: {error}" if error else "Interruption notices are available")
        self._error = error
        # A drain that has begun keeps its deadline.
        if not error and (notice or not self.busy):
            self._enter(self.state.after(notice, now, drained=self._marker.exists()), notice, now)

    def _enter(self, state: State, notice: Notice | None, now: float) -> None:
        if state == self.state:
            return
        before, self.state = self.state, state
        write_json(self._file, asdict(self.state))
        if notice is None:
            stays = ". The host stays drained until playbooks/undrain.yml" if self._marker.exists() else ""
            log(f"The notice was withdrawn{stays}")
            self._drain = None
            return
        left = f", the instance ends in {state.end - now:.0f} s" if state.end else ""
        log(f"Notice of {notice.kind} ({notice.identity}){left}")
        if before.began != state.began or not self._drain:
            self._begin()

    def _begin(self) -> None:
        self._drain, self._done = drain_of(self._config), False
        self._drain.begin()
        log("Draining this host: its workers finish their tasks, and start no other")

    def step(self) -> None:
        """Continue the drain, also after the last worker: a rollout may have started one since."""
        if not self._drain:
            return
        if not self._marker.exists():
            log("The host was undrained. This notice does not drain it again")
            self._drain = None
            return
        before = set(self._drain.interrupted)
        try:
            done = self._drain.step(self.state.deadline)
        except SupervisorError as error:
            if str(error) != self._failure:
                log(str(error))
            self._failure = str(error)
            return
        self._failure = ""
        report(self._drain, done=done and not self._done, interrupted=before)
        self._done = done

    def run(self) -> None:
        """Poll and drain until the process is stopped."""
        interval = self._config["notices"]["poll_interval"]
        polled = 0.0
        while True:
            if not polled or time.monotonic() - polled >= interval:
                polled = time.monotonic()
                self.poll()
            self.step()
            time.sleep(POLL_SECONDS if self.busy else interval)


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    log(f"Polling {config['notices']['metadata_url']} for interruption notices")
    Watch(config, Path(os.environ["RUNTIME_DIRECTORY"], "notice")).run()


if __name__ == "__main__":
    main()
