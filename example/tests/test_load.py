from __future__ import annotations

import inspect
import json
from collections import Counter

import pytest
from django.core.management import CommandError, call_command

from shop.celery import app
from shop.load import mix


def test_every_queue_gets_its_share():
    assert Counter(call.task.split(".")[0] for call in mix(100, seed=1)) == {
        "customers": 20, "email": 20, "video": 20, "reports": 20, "ticks": 20
    }  # fmt: skip


def test_the_same_seed_gives_the_same_mix_and_another_one_another():
    assert mix(60, seed=1) == mix(60, seed=1)
    assert mix(60, seed=1) != mix(60, seed=2)


def test_a_mix_has_every_kind_of_task_and_only_calls_that_fit():
    app.loader.import_default_modules()
    calls = mix(50, seed=3)
    assert {call.task for call in calls} == {name for name in app.tasks if not name.startswith("celery.")}
    for call in calls:
        inspect.signature(app.tasks[call.task].run).bind(**call.arguments)


def test_a_mix_without_failures_has_the_same_other_calls():
    calls, without = mix(50, seed=3), mix(50, seed=3, failures=False)
    assert Counter(call.task for call in without)["customers.fail"] == 0
    assert [call for call in calls if call.task != "customers.fail"] == [
        other for call, other in zip(calls, without, strict=True) if call.task != "customers.fail"
    ]


def test_command_sends_them_and_prints_their_ids(ledger, capsys):
    call_command("send_load", count=25, seed=4)
    printed = json.loads(capsys.readouterr().out)
    assert sorted(printed["queues"]) == ["customers", "email", "reports", "ticks", "video"]
    sent = {(entry["queue"], entry["id"]) for entry in ledger() if entry["event"] == "sent"}
    assert sent == {(queue, task_id) for queue, ids in printed["queues"].items() for task_id in ids}
    assert len(sent) == 25
    assert printed["total"] == 25 + printed["children"]
    assert 10 <= printed["children"] <= 20
    assert printed["failures"] == sum(entry["task"] == "customers.fail" for entry in ledger()) == 1


def test_command_refuses_to_send_nothing():
    with pytest.raises(CommandError, match="at least 1"):
        call_command("send_load", count=0)
