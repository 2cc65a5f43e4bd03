"""Interruption notices: what the metadata service says, and when the host drains."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services import interruption
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.drain import Deadline
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services.interruption import (
    MetadataError,
    MetadataService,
    Notice,
    State,
    Watch,
    find_notice,
    read_instance_action,
    read_lifecycle_state,
    read_rebalance,
)

OPTIONS = {
    "scale_in_deadline": 300,
    "drain_on_rebalance": True,
    "poll_interval": 1,
    "metadata_url": "http://127.0.0.1:1",
}
ACTION = '{"action": "terminate", "time": "2026-12-01T10:02:00Z"}'
REBALANCE = '{"noticeTime": "2026-12-01T09:00:00Z"}'
AT_10 = 1796119200.0
PATHS = {
    "action": "spot/instance-action",
    "state": "autoscaling/target-lifecycle-state",
    "rebalance": "events/recommendations/rebalance",
}


class Fake(MetadataService):
    """A metadata service with these items. An exception is raised."""

    def __init__(self, **items: str | Exception) -> None:
        super().__init__("http://imds")
        self.items = {PATHS[name]: item for name, item in items.items()}

    def get(self, path: str) -> str:
        item = self.items.get(path, "")
        if isinstance(item, Exception):
            raise item
        return item


def test_an_instance_action_ends_at_its_own_time() -> None:
    notice = read_instance_action(ACTION)
    assert notice == Notice("spot-interruption", "terminate at 2026-12-01T10:02:00Z", AT_10 + 120)


def test_only_the_state_terminated_is_a_scale_in() -> None:
    assert read_lifecycle_state("Terminated\n", 10, 300) == Notice("scale-in", "Terminated", 310)
    for state in ("", "InService", "Standby", "Warmed:Stopped"):
        assert read_lifecycle_state(state, 10, 300) is None


def test_a_rebalance_recommendation_has_no_end() -> None:
    assert read_rebalance(REBALANCE) == Notice("rebalance-recommendation", "2026-12-01T09:00:00Z", 0)


def test_the_most_urgent_notice_counts() -> None:
    kinds = []
    for items in (
        {"action": ACTION, "state": "Terminated", "rebalance": REBALANCE},
        {"state": "Terminated", "rebalance": REBALANCE},
        {"state": "InService", "rebalance": REBALANCE},
        {"state": "InService"},
    ):
        notice = find_notice(Fake(**items), OPTIONS, 0)
        kinds.append(notice and notice.kind)
    assert kinds == ["spot-interruption", "scale-in", "rebalance-recommendation", None]
    assert find_notice(Fake(rebalance=REBALANCE), OPTIONS | {"drain_on_rebalance": False}, 0) is None


@pytest.mark.parametrize("text", ["<html>", "[]", "{}", '{"action": "stop"}', '{"action": "stop", "time": "soon"}'])
def test_what_is_no_notice_is_an_error_that_names_the_item(text: str) -> None:
    with pytest.raises(MetadataError, match="unknown value of spot/instance-action"):
        find_notice(Fake(action=text), OPTIONS, 0)


@pytest.mark.parametrize(
    ("now", "handed_back", "due"),
    [
        # A notice of 120 s: the workers are told to return their tasks 15 s before the end, and killed 5 s before it.
        (104.9, 0, None),
        (105, 0, signal.SIGQUIT),
        (106, 105, None),
        (116, 105, signal.SIGKILL),
    ],
)
def test_fifteen_seconds_of_a_notice_are_left_for_returning_tasks(
    now: float, handed_back: float, due: signal.Signals | None
) -> None:
    deadline = State((("spot-interruption", "x"),), 0.0, 120.0).deadline
    assert deadline
    assert deadline.signal_due(now, handed_back) == due


def test_a_notice_that_comes_too_late_returns_tasks_at_once() -> None:
    late = Deadline(100, 90)
    assert late.signal_due(100, 0) == signal.SIGQUIT
    assert late.signal_due(104, 100) is None
    assert late.signal_due(105.1, 100) == signal.SIGKILL


def test_the_same_notice_changes_nothing_and_another_one_only_brings_the_end_forward() -> None:
    first = State().after(Notice("scale-in", "Terminated", 310), 10, drained=False)
    assert first == State((("scale-in", "Terminated"),), 10, 310)
    assert first.after(Notice("scale-in", "Terminated", 900), 600, drained=True) == first
    later = first.after(Notice("spot-interruption", "a", 500), 20, drained=True)
    assert (later.began, later.end) == (10, 310)
    sooner = first.after(Notice("spot-interruption", "b", 140), 20, drained=True)
    assert (sooner.began, sooner.end) == (10, 140)


def test_a_drain_without_an_end_gets_one() -> None:
    state = State().after(Notice("rebalance-recommendation", "a"), 10, drained=False)
    assert state.deadline is None
    assert state.after(Notice("spot-interruption", "b", 130), 20, drained=True).end == 130


def test_a_host_that_was_undrained_is_drained_by_another_notice_only() -> None:
    state = State().after(Notice("spot-interruption", "a", 130), 10, drained=False)
    assert state.after(Notice("spot-interruption", "a", 130), 60, drained=False) == state
    again = state.after(Notice("spot-interruption", "b", 250), 130, drained=False)
    assert (again.began, again.end) == (130, 250)


def test_a_withdrawn_notice_is_forgotten() -> None:
    state = State().after(Notice("scale-in", "Terminated", 310), 10, drained=False)
    assert state.after(None, 20, drained=True) == State()
    assert State().after(None, 20, drained=False) == State()


class Handler(BaseHTTPRequestHandler):
    tokens: list[str]
    used: list[str]

    def answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "21600"
        self.tokens.append(f"token{len(self.tokens)}")
        self.answer(200, self.tokens[-1])

    def do_GET(self) -> None:
        self.used.append(self.headers["X-aws-ec2-metadata-token"])
        if self.headers["X-aws-ec2-metadata-token"] != self.tokens[-1]:
            self.answer(401)
        elif self.path == "/latest/meta-data/there":
            self.answer(200, "value")
        else:
            self.answer(500 if self.path.endswith("broken") else 404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def imds() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("Fresh", (Handler,), {"tokens": [], "used": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


def test_a_token_is_used_until_it_expires(imds: tuple[str, type[Handler]]) -> None:
    url, handler = imds
    service = MetadataService(url)
    assert [service.get("there"), service.get("missing")] == ["value", ""]
    assert handler.used == ["token0", "token0"]
    handler.tokens.append("another")
    assert service.get("there") == "value"
    assert handler.used[2:] == ["token0", "token2"]
    with pytest.raises(MetadataError, match="answers broken with the status 500"):
        service.get("broken")


def test_a_service_that_is_not_there_is_an_error() -> None:
    with pytest.raises(MetadataError, match=r"http://127\.0\.0\.1:1 does not answer"):
        MetadataService("http://127.0.0.1:1").get("there")


class FakeDrain:
    """A drain that takes two steps."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker
        self.interrupted: set[str] = set()
        self.deadlines: list[Deadline | None] = []

    def begin(self) -> None:
        self.marker.touch()

    def step(self, deadline: Deadline | None) -> bool:
        self.deadlines.append(deadline)
        return len(self.deadlines) > 1


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Fake], tuple[Watch, FakeDrain]]:
    config: dict[str, Any] = {"marker": str(tmp_path / "drained"), "notices": OPTIONS}

    def made(service: Fake) -> tuple[Watch, FakeDrain]:
        drain = FakeDrain(tmp_path / "drained")
        monkeypatch.setattr(interruption, "drain_of", lambda _: drain)
        watching = Watch(config, tmp_path / "notice")
        monkeypatch.setattr(watching, "_service", service)
        return watching, drain

    return made


