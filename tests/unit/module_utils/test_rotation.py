"""Rotation of passwords: the state, the users of RabbitMQ that take turns, and interruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._facts import host_facts
from ansible_collections.fleet.celery.plugins.module_utils._plan import make_plan
from ansible_collections.fleet.celery.plugins.module_utils._rotation import (
    State,
    absent_users,
    passwords_of,
    read_state,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore, prepare, promote
from fleet import FACTS, GROUPS, declaration
from hypothesis import given
from hypothesis import strategies as st

NAME = "rabbitmq_application"


def test_two_users_of_rabbitmq_take_turns() -> None:
    state = State()
    for user, other in (("shop-b", "shop"), ("shop", "shop-b")):
        state = state.begin([NAME])
        assert (state.user("shop", NAME), state.earlier_user("shop", NAME)) == (user, other)
        assert other not in absent_users(state, "shop", [NAME])
        state = state.end([NAME])
        assert state.user("shop", NAME) == user
        assert other in absent_users(state, "shop", [NAME])


def test_a_rotation_that_was_begun_continues() -> None:
    begun = State().begin([NAME])
    assert begun.begin([NAME]) == begun
    assert begun.begin(["prometheus"]) == State((NAME,), ("prometheus", NAME))


def test_users_without_turns_stay() -> None:
    state = State().begin(["redis_application", "rabbitmq_administrator"])
    assert state.second == ()
    assert state.earlier_user("shop", "redis_application") == ""


@given(
    st.lists(
        st.tuples(st.sampled_from(["begin", "end"]), st.sets(st.sampled_from([NAME, "rabbitmq_flower", "prometheus"])))
    )
)
def test_no_user_in_use_is_removed(steps: list[tuple[str, set[str]]]) -> None:
    state = State()
    for step, names in steps:
        before = {name: state.user("shop", name) for name in (NAME, "rabbitmq_flower")}
        unfinished = set(state.rotating)
        state = getattr(state, step)(names)
        absent = absent_users(state, "shop", before)
        for name, user in before.items():
            assert state.user("shop", name) not in absent
            # Clients have the user of before until the rotation ends.
            assert step == "end" or user not in absent
            assert name not in unfinished & set(state.rotating) or state.user("shop", name) == user
        assert read_state({"second": list(state.second), "rotating": list(state.rotating)}) == state


@pytest.mark.parametrize("raw", [None, "", [], {}, {"second": None}])
def test_a_host_without_a_record_rotates_nothing(raw: object) -> None:
    assert read_state(raw) == State()


def test_a_fleet_has_the_passwords_of_its_services() -> None:
    everything = passwords_of("redis", broker="b", producers=True, flower="f", monitor="m")
    assert {name: everything[name] for name in ("redis_reader", "flower_basic_auth", "node_exporter")} == {
        "redis_reader": "b",
        "flower_basic_auth": "f",
        "node_exporter": "m",
    }
    assert list(passwords_of("rabbitmq", broker="b", producers=False, flower="", monitor="")) == [
        "rabbitmq_application",
        "rabbitmq_administrator",
        "rabbitmq_monitoring",
    ]


def test_the_table_of_the_documentation_names_all_of_them() -> None:
    page = (Path(__file__).parents[3] / "docs" / "passwords.md").read_text(encoding="utf-8")
    for kind in ("rabbitmq", "redis"):
        for name in passwords_of(
            kind, broker="b", producers=True, flower="f", monitor="m", signing=True, sentinel=kind == "redis"
        ):
            assert f"`{name}`" in page


def planned(record: dict[str, Any], **options: Any) -> Any:
    facts = FACTS | {"broker1": FACTS["broker1"] | {"local": {"shop": record}}}
    plan = make_plan(declaration(**options), GROUPS, facts)
    assert plan.problems == ()
    return plan


def test_the_plan_has_the_users_that_the_brokers_host_records() -> None:
    plan = planned({"second": [NAME, "rabbitmq_flower"], "rotating": [NAME, "prometheus"]})
    broker = plan.values["broker"]
    assert (broker["user"], broker["flower"]) == ("shop-b", "shop-flower-b")
    assert broker["absent_users"] == ["shop-flower", "shop-producer", "shop-producer-b"]
    assert plan.values["rotating"] == {NAME: "shop", "prometheus": ""}
    assert any("are still valid" in warning for warning in plan.warnings)


def test_redis_has_one_user_for_both_passwords() -> None:
    broker = planned({"second": [NAME], "rotating": ["redis_application"]}, broker="redis").values["broker"]
    assert (broker["user"], broker["absent_users"]) == ("shop", [])


def test_the_plan_says_which_passwords_are_not_generated() -> None:
    def given(**variables: Any) -> list[str]:
        facts = FACTS | {"broker1": FACTS["broker1"] | host_variables(variables)}
        found: list[str] = make_plan(declaration(), GROUPS, facts).values["given_passwords"]
        return found

    assert given() == []
    assert given(rabbitmq_application_password="mine", ansible_password="other") == [NAME]
    # A password counts on the host whose service has it.
    assert given(prometheus_password="mine") == []
    assert {NAME, "rabbitmq_monitoring"} <= set(given(celery_secret_command=["pass", "{name}"]))


def host_variables(variables: dict[str, Any]) -> dict[str, Any]:
    facts = host_facts(variables)
    return {key: facts[key] for key in ("variables", "given_passwords")}


class Fleet:
    """The steps of rotate.yml, on a controller's directory and a record of the broker's host."""

    def __init__(self, directory: Path) -> None:
        self.store, self.state = SecretStore(directory), State()

    def steps(self) -> list[Any]:
        rotating = self.state.rotating
        return [
            lambda: None if NAME in rotating else prepare(self.store, NAME),
            lambda: setattr(self, "state", self.state.begin([NAME])),
            lambda: promote(self.store, NAME),
        ]

    def value(self) -> str:
        return self.store.read(NAME)


@pytest.mark.parametrize("done", range(4))
def test_an_interrupted_rotation_continues_with_the_same_value(tmp_path: Path, done: int) -> None:
    fleet = Fleet(tmp_path)
    (tmp_path / NAME).write_text("old\n", encoding="utf-8")
    for step in fleet.steps()[:done]:
        step()
    # The earlier value stays in force until the broker's host has the record.
    assert NAME in fleet.state.rotating or fleet.value() == "old\n"
    prepared = tmp_path / f"{NAME}.next"
    new = prepared.read_text(encoding="utf-8") if prepared.exists() else fleet.value()
    for _ in range(2):
        for step in fleet.steps():
            step()
        assert done == 0 or fleet.value() == new
        assert fleet.value() != "old\n"
        assert fleet.state == State((NAME,), (NAME,))
        new = fleet.value()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
