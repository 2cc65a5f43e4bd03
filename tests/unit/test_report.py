"""The page of a rollout."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from ansible_collections.fleet.celery.plugins.module_utils._report import Rollout, Told, page, rollout_of

ROLLOUT = Rollout(
    app="shop",
    label="Release 1.1.0",
    began=1000.0,
    ended=1030.0,
    phases={"w1": {"shop-email": [(1002.0, "draining"), (1010.0, "starting"), (1013.0, "up")]}},
    seconds=[(second, 5 if second < 1010 or second > 1013 else 1, 0) for second in range(1000, 1031)],
    before={"w1": "1.0.0"},
    after={"w1": "1.1.0"},
)


class Reader(HTMLParser):
    """Collects what a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - as the parser calls it
        self.tags.append(tag)


def read(rollout: Rollout) -> Reader:
    reader = Reader()
    reader.feed(page(rollout))
    return reader


def test_it_tells_how_long_what_and_how_much() -> None:
    text = " ".join(read(ROLLOUT).text)
    for told in (
        "shop: Release 1.1.0",
        "30 s",
        "on all hosts",
        "139",
        "slowest second",
        "w1 shop-email: draining, 8.0 s",
    ):
        assert told in text


def test_windows_are_the_slowest_there_were() -> None:
    assert ROLLOUT.slowest(1) == 1
    assert ROLLOUT.slowest(10) == (4 * 1 + 6 * 5) / 10


def test_what_it_is_given_can_not_become_markup() -> None:
    reader = read(replace(ROLLOUT, label="<script>", verdict="<b>bad</b>", before={"<i>": "1"}))
    assert not {"script", "b", "i"} & (set(reader.tags) - {"i"})
    assert "<script>" in " ".join(reader.text)


def test_a_rollout_in_which_nothing_was_done_has_a_page() -> None:
    assert "tasks done meanwhile" in " ".join(read(replace(ROLLOUT, seconds=[], phases={}, ended=1000.0)).text)


def test_a_rollout_is_what_its_hosts_tell() -> None:
    status = {"current": "1.0", "programs": [{"name": "shop-email-a"}], "counts": {"1.0": {"begun": 9, "done": 7}}}
    activated = {"programs": {"shop-email-a": [[1004, "draining"]], "shop-email-b": [[1002, "starting"], [1004, "up"]]}}
    after = {"current": "1.1", "seconds": [[999, 3, 0], [1003, 4, 1]], "ended": {"shop-email-a": 1009}}
    told = {"w1": Told(status, {"began": 995.0, "seconds": 4.0}, activated, after), "w2": Told({}, {}, {}, {})}
    found = rollout_of("shop", "Release 1.1", 1000.0, told, "")
    assert (found.began, found.ended, found.done, found.failed, found.open_before) == (995.0, 1009, 7, 1, 2)
    assert found.phases["w1"]["shop-email-a"] == [(995.0, "as before"), (1004, "draining"), (1009, "down")]
    assert found.phases["w1"]["release"] == [(995.0, "staging"), (999.0, "")]
    assert (found.before["w1"], found.after["w1"], found.phases["w2"]) == ("1.0", "1.1", {})
