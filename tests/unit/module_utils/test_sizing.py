"""What a broker must have room for, and what is refused because it has not."""

from __future__ import annotations

import json
from math import ceil
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils import _sizing
from ansible_collections.fleet.celery.plugins.module_utils._brokers import BROKERS
from ansible_collections.fleet.celery.plugins.module_utils._declaration import Queue
from ansible_collections.fleet.celery.plugins.module_utils._facts import host_facts
from ansible_collections.fleet.celery.plugins.module_utils._message_costs import COSTS
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from ansible_collections.fleet.celery.plugins.module_utils._sizing import Costs, TaskCost, broker_need, task_cost
from ansible_collections.fleet.celery.plugins.module_utils._table import plan_tables
from fleet import FACTS, GROUPS, MIB, declaration, with_queue, with_worker
from hypothesis import given
from hypothesis import strategies as st

from bench.broker_memory import RESULTS, planner_module

MODULE_UTILS = RESULTS.parents[2] / "plugins" / "module_utils"


def plan(raw: dict[str, Any], **broker: Any) -> Plan:
    return make_plan(raw, GROUPS, {**FACTS, "broker1": {**FACTS["broker1"], **broker}})


def needed(raw: dict[str, Any]) -> int:
    return int(plan(raw).values["broker"]["memory_needed"])


def test_the_costs_are_those_of_the_latest_measurement() -> None:
    assert (MODULE_UTILS / "_message_costs.py").read_text() == planner_module(json.loads(RESULTS.read_text()))


@pytest.mark.parametrize("key", COSTS)
def test_a_task_of_a_measured_size_costs_what_was_measured(key: tuple[str, str, bool]) -> None:
    for size, *row in COSTS[key]:
        assert task_cost(key[0], key[1], size, compressed=key[2]) == TaskCost(*row)


@given(st.integers(0, 10**7), st.integers(1, 10**6), st.sampled_from(["list", "quorum", "classic"]))
def test_a_larger_task_never_costs_less(size: int, more: int, queue_type: str) -> None:
    kind = "redis" if queue_type == "list" else "rabbitmq"
    smaller = task_cost(kind, queue_type, size, compressed=False)
    larger = task_cost(kind, queue_type, size + more, compressed=False)
    assert larger.memory >= smaller.memory
    assert larger.disk > smaller.disk


