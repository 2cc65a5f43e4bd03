"""Batches of a rollout: each host once, and no queue without a consumer."""

from __future__ import annotations

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._batches import batches, read_sizes
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from hypothesis import given
from hypothesis import strategies as st

WORKERS = ["customers", "email", "video", "reports"]
DEFAULT = [(1, False), (25, True), (100, True)]
fleets = st.dictionaries(st.sampled_from([f"w{number}" for number in range(20)]), st.sets(st.sampled_from(WORKERS)))
numbers = st.tuples(st.integers(1, 9), st.just(value=False))
shares = st.tuples(st.integers(1, 100), st.just(value=True))
many_sizes = st.lists(numbers | shares, min_size=1, max_size=4)


@given(fleets, many_sizes)
def test_each_host_is_in_one_batch(fleet: dict[str, set[str]], sizes: list[tuple[int, bool]]) -> None:
    made = batches(fleet, fleet, sizes)
    assert sorted(host for batch in made for host in batch) == sorted(fleet)
    assert all(made)


@given(fleets, many_sizes)
def test_no_queue_loses_all_its_consumers_at_once(fleet: dict[str, set[str]], sizes: list[tuple[int, bool]]) -> None:
    for batch in batches(fleet, fleet, sizes):
        for queue in WORKERS:
            consumers = {host for host, queues in fleet.items() if queue in queues}
            assert len(consumers) <= 1 or not consumers <= set(batch)


def test_a_canary_of_each_workload_comes_first() -> None:
    fleet = {f"g{number}": ["email"] for number in range(9)} | {f"m{number}": ["video"] for number in range(5)}
    first, second, third = batches(fleet, fleet, DEFAULT)
    assert first == ["g0", "m0"]
    assert second == ["g1", "g2", "m1"]
    assert third == ["g3", "g4", "g5", "g6", "g7", "g8", "m2", "m3", "m4"]


def test_all_at_once_still_leaves_a_consumer() -> None:
    fleet = {"w1": ["email"], "w2": ["email"], "w3": ["video"]}
    assert batches(fleet, fleet, [(100, True)]) == [["w1", "w3"], ["w2"]]


def test_a_queue_with_a_single_consumer_may_lose_it() -> None:
    assert batches({"w1": ["email"]}, {"w1": ["email"]}, DEFAULT) == [["w1"]]


def test_sizes_are_read_as_ansible_reads_them() -> None:
    problems: list[Problem] = []
    assert read_sizes(["1", 3, "25%"], problems) == [(1, False), (3, False), (25, True)]
    assert not problems


@pytest.mark.parametrize("sizes", [["0"], ["-1"], ["101%"], ["half"], [""], []])
def test_an_invalid_size_is_refused(sizes: list[str]) -> None:
    problems: list[Problem] = []
    read_sizes(sizes, problems)
    assert [problem.where for problem in problems] == ["celery_rollout_batches"]
