"""The doctor finds nothing on a fleet that is well, and each thing that is wrong once it is.

Three findings are provoked otherwise than they come about. The hosts share clock and disks with the machine: Python's
clock is set wrong on one of them, and more of a disk must be free than any has. No old part is installed, but a part is
made to look old. The kernel's word on memory that ran out is not to be had in a container: tests/unit has that.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from shared.deployed import RUN, Shop, call, transcode, wait_until
from shared.lab import cut_off, start
from shared.playbook import PLAYBOOKS, run_playbook

testinfra_hosts = ["ansible://control1"]
BROKER = "redis" if "redis" in os.environ["MOLECULE_SCENARIO_NAME"] else "rabbitmq"
UNIT = {"rabbitmq": "rabbitmq-server", "redis": "redis-server"}[BROKER]
CONTROL = f"{RUN} celery -A shop.celery:app"
CURRENT = "/srv/shop/current"
PACKAGES = "/srv/shop/releases/1.0.0/venv/lib/python3*/site-packages"
OLD = "billiard-4.2.1.dist-info"
PASSWORD = "/var/lib/celery-fleet/redis/administrator.password"
REDIS = f"REDISCLI_AUTH=$(cat {PASSWORD}) redis-cli -s /run/redis/redis.sock --user shop-admin"
ALARM = {
    "rabbitmq": "rabbitmqctl set_vm_memory_high_watermark absolute 1MB",
    "redis": f"{REDIS} config set maxmemory 1mb",
}[BROKER]


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="control1", hosts=("worker1", "worker2", "control1"))


class Doctor:
    """Runs the playbook and reads what it found."""

    def __init__(self, directory: Path) -> None:
        self._json = directory / "doctor.json"

    def __call__(self, *options: str, **variables: Any) -> dict[str, list[str]]:
        """Return what each check found, of those that found anything, as texts."""
        run = run_playbook(PLAYBOOKS / "doctor.yml", *options, celery_doctor_file=str(self._json), **variables)
        told = run.stdout + run.stderr
        assert set(re.findall(r"\bchanged=(\d+)", run.stdout)) == {"0"}, told[-3000:]
        values = json.loads(self._json.read_text(encoding="utf-8"))
        self._json.unlink()
        found = {
            check: [" ".join(each.values()) for each in findings]
            for check, findings in values["checks"].items()
            if findings
        }
        assert (run.returncode == 0) == (not found), told[-3000:]
        assert values["summary"] in run.stdout
        for finding in (each for findings in values["checks"].values() for each in findings):
            assert f"{finding['where']}: {finding['what']}" in told
            assert finding["meaning"] in told
            assert finding["action"] in told
        return found


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


def told(found: dict[str, list[str]], check: str, *words: str) -> bool:
    """Return whether one of a check's findings has all these words."""
    return any(all(word in text for word in words) for text in found.get(check, []))


def answers(shop: Shop) -> bool:
    """Return whether all workers consume their queues."""
    nodes = [
        f"{name.removeprefix('shop-')}@{host}"
        for host in ("worker1", "worker2")
        for name in shop.pids(host)
        if name != "shop-beat"
    ]
    # Those that are named end the waiting once all have answered.
    ask = f"{CONTROL} inspect active_queues --json --timeout 60 -d {','.join(nodes)}"
    result = shop.host("control1").run(ask)
    return len(nodes) == 6 and result.rc == 0 and len(json.loads(result.stdout)) == 6


def test_a_fleet_that_is_well_has_no_findings(shop: Shop, doctor: Doctor) -> None:
    wait_until(lambda: answers(shop), "not all workers answer")
    # What was killed by the tests of an earlier run, and how full the machine's own disk is, are not the fleet's.
    assert doctor(celery_doctor_window_hours=0, celery_doctor_min_disk_free=1) == {}


def running_for(shop: Shop, task: str, seconds: float) -> Callable[[], bool]:
    """Return what tells whether a task has run for so long."""
    (began,) = shop.wait_for([task], "started")
    moment = datetime.fromisoformat(began["time"]).timestamp()
    return lambda: time.time() > moment + seconds


