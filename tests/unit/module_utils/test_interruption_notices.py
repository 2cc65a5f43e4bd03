"""Interruption notices in the declaration: their errors, and the plan's warnings."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._facts import host_facts
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from fleet import FACTS, GROUPS, declaration, with_worker


def plan(raw: dict[str, Any], **notices: Any) -> Plan:
    facts = {name: {**FACTS[name], "interruption_notices": value} for name, value in notices.items()}
    return make_plan(raw, GROUPS, {**FACTS, **facts})


def warnings(raw: dict[str, Any], **notices: Any) -> list[str]:
    return [text for text in plan(raw, **notices).warnings if "interrupt" in text]


def test_only_hosts_with_notices_and_workers_poll() -> None:
    made = plan(
        declaration(), worker1={"provider": "aws", "poll_interval": 2}, broker1={}, control1={"provider": "aws"}
    )
    assert made.problems == ()
    assert {name: host["interruption_notices"] for name, host in made.values["hosts"].items()} == {
        "broker1": {},
        "worker1": {
            "provider": "aws",
            "metadata_url": "http://169.254.169.254",
            "poll_interval": 2,
            "scale_in_deadline": 120,
            "drain_on_rebalance": False,
        },
        "worker2": {},
        "control1": {},
    }


def test_the_variable_of_a_host_is_a_fact() -> None:
    assert host_facts({"celery_host_interruption_notices": {"provider": "aws"}})["interruption_notices"] == {
        "provider": "aws"
    }


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (True, "celery_host_interruption_notices[worker1, worker2]: True is not a mapping. "),
        ({"provider": "gcp"}, "].provider: 'gcp' is not a valid value. Set it to one of aws"),
        ({"poll_interval": 2}, "].provider: '' is not a valid value. Set it to one of aws"),
        ({"provider": "aws", "poll_interval": 60}, "].poll_interval: 60 s is not between 1 s and 30 s. "),
        ({"provider": "aws", "poll_interval": 0}, "].poll_interval: 0 s is not between 1 s and 30 s. "),
        ({"provider": "aws", "scale_in_deadline": 10}, "].scale_in_deadline: 10 s is not between 30 s and 172800 s. "),
        ({"provider": "aws", "scale_in_deadline": "soon"}, "].scale_in_deadline: 'soon' is not a number of seconds"),
        ({"provider": "aws", "metadata_url": "https://imds"}, "].metadata_url: 'https://imds' is not http://HOST"),
        ({"provider": "aws", "metadata_url": "http://a/b"}, "].metadata_url: 'http://a/b' is not http://HOST"),
        ({"provider": "aws", "metadata_url": "http://a:x"}, "].metadata_url: 'http://a:x' is not http://HOST"),
        ({"provider": "aws", "rebalance": True}, "].rebalance: is not an option (did you mean 'drain_on_rebalance'?)"),
    ],
)
def test_a_wrong_value_is_one_error_for_all_its_hosts(value: Any, error: str) -> None:
    (problem,) = plan(declaration(), worker1=value, worker2=value).problems
    assert error in str(problem)


def test_the_plan_warns_of_tasks_that_an_interruption_repeats() -> None:
    (text,) = warnings(declaration(), worker1={"provider": "aws"}, worker2={"provider": "aws"})
    assert text == (
        "celery_workers[video] (queues video): a task that still runs 100 s after an interruption notice is returned "
        "to its queue and runs again from the beginning. It is lost if it is declared with acks_late=False"
    )
    assert warnings(declaration(), control1={}) == []


def test_the_plan_warns_of_tasks_that_an_interruption_loses() -> None:
    raw = declaration(settings={"task_acks_late": False})
    (text,) = warnings(raw, worker1={"provider": "aws"})
    assert text.startswith("celery_workers[video] (queues video): ")
    assert "is lost, because celery_settings.task_acks_late is false" in text


def test_the_plan_warns_of_pools_that_return_no_task() -> None:
    raw = with_worker(pool="gevent", concurrency=10) | {"broker": "redis"}
    (text,) = warnings(raw, worker1={"provider": "aws"})
    assert "the gevent pool can't return a task" in text
    assert "runs again after visibility_timeout, " in text


def test_the_plan_warns_of_beat_and_the_broker_on_such_a_host() -> None:
    texts = warnings(declaration(), control1={"provider": "aws"}, broker1={"provider": "aws"})
    assert [text.partition(",")[0] for text in texts] == ["beat is on control1", "the broker is on broker1"]
