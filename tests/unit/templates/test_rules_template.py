"""Prometheus' rules of a fleet: one queue, one set of thresholds; the same names whatever the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.fleet.celery.plugins.module_utils._own_broker import url_parts
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from fleet import FACTS, GROUPS, declaration
from jinja2 import Environment, FileSystemLoader
from tier import BROKERS, tier

ROOT = Path(__file__).parents[3]
QUEUES = [
    {"name": "customers", "tasks": ["customers.*"], "alerts": {"depth": 100, "age": 60}},
    {"name": "video", "tasks": ["video.*"], "time_limit": 1200, "alerts": {"drain_time": 0}},
]
WORKERS = [{"name": "a", "group": "workers", "queues": ["customers", "video"], "concurrency": 1}]


def groups(broker: str, **given: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the rules of a fleet, by their group."""
    inventory = GROUPS | {"broker": [], "monitor": ["control1"]} if "broker_url" in given else GROUPS
    return rules_of(make_plan(declaration(queues=QUEUES, workers=WORKERS, broker=broker, **given), inventory, FACTS))


def rules_of(found: Plan) -> dict[str, list[dict[str, Any]]]:
    """Return the rules of a plan, by their group."""
    assert not found.problems
    environment = Environment(  # noqa: S701 - no HTML
        loader=FileSystemLoader(ROOT / "templates"),
        trim_blocks=True,
        variable_start_string="<<",
        variable_end_string=">>",
    )
    text = environment.get_template("celery_rules.yml.j2").render(plan=found.values)
    return {group["name"]: group["rules"] for group in yaml.safe_load(text)["groups"]}


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_a_queue_has_its_own_thresholds(broker: str) -> None:
    alerts = groups(broker)["celery-shop"]
    told = {
        (rule["alert"], rule["expr"].partition("queue=")[2].split('"')[1]): rule["expr"].rpartition("> ")[2]
        for rule in alerts
        if 'queue="' in rule["expr"]
    }
    assert told == {
        ("CeleryQueueOld", "customers"): "60",
        ("CeleryQueueDeep", "customers"): "100",
        ("CeleryQueueSlow", "customers"): "1800",
        ("CeleryQueueOld", "video"): "1200",
        ("CeleryQueueDeep", "video"): "5000",
    }


def test_queue_metrics_are_the_same_on_each_broker() -> None:
    names = [{rule["record"] for rule in groups(broker)["celery-shop-queues"]} for broker in ("rabbitmq", "redis")]
    assert names[1] <= names[0]
    assert names[0] - names[1] == {"celery_queue_held"}


def test_without_metrics_of_the_broker_no_alert_needs_them() -> None:
    own = groups("rabbitmq", broker_url=url_parts("amqps://u:x@mq.example.com/v"))
    names = {rule["alert"] for rule in own["celery-shop"]}
    assert list(own) == ["celery-shop"]
    assert not {name for name in names if name.startswith(("CeleryQueue", "CeleryBroker", "CeleryMetrics"))}
    assert {"CeleryWorkerGone", "CeleryWorkerDisconnected", "CeleryTasksFail"} <= names


def test_a_redis_of_the_users_own_has_the_alerts_of_the_fleets() -> None:
    own = groups("redis", broker_url=url_parts("rediss://u:x@cache.example.com/0"))
    fleets = [rule.get("alert") for rule in groups("redis")["celery-shop"]]
    # Its owner backs it up.
    fleets.remove("CeleryBrokerBackupOld")
    assert [rule.get("alert") for rule in own["celery-shop"]] == fleets
    (down,) = (rule for rule in own["celery-shop"] if rule["alert"] == "CeleryBrokerDown")
    assert down["expr"] == (
        'up{job="broker", instance="cache.example.com"} == 0 or redis_up{instance="cache.example.com"} == 0'
    )


def test_queues_that_are_not_the_fleets_are_left_out() -> None:
    """Celery makes dozens in RabbitMQ: for later tasks, for answers."""
    rules = [rule for rule in groups("rabbitmq")["celery-shop-queues"] if "rabbitmq_" in rule["expr"]]
    assert len(rules) == 4
    assert all('{vhost="shop", queue=~"customers|video"}' in rule["expr"] for rule in rules)


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_each_alert_has_a_runbook(broker: str) -> None:
    chapters = [line[3:] for line in (ROOT / "docs" / "alerts.md").read_text().splitlines() if line.startswith("## ")]
    for rule in groups(broker)["celery-shop"]:
        assert rule["alert"] in chapters
        assert rule["labels"]["severity"] in ("page", "warn")
        assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        # A receiver shows it at night: one or two sentences that say what to do.
        assert 20 < len(rule["annotations"]["description"]) < 250


def test_runbooks_are_links_where_the_docs_have_an_address() -> None:
    url = "https://git.example.com/fleet/blob/main/docs"
    for given in (url, f"{url}/"):
        rules = groups("redis", docs_url=given)["celery-shop"]
        assert {rule["annotations"]["runbook_url"].partition("#")[0] for rule in rules} == {f"{url}/alerts.md"}


@pytest.mark.parametrize("url", ["git.example.com/docs", "https://", "https://x/docs#a", 7])
def test_an_address_of_the_docs_that_is_none_is_refused(url: object) -> None:
    problems = make_plan(declaration(queues=QUEUES, workers=WORKERS, docs_url=url), GROUPS, FACTS).problems
    assert [problem.where for problem in problems] == ["celery_docs_url"]


def test_disks_of_the_fleets_directories_are_watched() -> None:
    (rule,) = [rule for rule in groups("rabbitmq")["celery-shop"] if rule["alert"] == "CeleryHostDisk"]
    watched = rule["expr"].partition('mountpoint=~"')[2].partition('"')[0].split("|")
    assert {"/", "/var", "/var/log", "/var/log/shop", "/var/lib/shop", "/var/lib/rabbitmq", "/srv/shop"} <= {*watched}
    assert "/boot" not in watched
    assert "> 90" in rule["expr"]


def test_a_broker_with_several_hosts_is_down_when_none_of_them_answers() -> None:
    expressions = {rule["alert"]: rule["expr"] for rule in rules_of(tier(*BROKERS))["celery-shop"]}
    assert expressions["CeleryBrokerDown"] == 'max by (job) (up{job="broker"}) == 0'
    assert expressions["CeleryBrokerNodeDown"] == 'up{job="broker"} == 0'
    assert "< 3" in expressions["CeleryQueueUnderReplicated"]
    alone = {rule["alert"] for rule in groups("rabbitmq")["celery-shop"]}
    assert not alone & {"CeleryBrokerNodeDown", "CeleryQueueUnderReplicated"}
