"""The fleet in the lab: parsing of the inventory, of a playbook's output and of the hosts' output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.fleet import LabError, Process, Recap, next_release, parse_fleet, parse_programs, parse_units


def inventory(**variables: Any) -> dict[str, Any]:
    common = {"lab_network": "fleet-x", "celery_workers": [{"name": "a", "group": "workers"}], **variables}
    addresses = {"b": "192.0.2.1", "w1": "192.0.2.2", "w2": "192.0.2.3", "c": "192.0.2.4"}
    return {
        "_meta": {"hostvars": {host: {"ansible_host": address, **common} for host, address in addresses.items()}},
        "broker": {"hosts": ["b"]},
        "workers": {"children": ["near"], "hosts": ["w1"]},
        "near": {"hosts": ["w2"]},
        "beat": {"hosts": ["c"]},
        "flower": {"hosts": ["c"]},
        "monitor": {"hosts": ["c"]},
    }


def test_a_fleet_is_read_from_its_inventory() -> None:
    fleet = parse_fleet(inventory(celery_app_name="store", celery_fleet_name="big"), Path("/home/ann"), Path("i"))
    assert fleet.secrets == Path("/home/ann/.local/share/celery-fleet/big")
    assert fleet.state.name == "fleet-x"
    assert (fleet.app, fleet.broker, fleet.beat, fleet.flower) == ("store", "b", "c", "c")
    assert fleet.addresses["w1"] == "192.0.2.2"


def test_every_host_that_runs_the_application_has_a_ledger() -> None:
    assert parse_fleet(inventory(), Path("/home/ann"), Path("i")).app_hosts == ["c", "w1", "w2"]


def test_groups_may_have_other_names() -> None:
    assert parse_fleet(inventory(celery_beat_group="workers"), Path(), Path("i")).beat == "w1"


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({}, "no hosts of the lab"),
        ({"_meta": {"hostvars": {"web": {"ansible_host": "192.0.2.9"}}}}, "web"),
        (inventory(celery_flower_group="nobody"), "no host in the group nobody"),
    ],
)
def test_an_inventory_that_is_not_the_labs_is_refused(listed: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        parse_fleet(listed, Path(), Path("i"))


def test_the_progress_and_the_changes_are_read_from_a_playbooks_output() -> None:
    recap = Recap()
    assert recap.read("PLAY [Build the broker] *****")
    assert recap.read("TASK [fleet.celery.rabbitmq : Install it [now]] ***")
    assert (recap.play, recap.task) == ("Build the broker", "fleet.celery.rabbitmq : Install it [now]")
    assert not recap.read("changed: [b]")
    assert recap.read("RUNNING HANDLER [fleet.celery.rabbitmq : Restart it] ***")
    assert recap.task.endswith("Restart it")
    recap.read("b                          : ok=12   changed=3    unreachable=0    failed=0")
    recap.read("w1                         : ok=9    changed=2    unreachable=0    failed=0")
    assert (recap.tasks, recap.changed, recap.hosts) == (2, 5, ["b", "w1"])
    assert recap.read("PLAY [Next] ***")
    assert recap.task == ""


def test_programs_are_read_with_their_states_and_errors() -> None:
    text = (
        "shop-video                       RUNNING   pid 1775, uptime 0:00:29\n"
        "shop-email                       FATAL     Exited too quickly (process log may have details)\n"
        "shop-reports                     STOPPED   Not started\n"
        "shop-default-a                   STOPPED   Nov 22 04:00 AM\n"
    )
    files = [Path(f"shop.worker.shop-{name}.conf") for name in ("video", "email", "reports")]
    video, email, reports = parse_programs(text, files)
    assert video == Process("shop-video", "RUNNING", "0:00:29")
    assert video.healthy
    assert email == Process("shop-email", "FATAL", "Exited too quickly (process log may have details)")
    assert not email.healthy
    assert not reports.healthy


def test_services_that_are_not_installed_are_not_listed() -> None:
    text = (
        "flower.service          loaded    active   running Flower\n"
        "nginx.service           loaded    failed   failed  A web server\n"
        "redis-server.service    not-found inactive dead    redis-server.service\n"
    )
    flower, nginx = parse_units(text)
    assert flower == Process("flower", "running")
    assert flower.healthy
    assert not nginx.healthy


def test_the_next_release_has_a_higher_version() -> None:
    assert next_release("1.0.0") == "1.1.0"
    assert next_release("1.9.0") == "1.10.0"