def kill_a_child(shop: Shop) -> None:
    """Kill the process that is at work on a report, and wait until it is done once more."""
    (report,) = shop.send(call("reports.build", "2026-05", 6))
    shop.wait_for([report], "started")
    parent = shop.pid("worker2", "shop-reports-a") or shop.pid("worker2", "shop-reports-b")
    shop.output(f"kill -KILL $(pgrep --parent {parent})", "worker2")
    shop.wait_for([report])


def kill_a_worker(shop: Shop) -> None:
    killed = shop.pid("worker1", "shop-customers")
    shop.output(f"kill -KILL {killed}", "worker1")
    wait_until(lambda: shop.pid("worker1", "shop-customers") not in (0, killed), "it is not started again")


def queues() -> list[dict[str, Any]]:
    """Return the inventory's queues, of which one has narrower limits by now."""
    path = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "inventory" / "group_vars" / "all.yml"
    declared: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["celery_queues"]
    narrow = {"time_limit": 5, "alerts": {"depth": 3}}
    return [queue | (narrow if queue["name"] == "video" else {}) for queue in declared]


def test_each_thing_that_is_wrong_is_found_with_what_to_do(shop: Shop, doctor: Doctor) -> None:
    kill_a_child(shop)
    kill_a_worker(shop)
    wait_until(lambda: answers(shop), "not all workers answer")
    slot = "a" if shop.pid("worker2", "shop-reports-a") else "b"
    mail = "shop-email-a" if shop.pid("worker1", "shop-email-a") else "shop-email-b"
    long, *_ = ids = shop.send(*[transcode(1, 60)], *[transcode(n, 0.1) for n in range(8)])
    overdue = running_for(shop, long, 16)
    release = shop.output(f"readlink {CURRENT}").strip()
    record = shop.output(f"readlink -f {CURRENT}/release.json", "worker1").strip()
    new = 's/"tasks": \\[/"tasks": ["customers.new",/'
    clock = "$(readlink -f /usr/lib/python3.*/sitecustomize.py)"
    wrong = "\nimport time\n_right = time.time\ntime.time = lambda: _right() + 90\n"
    reports = f"reports -d reports-{slot}@worker2"
    wrongs = (
        (
            "worker2",
            f"{CONTROL} control --timeout 10 cancel_consumer {reports}",
            f"{CONTROL} control --timeout 10 add_consumer {reports}",
        ),
        ("worker1", f"supervisorctl stop {mail}", f"supervisorctl start {mail}"),
        (
            "worker1",
            f"cp -p {record} /root/record && sed -i {shlex.quote(new)} {record}",
            f"cp -p /root/record {record} && rm /root/record",
        ),
        (
            "worker1",
            f"cd {PACKAGES} && ls -d billiard-*.dist-info > /root/part && mv billiard-*.dist-info {OLD}",
            f"cd {PACKAGES} && mv {OLD} $(cat /root/part) && rm /root/part",
        ),
        (
            "control1",
            f"mkdir /srv/shop/releases/1.0.1 && ln -sfn releases/1.0.1 {CURRENT}",
            f"ln -sfn {shlex.quote(release)} {CURRENT} && rmdir /srv/shop/releases/1.0.1",
        ),
        (
            "control1",
            f"cp -p {clock} /root/clock && printf %s {shlex.quote(wrong)} >> {clock}",
            f"cp -p /root/clock {clock} && rm /root/clock",
        ),
    )
    with ExitStack() as stack:
        for host, do, undo in wrongs:
            stack.enter_context(shop.altered(host, do, undo))
        wait_until(overdue, "time stands still")
        # A check finds the same.
        found = doctor("--check", celery_queues=queues(), celery_doctor_min_disk_free=99.99)

    killed = "processes that were killed"
    assert told(found, killed, f"shop-reports-{slot} on worker2", "a child process", "SIGKILL", "celerytaskskilled")
    assert told(found, killed, "shop-customers on worker1", "the worker", "SIGKILL")
    assert told(found, "tasks that workers know", "customers@worker1", "customers.new", "restart.yml")
    assert told(found, "what waits", "queue video", "alerts.depth is 3")
    assert told(found, "tasks past their limits", "shop-video on worker2", f"video.transcode ({long})", "limit is 5 s")
    assert told(found, "clocks", "control1", "ahead of the controller's")
    (ahead,) = re.findall(r"at least (\S+) s", found["clocks"][0])
    assert 60 < float(ahead) <= 90
    for host in ("broker1", "worker1", "worker2", "control1"):
        assert told(found, "disks", host, "threshold is 99.99%")
    assert told(found, "releases", "2 releases", "1.0.0: worker1, worker2; 1.0.1: control1")
    assert told(found, "releases", "shop-beat on control1", "runs 1.0.0", "is on 1.0.1")
    assert told(found, "consumers", "shop-email on worker1", "does not answer", "STOPPED")
    assert told(found, "consumers", "shop-reports on worker2", "does not consume reports")
    assert len(found["consumers"]) == 2
    assert told(found, "versions", "worker1", "billiard 4.2.1", "https://github.com/celery/celery/issues/10462")
    assert "hosts" not in found
    assert "the broker" not in found
    shop.wait_for(ids)
    wait_until(lambda: answers(shop), "not all workers answer")


