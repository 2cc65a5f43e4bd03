"""Errors of the declaration: each names its place, what is wrong, and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from ansible_collections.fleet.celery.plugins.module_utils._declaration import read_declaration
from fleet import declaration, with_queue, with_worker
from hypothesis import given
from hypothesis import strategies as st

ROLE = Path(__file__).parents[3] / "roles" / "celery"


def problems(raw: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in read_declaration(raw)[1]]


def test_a_valid_declaration_has_no_problems() -> None:
    assert problems(declaration()) == []


@pytest.mark.parametrize(
    ("raw", "where", "what", "fix"),
    [
        (
            with_queue(soft_time_limit=1200),
            "celery_queues[video].soft_time_limit",
            "not below the time_limit",
            "1080",
        ),
        (
            with_worker(time_limit=1200, soft_time_limit=1300),
            "celery_workers[video].soft_time_limit",
            "not below",
            "1080",
        ),
        (
            with_worker(soft_time_limit=1200),
            "celery_workers[video].soft_time_limit",
            "not below",
            "time_limit as well",
        ),
        (
            with_worker(time_limit=60),
            "celery_workers[video].time_limit",
            "below the 1200 s that the queue video allows",
            "Raise it to 1200",
        ),
        (
            with_worker(concurrency=None, autoscale={"min": 8, "max": 2}),
            "celery_workers[video].autoscale.min",
            "8 is above max, 2",
            "Swap",
        ),
        (
            with_worker(autoscale={"min": 1, "max": 2}),
            "celery_workers[video].concurrency",
            "overrides",
            "one of the two",
        ),
        (
            with_worker(concurrency=None, pool="threads", autoscale={"min": 1, "max": 2}),
            "celery_workers[video].autoscale",
            "threads pool can't grow",
            "prefork",
        ),
        (
            with_worker(concurrency=None, pool="solo", autoscale={"min": 1, "max": 2}),
            "celery_workers[video].autoscale",
            "solo pool can't grow",
            "concurrency",
        ),
        (with_worker(pool="solo"), "celery_workers[video].concurrency", "one task at a time", "prefork"),
        *(
            (
                with_worker(pool=pool, max_memory_per_child="1GB"),
                "celery_workers[video].max_memory_per_child",
                "ignores",
                "prefork",
            )
            for pool in ("gevent", "eventlet", "threads")
        ),
        (
            with_worker(pool="gevent", soft_time_limit=9),
            "celery_workers[video].soft_time_limit",
            "ignores",
            "prefork",
        ),
        (
            with_worker(pool="threads", time_limit=9999),
            "celery_workers[video].time_limit",
            "ignores",
            "prefork or gevent",
        ),
        (
            with_worker(max_memory_per_child="200"),
            "celery_workers[video].max_memory_per_child",
            "'200'",
            "unit",
        ),
        (with_worker(max_memory_per_child=200), "celery_workers[video].max_memory_per_child", "200", "unit"),
        (
            with_worker(max_memory_per_child="lots"),
            "celery_workers[video].max_memory_per_child",
            "'lots'",
            "KB, MB or GB",
        ),
        (with_worker(pool="preforked"), "celery_workers[video].pool", "did you mean 'prefork'", "gevent"),
        (with_worker(queues=["vidoe"]), "celery_workers[video].queues", "did you mean 'video'", "Declare"),
        (
            with_worker(queues=["customers"]),
            "celery_queues[video]",
            "no worker consumes it",
            "celery_workers",
        ),
        (with_worker(queues=[]), "celery_workers[video].queues", "is empty", "customers"),
        (with_worker(group=None), "celery_workers[video].group", "is missing", "inventory group"),
        (with_worker(name="a b"), "celery_workers[a b].name", "can't use", "letters"),
        (with_worker(name="a:b"), "celery_workers[a:b].name", "can't use", "letters"),
        (with_worker(name="a%h"), "celery_workers[a%h].name", "can't use", "letters"),
        (with_worker(name="a,b"), "celery_workers[a,b].name", "can't use", "letters"),
        (with_worker(name="a@b"), "celery_workers[a@b].name", "can't use", "letters"),
        (with_worker(name="beat"), "celery_workers[beat].name", "fleet's own programs", "another"),
        (with_worker(node_name="x@y"), "celery_workers[video].node_name", "not valid before the @", "host's name"),
        (
            with_worker(prefetch_multiplier=0),
            "celery_workers[video].prefetch_multiplier",
            "at least 1",
            "whole number",
        ),
        (with_queue(duration="fast"), "celery_queues[video].duration", "'fast'", "5ms"),
        (with_queue(duration=0), "celery_queues[video].duration", "not a time above 0", "5ms"),
        (with_queue(duration="5 min"), "celery_queues[video].duration", "'5 min'", "2s"),
        (with_queue(duration="1200s"), "celery_queues[video].duration", "not below the time_limit of 1200 s", "raise"),
        (
            with_worker(concurency=3),
            "celery_workers[video].concurency",
            "did you mean 'concurrency'",
            "The options are",
        ),
        (
            with_worker(environment={"A B": "1"}),
            "celery_workers[video].environment",
            "not a valid name",
            "letters",
        ),
        (
            with_worker(environment={"A": "1\n2"}),
            "celery_workers[video].environment",
            "one line",
            "line breaks",
        ),
        (with_queue(time_limit="long"), "celery_queues[video].time_limit", "'long'", "seconds"),
        (with_queue(time_limit=True), "celery_queues[video].time_limit", "True", "seconds"),
        (
            with_queue(tasks=["customers.*"]),
            "celery_queues[video].tasks",
            "already routed to the queue customers",
            "one of the two",
        ),
        (with_queue(name="customers"), "celery_queues[customers]", "declared twice", "Merge"),
        (
            with_queue(transient="sometimes"),
            "celery_queues[video].transient",
            "neither true",
            "true or false",
        ),
        (declaration(app_name="Shop!"), "celery_app_name", "'Shop!'", "lower-case"),
        (declaration(app_module=""), "celery_app_module", "is missing", "shop.celery:app"),
        (
            declaration(default_queue="mail"),
            "celery_default_queue",
            "'mail' is not declared",
            "declared queue",
        ),
        (declaration(queues="customers"), "celery_queues", "is not a list", "- name"),
        (declaration(workers=["customers"]), "celery_workers[0]", "is not a mapping", "- name"),
        (declaration(queues=[]), "celery_queues", "is empty", "Declare"),
    ],
)
def test_an_error_names_its_place_and_its_fix(raw: dict[str, Any], where: str, what: str, fix: str) -> None:
    matching = [line for line in problems(raw) if line.startswith(f"{where}: ")]
    assert matching, problems(raw)
    assert any(what in line and fix in line for line in matching), matching


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("*", "email.*", "'email.*' gets no task, because '*' of the queue first matches first. Declare second"),
        ("email.*", "email.send.*", "because 'email.*' of the queue first"),
        ("*.send", "email.*.send", "because '*.send' of the queue first"),
        ("video.*", "email.?", "'email.?' only matches a task of exactly that name"),
        ("email.*", "email.send", ""),
        ("email.s*", "email.*", ""),
        ("email.*.send", "email.*", ""),
    ],
)
def test_a_pattern_that_never_matches_is_refused(first: str, second: str, what: str) -> None:
    queues = [{"name": "first", "tasks": [first]}, {"name": "second", "tasks": [second]}]
    workers = [{"name": "all", "group": "workers", "queues": ["first", "second"], "concurrency": 1}]
    found = problems(declaration(queues=queues, workers=workers, default_queue="first"))
    assert what in "".join(found)
    assert bool(found) == bool(what), found


def test_all_mistakes_are_shown_at_once() -> None:
    raw = with_worker(pool="gevent", max_memory_per_child="lots", group=None)
    raw["queues"][0] |= {"soft_time_limit": 90}
    places = {line.split(":")[0] for line in problems(raw)}
    assert places >= {
        "celery_workers[video].max_memory_per_child",
        "celery_workers[video].group",
        "celery_queues[customers].soft_time_limit",
    }


def test_worker_defaults_apply_only_to_pools_that_support_them() -> None:
    raw = with_worker(pool="gevent")
    raw["worker_defaults"] = {"max_memory_per_child": "128MB", "log_level": "WARNING"}
    read, found = read_declaration(raw)
    assert found == []
    assert [worker.max_memory_per_child for worker in read.workers] == [128 * 1024**2, None]
    assert {worker.log_level for worker in read.workers} == {"WARNING"}


def test_the_role_passes_all_variables_and_has_the_same_defaults() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    (task, *_) = yaml.safe_load((ROLE / "tasks" / "main.yml").read_text(encoding="utf-8"))
    passed = task["fleet.celery.celery_plan"]["declaration"]
    # The password of the URL reaches no module, whose arguments may be logged.
    filtered = {"broker_url": "{{ celery_broker_url | fleet.celery.broker_url_parts }}"}
    assert passed == {key: f"{{{{ celery_{key} }}}}" for key in passed} | filtered
    assert {f"celery_{key}" for key in passed} == defaults.keys()
    # The defaults of these are made of others.
    given = {key: defaults[f"celery_{key}"] for key in passed if key not in ("secrets_dir", "fleet_name")}
    assert read_declaration(given) == read_declaration({})

    class Noting(dict[str, Any]):
        """Notes which variables are read."""

        read: ClassVar[set[str]] = set()

        def get(self, key: str, default: Any = None) -> Any:
            self.read.add(key)
            return super().get(key, default)

    read_declaration(Noting())
    assert Noting.read == passed.keys()


def test_numbers_may_be_strings() -> None:
    read, found = read_declaration(with_worker(concurrency="3", time_limit="1300"))
    assert found == []
    assert (read.workers[1].maximum, read.workers[1].time_limit) == (3, 1300)


scalar = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
anything = scalar | st.lists(scalar, max_size=3) | st.dictionaries(st.text(max_size=5), scalar, max_size=3)
WORKER_KEYS = [
    "name", "group", "queues", "pool", "concurrency", "autoscale", "time_limit", "soft_time_limit", "memory",
    "max_memory_per_child", "max_tasks_per_child", "prefetch_multiplier", "environment", "extra_args", "node_name",
]  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(WORKER_KEYS), anything),
    st.dictionaries(st.sampled_from(["name", "tasks", "time_limit"]), anything),
)
def test_no_input_crashes_the_reader(worker: dict[str, Any], queue: dict[str, Any]) -> None:
    raw = declaration()
    raw["workers"].append(worker)
    raw["queues"].append(queue)
    assert all(str(problem).count(": ") >= 1 for problem in read_declaration(raw)[1])
