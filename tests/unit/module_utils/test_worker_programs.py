"""The Supervisor programs of a host's workers."""

from __future__ import annotations

from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._plan import make_plan
from ansible_collections.fleet.celery.plugins.module_utils._worker_programs import worker_programs
from fleet import FACTS, GROUPS, with_worker


def programs(*, only_handover: bool = False, **worker: Any) -> list[dict[str, Any]]:
    """Return the programs of the host, with those that were rendered as the names and arguments in config."""
    facts = FACTS | {"worker1": FACTS["worker1"] | {"nodename": "w1.lan"}}
    workers = make_plan(with_worker(**worker), GROUPS, facts).values["hosts"]["worker1"]["programs"]
    return worker_programs(
        workers,
        lambda program: " ".join([program["name"], *program["argv"][:2], str(program["stopwaitsecs"])]),
        only_handover=only_handover,
    )


def test_each_slot_is_a_program() -> None:
    environment = {"GREETING": "two words"}
    customers, first, second = programs(activation="handover", environment=environment)
    assert customers == {
        "name": "shop-customers",
        "slot_of": "shop-customers",
        "node": "customers@w1.lan",
        "queues": ["customers"],
        "environment": {},
        "config": "shop-customers worker --hostname=customers@%h 120",
    }
    assert first == {
        "name": "shop-video-a",
        "slot_of": "shop-video",
        "node": "video-a@w1.lan",
        "queues": ["video"],
        "environment": environment,
        "config": "shop-video-a worker --hostname=video-a@%h 1260",
    }
    assert second == {
        **first,
        "name": "shop-video-b",
        "node": "video-b@w1.lan",
        "config": "shop-video-b worker --hostname=video-b@%h 1260",
    }


def test_only_programs_of_a_handover_need_their_configuration() -> None:
    customers, *slots = programs(only_handover=True, activation="handover")
    assert customers["config"] == ""
    assert all(slot["config"] for slot in slots)
    assert not any(each["config"] for each in programs(only_handover=True))
