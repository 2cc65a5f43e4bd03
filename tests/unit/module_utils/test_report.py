"""The report of a rollout as an HTML page."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from ansible_collections.fleet.celery.plugins.module_utils._report import Results, Rollout, page, rollout_of

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
    """Collects texts and tags of a page."""

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


def test_the_page_shows_release_duration_outcome_and_task_rates() -> None:
    text = " ".join(read(ROLLOUT).text)
    for expected in (
        "shop: Release 1.1.0",
        "30 s",
        "succeeded on all hosts",
        "139",
        "lowest rate over 1 s",
        "w1 shop-email: draining, 8.0 s",
    ):
        assert expected in text


def test_the_lowest_rate_is_that_of_the_slowest_window() -> None:
    assert ROLLOUT.slowest(1) == 1
    assert ROLLOUT.slowest(10) == (4 * 1 + 6 * 5) / 10


def test_values_are_escaped() -> None:
    reader = read(replace(ROLLOUT, label="<script>", verdict="<b>bad</b>", before={"<i>": "1"}))
    assert not {"script", "b", "i"} & (set(reader.tags) - {"i"})
    assert "<script>" in " ".join(reader.text)


def test_a_rollout_without_tasks_has_a_page() -> None:
    assert "tasks done" in " ".join(read(replace(ROLLOUT, seconds=[], phases={}, ended=1000.0)).text)


def test_the_page_combines_the_results_of_all_hosts() -> None:
    status = {"current": "1.0", "programs": [{"name": "shop-email-a"}], "counts": {"1.0": {"begun": 9, "done": 7}}}
    activated = {"programs": {"shop-email-a": [[1004, "draining"]], "shop-email-b": [[1002, "starting"], [1004, "up"]]}}
    after = {"current": "1.1", "seconds": [[999, 3, 0], [1003, 4, 1]], "ended": {"shop-email-a": 1009}}
    results = {"w1": Results(status, {"began": 995.0, "seconds": 4.0}, activated, after), "w2": Results({}, {}, {}, {})}
    found = rollout_of("shop", "Release 1.1", 1000.0, results, "")
    assert (found.began, found.ended, found.done, found.failed, found.open_before) == (995.0, 1009, 7, 1, 2)
    assert found.phases["w1"]["shop-email-a"] == [(995.0, "unchanged"), (1004, "draining"), (1009, "down")]
    assert found.phases["w1"]["release"] == [(995.0, "staging"), (999.0, "")]
    assert (found.before["w1"], found.after["w1"], found.phases["w2"]) == ("1.0", "1.1", {})


def test_of_many_hosts_the_page_shows_those_that_took_longest() -> None:
    def phases(number: int) -> dict[str, list[tuple[float, str]]]:
        up = 1010.0 + number / 100
        moments = [(1000.0, "unchanged"), (1002.0, "draining"), (1005.0, "starting"), (up, "up")]
        staged = {"release": [(1000.0 - number, "staging"), (1001.0, "")]}
        return staged | {f"shop-{name}": moments for name in ("customers", "email", "reports", "video")}

    hosts = [f"worker-{number}.example.com" for number in range(500)]
    many = replace(
        ROLLOUT,
        phases={host: phases(number) for number, host in enumerate(hosts)},
        before=dict.fromkeys(hosts, "1.0.0"),
        after=dict.fromkeys(hosts, "1.1.0") | {"worker-7.example.com": "1.0.0"},
    )
    text = " ".join(read(many).text)
    assert "worker-499.example.com shop-email: draining" in text
    assert "worker-479.example.com shop-email" not in text
    assert "1.0.0 to 1.1.0: 499" in text
    assert "1.0.0 to 1.0.0: 1" in text
    assert "worker-479.example.com" in text
    assert len(page(many)) < 200_000