@pytest.fixture
def simple_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the measured costs by round numbers: size, memory, kept and disk."""
    rows = ((0, 1000, 400, 2000), (1000, 3000, 1400, 4000), (10_000, 12_000, 5000, 13_000))
    monkeypatch.setattr(_sizing, "COSTS", {("rabbitmq", "quorum", False): rows})


@pytest.mark.usefixtures("simple_costs")
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (500, TaskCost(2000, 900, 3000)),
        (5500, TaskCost(7500, 3200, 8500)),
        (19_000, TaskCost(21_000, 8600, 22_000)),
    ],
)
def test_a_task_between_and_beyond_the_measured_sizes_costs_in_proportion(size: int, expected: TaskCost) -> None:
    assert task_cost("rabbitmq", "quorum", size, compressed=False) == expected


@pytest.mark.usefixtures("simple_costs")
def test_the_need_is_the_sum_of_its_parts_with_headroom() -> None:
    costs = Costs(base=1_000_000, connection=5000, result=100, clients=BROKERS["rabbitmq"].costs.clients)
    queues = [
        (Queue("mail", backlog=100, message_size=500, results_per_hour=60), "quorum"),
        (Queue("video", backlog=10, message_size=1000), "quorum"),
        (Queue("ticks", backlog=0), "quorum"),
    ]
    need = broker_need("rabbitmq", costs, queues, connections=7, compressed=False, result_expires=7200)
    assert need.parts == {
        "empty broker": 1_000_000,
        "7 connections": 35_000,
        "mail 100 tasks x 900 bytes": 90_000,
        "video 10 tasks x 1400 bytes": 14_000,
        "log of quorum queues": 100 * 1100 + 10 * 1600,
        "120 results x 100 bytes": 12_000,
    }
    # The old and the new file are there at the same time.
    assert need.disk == (100 * 3000 + 10 * 4000 + 12_000) * 2 * 1.25
    assert need.connections == 7
    assert need.memory == 1_277_000 * 1.25
    assert need.host_memory == ceil(1_277_000 * 1.25 / 0.6)


@pytest.mark.usefixtures("simple_costs")
def test_the_log_of_quorum_queues_has_a_limit_and_results_may_not_be_stored() -> None:
    costs = Costs(base=0, connection=0, result=0, clients=BROKERS["rabbitmq"].costs.clients)
    queues = [(Queue("mail", backlog=10_000_000, message_size=500, results_per_hour=60), "quorum")]
    need = broker_need("rabbitmq", costs, queues, connections=0, compressed=False, result_expires=7200)
    assert need.parts["log of quorum queues"] == 900 * MIB
    assert not [label for label in need.parts if "results" in label]
    assert need.disk == 10_000_000 * 3000 * 2 * 1.25


def test_the_log_of_quorum_queues_is_counted_once_and_limited() -> None:
    cost = task_cost("rabbitmq", "quorum", 1024, compressed=False)
    few, many = (needed(with_queue(backlog=backlog)) for backlog in (1_000, 1_000_000))
    assert many - few < 999_000 * cost.memory * 1.25
    assert many - few > 999_000 * cost.kept * 1.25


@pytest.mark.parametrize("broker", BROKERS)
def test_a_backlog_must_fit_on_the_brokers_host(broker: str) -> None:
    raw = with_queue(backlog=100_000_000, message_size="10KB") | {"broker": broker}
    (problem,) = [str(found) for found in plan(raw).problems]
    assert problem.startswith("memory of broker1: broker ")
    assert "video 100000000 tasks x " in problem
    assert ") x 1.25 = " in problem
    assert "but the host has 4 GB. Lower backlog or message_size of celery_queues" in problem


@given(st.integers(0, 5_000_000), st.integers(256, 65536))
def test_a_backlog_is_refused_exactly_when_its_host_is_too_small(backlog: int, memory: int) -> None:
    made = plan(with_queue(backlog=backlog) | {"broker": "redis"}, memory_mb=memory)
    budget = made.values["hosts"]["broker1"]["memory"]
    assert budget["parts"]["broker"] >= backlog * task_cost("redis", "list", 1024, compressed=False).memory
    assert bool(made.problems) == (budget["needed"] > memory * MIB)
    if not made.problems:
        assert made.values["broker"]["memory"] >= made.values["broker"]["memory_needed"]
        assert made.values["broker"]["memory"] < memory * MIB


def test_results_take_memory_of_redis_for_as_long_as_they_are_kept() -> None:
    hour = with_queue(results_per_hour=100_000) | {"broker": "redis"}
    day = hour | {"settings": {"result_expires": 86400}}
    assert needed(hour) > needed(with_queue() | {"broker": "redis"})
    assert needed(day) - needed(hour) == pytest.approx(23 * 100_000 * BROKERS["redis"].costs.result * 1.25, abs=1)
    assert needed(with_queue(results_per_hour=100_000)) == needed(with_queue())


def test_compressed_messages_take_less() -> None:
    raw = with_queue(backlog=1_000_000, message_size="10KB") | {"broker": "redis"}
    assert needed(raw | {"settings": {"task_compression": "gzip"}}) < needed(raw) / 2
    # Not measured, so not counted on.
    assert needed(raw | {"settings": {"task_compression": "brotli"}}) == needed(raw)


def test_connections_follow_from_workers_pools_and_web_processes() -> None:
    def connections(raw: dict[str, Any]) -> int:
        return int(plan(raw | {"broker": "redis"}).values["broker"]["connections"])

    clients = BROKERS["redis"].costs.clients
    base = connections(declaration())
    assert connections(declaration(web_processes=40)) - base == 40 * clients.sender
    # On two hosts.
    assert connections(with_worker(concurrency=5)) - base == 2 * 3 * clients.child
    assert plan(declaration(web_processes=5000)).values["broker"]["maxclients"] > 2 * 5000


def test_the_broker_gets_what_its_host_has_left() -> None:
    assert plan(declaration()).values["broker"]["memory"] == int((4096 - 128) * MIB * 0.6)
    assert plan(declaration(broker_memory="2GB")).values["broker"]["memory"] == 2048 * MIB


@pytest.mark.parametrize(
    ("changes", "facts", "problem"),
    [
        (
            {"broker_memory": "100MB"},
            {},
            "celery_broker_memory: 100 MB is less than the declared tasks need: (empty broker",
        ),
        ({"broker_memory": "4GB"}, {}, "memory of broker1: broker 4 GB + system 128 MB"),
        ({"broker_memory": "much"}, {}, "celery_broker_memory: 'much' is not a size with a unit"),
        ({"web_processes": "some"}, {}, "celery_web_processes: 'some' is not a number of processes"),
        ({}, {"disk": 10 * MIB}, "disk of broker1: the declared tasks need "),
        (
            {"broker": "valkey"},
            {"system": ["Debian", "12"]},
            "celery_broker: broker1 has Debian 12, which has no Valkey",
        ),
        (
            {"broker": "redis"},
            {"role_variables": ["redis_maxmemory"]},
            "redis_maxmemory: has no effect, because the plan sets it",
        ),
    ],
)
def test_invalid_values_of_the_broker_are_refused(changes: dict[str, Any], facts: dict[str, Any], problem: str) -> None:
    (found,) = [str(each) for each in plan(declaration(**changes), **facts).problems]
    assert found.startswith(problem)


def test_variables_of_another_broker_are_ignored() -> None:
    assert not plan(declaration(broker="valkey"), debian="13", role_variables=["rabbitmq_port"]).problems


def test_the_tables_show_the_arithmetic() -> None:
    text = "\n".join(plan_tables(plan(declaration(broker="valkey")).fleet))
    assert "valkey on broker1" in text
    assert "customers 10000 tasks x " in text


@pytest.mark.parametrize(
    ("queue", "where"),
    [
        ({"backlog": -1}, "celery_queues[video].backlog"),
        ({"backlog": "lots"}, "celery_queues[video].backlog"),
        ({"message_size": 1024}, "celery_queues[video].message_size"),
        ({"results_per_hour": 0.5}, "celery_queues[video].results_per_hour"),
    ],
)
def test_an_invalid_backlog_is_refused(queue: dict[str, Any], where: str) -> None:
    assert [each.where for each in plan(with_queue(**queue)).problems] == [where]


def test_host_facts_have_the_disk_and_variables_that_the_plan_overrides() -> None:
    mounts = [
        {"mount": "/", "size_total": 1},
        {"mount": "/var", "size_total": 2},
        {"mount": "/var/lib/redis-old", "size_total": 3},
    ]
    found = host_facts({"ansible_facts": {"mounts": mounts}, "redis_maxmemory": "1gb", "redis_appendfsync": "always"})
    assert found["disk"] == 2
    assert found["role_variables"] == ["redis_maxmemory"]
    assert host_facts({})["disk"] is None
