"""The demo's fault: what it cost, and its page."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.fleet import Fleet
from scripts.demo_fault import Fault, longest_gap, outcome_of, page, parsed

FAULT = Fault("b1", "rabbitmq", began=1000, cut=1010, alerted=1030, booted=1032, resolved=1050, ended=1060)


def entry(at: float, host: str, event: str = "done") -> dict[str, Any]:
    return {"event": event, "id": "t", "host": host, "time": datetime.fromtimestamp(at, UTC).isoformat()}


def outcome() -> Any:
    total = SimpleNamespace(sent=9, done=8, failed=1, lost=0, repeated=2)
    entries = [entry(at, "w1") for at in (1005, 1012, 1020, 1059)] + [entry(1040, "w2"), entry(1041, "w2", "failed")]
    return outcome_of(SimpleNamespace(total=total), entries, ["w2", "w1"], FAULT)


@pytest.mark.parametrize(("moments", "gap"), [((), 50), ((1020,), 40), ((1005, 1015, 1055, 2000), 40)])
def test_the_longest_gap_is_between_the_cut_and_the_end(moments: tuple[float, ...], gap: float) -> None:
    assert longest_gap(moments, 1010, 1060) == gap


def test_the_figures_are_those_of_the_fleet_and_of_each_worker_host() -> None:
    found = outcome()
    assert (found.fleet_gap, found.gaps) == (20, {"w1": 39, "w2": 30})
    assert (1041, 0, 1) in found.seconds
    assert found.text() == (
        "9 tasks were sent, 8 done, 0 lost, and 2 ran twice. The longest time without a task was 20 s on the whole "
        "fleet, 39 s on w1"
    )


def test_the_page_shows_the_figures_and_the_host_that_was_off() -> None:
    fleet = Fleet("", "shop", "", Path(), Path(), {}, "b1", "rabbitmq", "", "", "", [], tls=True, brokers=["b1", "b2"])
    text = page(fleet, FAULT, outcome())
    for expected in ("b1 loses its power, and is booted 22 s later", "tasks lost", "20.0 s on the whole fleet"):
        assert expected in text
    assert "b1 rabbitmq: down, 22.0 s" in text
    assert "b2 rabbitmq: down" not in text


def test_a_line_that_was_cut_short_is_left_out() -> None:
    assert parsed(['{"id": "t"}', '{"id']) == [{"id": "t"}]
