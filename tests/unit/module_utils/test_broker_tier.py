"""The plan of a broker with several hosts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._broker_mark import FACT
from tier import BROKERS, refusals, tier


@pytest.mark.parametrize(("number", "allowed"), [(1, True), (2, False), (3, True), (4, False), (5, True)])
def test_a_broker_has_a_number_of_hosts_of_which_a_majority_can_be_left(number: int, allowed: bool) -> None:
    made = tier(*(f"broker{each}" for each in range(number)))
    assert bool(made.problems) != allowed, refusals(made)


def test_the_refusal_of_an_even_number_gives_the_reason() -> None:
    assert "2 hosts survive no more failures than 1, because a majority must be left" in refusals(tier("a", "b"))


def test_hosts_with_different_releases_of_debian_are_refused() -> None:
    made = tier(*BROKERS, facts={"broker3": {"system": ["Debian", "12"]}})
    assert "broker2 has Debian 13, broker3 has Debian 12" in refusals(made)


def test_clients_know_several_hosts_by_one_name_and_each_host_listens_on_its_own_address() -> None:
    broker = tier(*BROKERS).values["broker"]
    assert broker["address"] == "shop-broker-broker1"
    assert {name: member["listen_addresses"] for name, member in broker["members"].items()} == {
        "broker1": ["10.0.0.200"],
        "broker2": ["10.0.0.201"],
        "broker3": ["10.0.0.202"],
    }


@pytest.mark.parametrize("name", ["broker_listen_addresses", "broker_metrics_address"])
def test_one_address_for_several_hosts_is_refused(name: str) -> None:
    value: Any = ["10.0.0.200"] if name.endswith("es") else "10.0.0.200"
    assert f"celery_{name}: is one value, but the broker has 3 hosts" in refusals(tier(*BROKERS, **{name: value}))


def test_the_certificate_of_each_host_has_the_common_name_and_the_hosts_own_address() -> None:
    hosts = tier(*BROKERS).values["certificate_hosts"]
    for name, own in zip(BROKERS, ("10.0.0.200", "10.0.0.201", "10.0.0.202"), strict=True):
        assert {"shop-broker-broker1", own} <= set(hosts[name]["names"])


def test_all_hosts_are_scraped() -> None:
    assert list(tier(*BROKERS).values["broker"]["scrape_targets"]) == list(BROKERS)


@pytest.mark.parametrize(("schedule", "seconds"), [("hourly", 7200), ("daily", 172_800), ("weekly", 1_209_600)])
def test_a_missed_backup_is_an_alert_after_twice_its_interval(schedule: str, seconds: int) -> None:
    made = tier("broker1", broker="redis", broker_backups=5, broker_backup_schedule=schedule)
    broker = made.values["broker"]
    assert (broker["backups"], broker["backup_schedule"], 2 * broker["backup_interval"]) == (5, schedule, seconds)
    assert made.values["passwords"]["redis_backup"] == "broker1"


@pytest.mark.parametrize("number", [0, "0"])
def test_without_backups_there_is_no_password_for_them(number: Any) -> None:
    assert "redis_backup" not in tier("broker1", broker="redis", broker_backups=number).values["passwords"]


@pytest.mark.parametrize("unset", [None, ""])
def test_three_backups_are_kept_by_default(unset: Any) -> None:
    assert tier("broker1", broker_backups=unset).values["broker"]["backups"] == 3


@pytest.mark.parametrize(("name", "value"), [("broker_backups", -1), ("broker_backup_schedule", "at night")])
def test_backups_that_can_not_be_made_are_refused(name: str, value: Any) -> None:
    assert f"celery_{name}: " in refusals(tier("broker1", **{name: value}))


def marked(*hosts: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """Return facts of hosts that were marked by a fleet."""
    mark = {"app": "shop", "fleet": "shop", "node_tls": True} | changes
    return {name: {"local": {FACT: mark}} for name in hosts}


@pytest.mark.parametrize("brokers", [("broker1",), BROKERS])
@pytest.mark.parametrize("kind", ["rabbitmq", "redis"])
def test_a_fleet_knows_the_hosts_that_it_marked(kind: str, brokers: tuple[str, ...]) -> None:
    mark = tier(*brokers, broker=kind).values["broker"]["mark"]["content"]
    assert mark == {"app": "shop", "fleet": "shop", "node_tls": True if kind == "rabbitmq" and brokers[1:] else None}
    assert tier(*brokers, broker=kind, facts=marked(*brokers, **mark)).problems == ()


@pytest.mark.parametrize("other", [{"app": "billing", "fleet": "billing"}, {"fleet": "shop-staging"}])
def test_the_broker_of_another_fleet_is_refused(other: dict[str, str]) -> None:
    told = refusals(tier("broker1", facts=marked("broker1", **other)))
    assert f"broker1 is a host of the broker of the fleet {other['fleet']}" in told


@pytest.mark.parametrize(
    ("before", "mode", "way"), [(True, "off", "off"), (False, "only", "on"), (False, "both", "on")]
)
def test_tls_of_an_existing_cluster_can_not_change(before: bool, mode: str, way: str) -> None:
    told = refusals(tier(*BROKERS, tls=mode, facts=marked("broker2", node_tls=before)))
    assert f"celery_tls: can't be turned {way} for an existing cluster of RabbitMQ" in told


@pytest.mark.parametrize("changes", [{"broker": "redis"}, {"tls": "both"}])
def test_other_changes_of_tls_are_possible(changes: dict[str, Any]) -> None:
    assert tier(*BROKERS, **changes, facts=marked(*BROKERS)).problems == ()