def test_a_notice_drains_the_host_once(
    watch: Callable[[Fake], tuple[Watch, FakeDrain]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watching, drain = watch(Fake(action=ACTION))
    for _ in range(4):
        watching.poll()
        watching.step()
    assert len(drain.deadlines) == 4, "a worker that a rollout starts is not stopped"
    assert drain.deadlines[0]
    assert drain.deadlines[0].at == AT_10 + 115
    assert capsys.readouterr().out.count("All workers have stopped") == 1
    state = json.loads((tmp_path / "notice").read_text())
    assert state["notices"] == [["spot-interruption", "terminate at 2026-12-01T10:02:00Z"]]
    # The next process continues it, and stops when an operator undrains the host.
    following, drain = watch(Fake(action=ACTION))
    following.step()
    assert drain.deadlines
    drain.marker.unlink()
    following.step()
    following.poll()
    following.step()
    assert len(drain.deadlines) == 1
    assert not drain.marker.exists()


def test_a_drain_keeps_its_deadline_while_the_metadata_service_fails(
    watch: Callable[[Fake], tuple[Watch, FakeDrain]], capsys: pytest.CaptureFixture[str]
) -> None:
    service = Fake(action=ACTION)
    watching, drain = watch(service)
    watching.poll()
    watching.step()
    assert watching.busy
    service.items = {}
    watching.poll()
    service.items = {PATHS["action"]: MetadataError("gone")}
    watching.poll()
    watching.poll()
    watching.step()
    assert drain.deadlines[0] == drain.deadlines[1]
    assert capsys.readouterr().out.count("unavailable: gone") == 1