def test_a_broker_and_a_host_that_are_away_are_found_and_the_rest_is_examined(shop: Shop, doctor: Doctor) -> None:
    try:
        with shop.altered("broker1", f"systemctl stop {UNIT}", f"systemctl start {UNIT}"):
            cut_off("control1")
            found = doctor(celery_doctor_window_hours=0, celery_doctor_min_disk_free=99.99)
    finally:
        start(shop.host("control1"), "control1")
    assert told(found, "hosts", "control1", "could not be examined")
    assert told(found, "the broker", f"{BROKER} on broker1", "worker1 can't query it", "No task is sent")
    assert told(found, "the broker", f"{BROKER} on broker1", "does not answer on its own host")
    assert told(found, "disks", "worker2")
    assert set(found) == {"hosts", "the broker", "disks"}
    wait_until(lambda: answers(shop), "not all workers answer")


def memory(shop: Shop) -> str:
    """Return what sets the broker's memory as it is now."""
    if BROKER == "redis":
        bytes_ = shop.output(f"{REDIS} config get maxmemory", "broker1").split()[-1]
        return f"{REDIS} config set maxmemory {bytes_}"
    limit = "sed -n 's/^vm_memory_high_watermark.absolute = //p' /etc/rabbitmq/conf.d/50-limits.conf"
    return f"rabbitmqctl set_vm_memory_high_watermark absolute $({limit})"


def test_a_broker_that_complains_is_found(shop: Shop, doctor: Doctor) -> None:
    # Workers of a full Redis can't acknowledge what they have done (docs/reliability.md).
    number = 60 if BROKER == "rabbitmq" else 0
    waiting = shop.send(*[transcode(video, 0.2) for video in range(number)])
    with shop.altered("broker1", ALARM, memory(shop)):
        # The backlog that raises an alarm shrinks, though RabbitMQ takes no events and replies of the workers.
        if waiting:
            shop.wait_for(waiting)
        found = doctor(celery_doctor_window_hours=0, celery_doctor_min_disk_free=1)
    words = {"rabbitmq": "Memory alarm", "redis": "memory is full"}[BROKER]
    assert told(found, "the broker", f"{BROKER} on broker1", words, "docs/alerts.md")
    assert set(found) == {"the broker"}
    wait_until(lambda: answers(shop), "not all workers answer")
    assert len(shop.run(call("customers.noop"))) == 1
    if waiting:
        assert len(shop.wait_for(waiting)) == number, "a task was done twice"
