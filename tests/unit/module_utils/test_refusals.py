"""Declarations that are refused because of reserved names, hosts or settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.fleet.celery.plugins.module_utils._facts import host_facts
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from ansible_collections.fleet.celery.plugins.module_utils._variables import OF_PLAYBOOKS, OF_ROLES
from fleet import FACTS, GROUPS, declaration, with_worker

ROOT = Path(__file__).parents[3]


def refused(raw: dict[str, Any], **facts: dict[str, Any]) -> list[str]:
    """Return the problems of a declaration, with changed facts of some hosts."""
    return [str(problem) for problem in planned(raw, **facts).problems]


def planned(raw: dict[str, Any], **facts: dict[str, Any]) -> Plan:
    return make_plan(raw, GROUPS, {name: {**known, **facts.get(name, {})} for name, known in FACTS.items()})


def with_queues(*names: str, **changes: Any) -> dict[str, Any]:
    """Return the declaration with these queues, which one worker consumes."""
    worker = {"name": "all", "group": "workers", "queues": list(names), "concurrency": 1}
    return declaration(queues=[{"name": name} for name in names], workers=[worker], **changes)


@pytest.mark.parametrize("app", ["root", "systemd", "mail", "redis", "systemd-network"])
def test_an_application_named_like_a_user_or_directory_of_the_system_is_refused(app: str) -> None:
    (problem,) = refused(declaration(app_name=app))
    assert problem.startswith(f"celery_app_name: {app!r} is a user of the system, or a directory below /etc")


def test_an_application_named_like_ansibles_user_is_refused() -> None:
    (problem,) = refused(declaration(app_name="deploy"), worker1={"login": "deploy"})
    assert "is the user that Ansible logs in as" in problem


@pytest.mark.parametrize(
    ("broker", "name", "purpose"),
    [
        ("rabbitmq", "amq.mail", "RabbitMQ itself"),
        ("rabbitmq", "celery_delayed_3", "delayed tasks"),
        ("rabbitmq", "shop.dead", "dead letters"),
        ("rabbitmq", "celeryev", "events"),
        ("redis", "celeryev.1", "events"),
        ("redis", "reply.celery.pidbox", "remote control"),
        ("redis", "unacked_index", "unacknowledged messages"),
        ("redis", "_kombu.binding.shop", "bindings"),
        ("redis", "celery-task-meta-1", "results"),
    ],
)
def test_reserved_names_of_queues_are_refused(broker: str, name: str, purpose: str) -> None:
    problems = refused(with_queues(name, broker=broker))
    what = f"celery_queues[{name}]: the name is reserved for {purpose}. Choose another name"
    assert what in problems


def test_names_of_queues_by_which_delayed_tasks_would_run_twice_are_refused() -> None:
    (problem,) = refused(with_queues("email", "bulk.email"))
    assert problem == (
        "celery_queues[bulk.email]: delayed tasks would run twice, because the name ends with .email, which is a queue "
        "too. Rename it to bulk-email"
    )
    assert refused(with_queues("email", "bulk.email", broker="redis")) == []
    assert refused(with_queues("email", "email.bulk", "bulkemail")) == []


def test_long_names_are_refused() -> None:
    assert any("more than 255 bytes" in problem for problem in refused(with_queues("q" * 256)))
    assert any("more than 64 characters" in problem for problem in refused(with_worker(name="w" * 65)))


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("address", "10.0.0.2", "the hosts worker1 and worker2: have the same address, 10.0.0.2"),
        ("machine_id", "4711", "the hosts worker1 and worker2: have the same machine id, 4711"),
        ("nodename", "vm", "the hosts worker1 and worker2: have the same host name, vm"),
    ],
)
def test_two_inventory_names_of_a_machine_are_refused(key: str, value: str, what: str) -> None:
    (problem,) = refused(declaration(), worker1={key: value}, worker2={key: value})
    assert problem.startswith(what)
    # Only workers are named after their hosts.
    assert bool(refused(declaration(), worker1={key: value}, broker1={key: value})) == (key != "nodename")


@pytest.mark.parametrize("system", [["Ubuntu", "22"], ["Debian", "11"], ["Debian", "14"]])
def test_an_untested_system_is_refused(system: list[str]) -> None:
    (problem,) = refused(declaration(), worker1={"system": system})
    assert problem == (
        f"the host worker1: has {system[0]} {system[1]}, on which the roles are not tested. "
        "Use Debian 12 or Debian 13, or set celery_allow_untested_platforms: true"
    )
    assert refused(declaration(allow_untested_platforms=True), worker1={"system": system}) == []
    assert refused(declaration(), worker1={"system": ["Debian", "12"]}) == []


def test_a_misspelt_variable_is_refused_and_an_unknown_one_is_a_warning() -> None:
    plan = planned(declaration(), worker1={"variables": ["celery_default_quue", "celery_colour", "celery_queues"]})
    assert [str(problem) for problem in plan.problems] == [
        "celery_default_quue: is not a variable of the collection (did you mean 'celery_default_queue'?). "
        "Correct it to celery_default_queue, or rename your own variable"
    ]
    assert [text for text in plan.warnings if "celery_colour" in text]


def test_the_variables_of_roles_and_playbooks_are_known() -> None:
    specs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
    options = {name for spec in specs for entry in spec["argument_specs"].values() for name in entry.get("options", {})}
    assert {name for name in options if name.startswith("celery_")} == OF_ROLES
    plugins = [ROOT / "plugins" / name for name in ("lookup/secret.py", "module_utils/_facts.py")]
    used = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("p*/**/*.yml"), *plugins])
    assert {name for name in OF_PLAYBOOKS if name not in used} == set()


@pytest.mark.parametrize("argument", ["--queues=other", "-Qother", "--pool", "-c4", "--purge", "--detach", "-n"])
def test_an_option_that_would_override_the_plan_is_refused(argument: str) -> None:
    (problem,) = refused(with_worker(extra_args=[argument]))
    assert "would override the plan" in problem


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (
            {"control_exchange": "x"},
            "celery_settings.control_exchange: must keep its default, because the broker's permissions depend on it",
        ),
        ({1: 2}, "celery_settings.1: is not the name of a Celery setting"),
        ({"a b": 2}, "celery_settings.a b: is not the name of a Celery setting"),
        ({"result_backend": "redis://:pw@10.0.0.9"}, "celery_settings.result_backend: contains a password"),
        ({"result_backend": "db+postgresql://a:pw@10.0.0.9/x"}, "celery_settings.result_backend: contains a password"),
    ],
)
def test_invalid_settings_and_settings_with_passwords_are_refused(settings: dict[Any, Any], what: str) -> None:
    (problem,) = refused(declaration(settings=settings))
    assert problem.startswith(what)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"broker_listen_addresses": "10.0.0.1"}, "celery_broker_listen_addresses: '10.0.0.1' is not a list"),
        ({"broker_address": "http://x/ y"}, "celery_broker_address: 'http://x/ y' is not an address"),
        ({"secrets_encrypted": "vault"}, "celery_secrets_encrypted: 'vault' is neither true nor false"),
        ({"secrets_dir": "secrets"}, "celery_secrets_dir: 'secrets' is not an absolute path"),
        ({"secrets_dir": "/home/a/../../tmp"}, "celery_secrets_dir: '/home/a/../../tmp' is not an absolute path"),
    ],
)
def test_invalid_addresses_and_paths_are_refused(changes: dict[str, Any], what: str) -> None:
    (problem,) = refused(declaration(**changes))
    assert problem.startswith(what)


def test_a_time_limit_above_a_year_and_a_yaml_boolean_are_refused() -> None:
    (problem,) = refused(with_worker(time_limit=10**15))
    assert "is longer than a year" in problem
    problems = refused(declaration(queues=[{"name": True}]))
    assert any(
        "YAML reads yes, no, on, off, true and false without quotes as booleans. Quote it" in each for each in problems
    )


def test_a_message_larger_than_the_brokers_maximum_is_refused() -> None:
    raw = with_queues("email")
    raw["queues"][0]["message_size"] = "20MB"
    assert any("is above RabbitMQ 4's maximum of 16 MB" in problem for problem in refused(raw))
    assert not any("RabbitMQ" in problem for problem in refused({**raw, "broker": "redis"}))


def test_a_password_that_another_host_would_not_use_is_refused() -> None:
    name = "rabbitmq_application_password"
    (problem,) = refused(declaration(), worker1={"passwords": {name: "a"}})
    assert problem.startswith(f"{name}: worker1 would use another value than broker1. Set it for broker1")
    (problem,) = refused(declaration(), broker1={"passwords": {name: "b"}}, worker1={"passwords": {name: "a"}})
    assert "worker1 would use another value" in problem
    for hosts in ({"broker1": "a"}, {"broker1": "a", "worker1": "a", "worker2": "a"}):
        assert not refused(declaration(), **{host: {"passwords": {name: value}} for host, value in hosts.items()})


def test_tokens_of_passwords_compare_and_give_nothing_away() -> None:
    one, same, other = (
        host_facts({"redis_application_password": value, "ansible_facts": {}})["passwords"] for value in ("a", "a", "b")
    )
    assert one == same != other
    assert set(one) == {"redis_application_password"}
    assert len(one["redis_application_password"]) == len("ab" * 32)
