"""A broker of the user's own: its URL, and the plan of a fleet that has one."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._own_broker import SYSTEM_CA, url_parts, url_password
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url, result_url
from fleet import FACTS, GROUPS, declaration
from hypothesis import given
from hypothesis import strategies as st

AMQPS = "amqps://shop:se%2Fcret@mq.example.com/shop"
REDISS = "rediss://:se%2Fcret@cache.example.com:6380/3"
NO_BROKER = GROUPS | {"all": ["worker1", "worker2", "control1"], "broker": []}


def own(url: str = AMQPS, groups: dict[str, list[str]] | None = None, **changes: Any) -> Plan:
    """Return the plan of a fleet with this broker."""
    return make_plan(declaration(broker_url=url_parts(url), **changes), groups or NO_BROKER, FACTS)


def refusals(made: Plan) -> str:
    return "\n".join(map(str, made.problems))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (AMQPS, ["rabbitmq", "mq.example.com", 5671, True, "shop", "shop"]),
        ("amqp://a%40b:x@10.0.0.7:5673/%2F", ["rabbitmq", "10.0.0.7", 5673, False, "a@b", "/"]),
        (REDISS, ["redis", "cache.example.com", 6380, True, "", "3"]),
        ("redis://u:x@[fd00::1]", ["redis", "fd00::1", 6379, False, "u", "0"]),
    ],
)
def test_the_parts_of_a_url(url: str, expected: list[Any]) -> None:
    parts = url_parts(url)
    assert [parts[key] for key in ("kind", "address", "port", "tls", "user", "space")] == expected
    assert parts["errors"] == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sentinel://u:secret@h/0", "names a sentinel, which is not supported"),
        ("https://u:secret@h/v", "begins with none of amqp://, amqps://, redis:// and rediss://"),
        ("u:secret@h/v", "begins with none of"),
        ("amqp://h/v", "has no user"),
        ("amqp://u@h/v", "has no password"),
        ("amqp://u:secret@/v", "has no host"),
        ("amqp://u:secret@h", "has no vhost"),
        ("amqp://u:secret@h/", "The vhost '/' is /%2F"),
        ("amqp://u:secret@h:port/v", "has a port that is not a port"),
        ("amqp://u:secret@h:70000/v", "has a port that is not a port"),
        ("amqp://u:secret@h:0/v", "has a port that is not a port"),
        ("amqp://u:sec/ret@h/v", "Percent-encode"),
        ("amqp://u:sec#ret@h/v", "Percent-encode"),
        ("amqp://u:secret@h/v?heartbeat=3", "what follows would be ignored"),
        ("rediss://u:secret@h?ssl_cert_reqs=none", "what follows would be ignored"),
        ("redis://u:secret@h/first", "has a database that is not a number"),
        ("redis://h/0", "has no password"),
        ("amqp://u:secret@h/v;amqp://u:secret@i/v", "a list of several brokers"),
        ("amqp://u:secret@h/v\n", "white space"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused_without_its_password(url: str, expected: str) -> None:
    told = refusals(own(url))
    assert f"celery_broker_url: {expected}" in told or expected in told
    assert "sec" not in told.replace("second", "")
    # Nothing follows from a URL that is wrong.
    assert "group" not in told


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_what_celery_gets_is_what_the_url_says(user: str, password: str, vhost: str) -> None:
    plan_of_url = {"kind": "rabbitmq", "address": "h", "port": 5671, "tls_port": 5671, "user": user, "vhost": vhost}
    try:
        url = broker_url(plan_of_url, password)
    except UnicodeEncodeError:  # a lone surrogate
        return
    parts = url_parts(url)
    assert parts["errors"] == []
    assert (parts["user"], url_password(url), parts["space"]) == (user, password, vhost)


@given(st.sampled_from(["amqp", "amqps", "redis", "rediss"]), st.text(), st.text(alphabet="/?#@:%[];ab0", max_size=12))
def test_no_url_crashes_the_reader_or_shows_its_password(scheme: str, text: str, noise: str) -> None:
    url = f"{scheme}://u:hunter2{noise}{text}"
    parts = url_parts(url)
    assert parts["errors"] or "hunter2" in url_password(url)
    assert "hunter2" not in str(parts["errors"])


def test_the_plan_has_no_host_of_the_broker_and_connects_as_the_url_says() -> None:
    made = own()
    assert made.problems == ()
    broker = made.values["broker"]
    assert (broker["own"], broker["host"], broker["members"], broker["vhost"]) == (True, "", {}, "shop")
    assert broker["ca"] == made.values["settings"]["broker_use_ssl"]["value"]["ca_certs"] == SYSTEM_CA
    assert broker_url(broker, "se/cret") == "amqps://shop:se%2Fcret@mq.example.com:5671/shop"
    assert not any({"rabbitmq", "redis"} & {*host["duties"]} for host in made.values["hosts"].values())
    assert "cret" not in str(made.values).replace("secrets_", "")


def test_redis_has_results_and_tasks_in_the_database_of_the_url() -> None:
    broker = own(REDISS).values["broker"]
    assert broker_url(broker, "se/cret") == result_url(broker, "se/cret") == REDISS
    assert (broker["visibility_timeout"], broker["key_prefix"]) == (5100, "shop:")


def test_the_fleets_own_tls_does_not_depend_on_that_of_the_broker() -> None:
    encrypted, plain = own("amqp://u:x@10.0.0.9/v"), own(tls="off")
    assert (bool(encrypted.values["tls"]), encrypted.values["broker"]["ca"]) == (True, "")
    assert encrypted.values["settings"]["broker_use_ssl"]["value"] is None
    assert (bool(plain.values["tls"]), plain.values["broker"]["ca"]) == (False, SYSTEM_CA)


def test_an_authority_of_the_users_own_gets_a_file_on_the_hosts() -> None:
    made = own(broker_ca="files/mq.crt")
    assert made.values["broker"]["ca"] == "/etc/celery-fleet/shop-broker-ca.crt"
    assert "celery_broker_ca: has no effect" in refusals(own("amqp://u:x@10.0.0.9/v", broker_ca="files/mq.crt"))
    assert "celery_broker_ca: has no effect" in refusals(
        make_plan(declaration(broker_ca="files/mq.crt"), GROUPS, FACTS)
    )


def test_a_broker_of_ones_own_and_hosts_of_the_broker_are_refused_by_name() -> None:
    told = refusals(own(groups=GROUPS))
    assert "celery_broker_url: is set, but the group 'broker' has hosts" in told
    assert "broker1" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("broker_address", "h"),
        ("broker_port", 5000),
        ("broker_tls_port", 5000),
        ("broker_listen_addresses", ["10.0.0.9"]),
        ("broker_metrics_address", "10.0.0.9"),
        ("broker_memory", "1GB"),
    ],
)
def test_variables_of_the_fleets_own_broker_have_no_effect(name: str, value: Any) -> None:
    assert f"celery_{name}: has no effect" in refusals(own(**{name: value}))


def test_signed_messages_need_a_broker_of_the_fleet() -> None:
    assert "celery_signed_messages: needs a replay cache whose records no sender can delete" in refusals(
        own(signed_messages="both")
    )


def test_a_kind_that_contradicts_the_url_is_refused() -> None:
    assert "celery_broker: is redis, but celery_broker_url" in refusals(own(broker="redis"))
    assert own(REDISS, broker="valkey").problems == ()


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("amqp://u:x@mq.example.com/v", True),
        ("amqp://u:x@8.8.8.8/v", True),
        ("amqp://u:x@10.1.2.3/v", False),
        ("redis://u:x@localhost", False),
        (AMQPS, False),
    ],
)
def test_a_connection_without_tls_over_a_public_network_is_a_warning(url: str, warned: bool) -> None:
    assert any("has no TLS" in warning for warning in own(url).warnings) == warned


def test_other_clients_have_the_rights_of_workers_which_is_a_warning() -> None:
    made = own(groups=NO_BROKER | {"producers": ["web1"], "all": [*NO_BROKER["all"], "web1"]})
    assert any("producers and Flower connect as the user of the workers" in warning for warning in made.warnings)
    broker = made.values["broker"]
    assert broker["producer"] == broker["flower"] == broker["user"] == "shop"


def test_the_lock_and_the_state_of_rotations_are_on_a_host_of_the_plan() -> None:
    assert own().values["lock_hosts"] == ["worker1"]
    assert own(groups=NO_BROKER | {"monitor": ["control1"]}).values["lock_hosts"] == ["control1"]
    assert make_plan(declaration(), GROUPS, FACTS).values["lock_hosts"] == ["broker1"]


def test_the_passwords_of_the_broker_are_not_the_fleets() -> None:
    assert not [name for name in own().values["passwords"] if name.startswith(("rabbitmq", "redis"))]


def test_what_policies_set_elsewhere_are_arguments_of_the_queues() -> None:
    raw = declaration()
    raw["queues"][1] |= {"max_length": 20_000}
    queues = {queue["name"]: queue["arguments"] for queue in own(queues=raw["queues"]).values["broker"]["queues"]}
    assert queues["customers"] == {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "shop.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-delivery-limit": 50,
        "x-overflow": "reject-publish",
    }
    assert queues["video"]["x-max-length"] == 20_000


def test_a_long_task_has_a_consumer_timeout_of_its_own() -> None:
    raw = declaration()
    raw["queues"][1]["time_limit"] = 7200
    (_, video) = own(queues=raw["queues"]).values["broker"]["queues"]
    assert video["arguments"]["x-consumer-timeout"] == 7_800_000


def test_redis_is_scraped_on_the_monitor_and_what_is_not_watched_is_a_warning() -> None:
    groups = NO_BROKER | {"monitor": ["control1"]}
    assert own(REDISS, groups).values["broker"]["scrape_targets"] == {"cache.example.com": "127.0.0.1:9121"}
    watched = own(groups=groups)
    assert watched.values["broker"]["scrape_targets"] == {}
    assert any("CeleryQueue*" in warning for warning in watched.warnings)
