"""A host drains by itself before its instance is interrupted, and no task is lost."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from shared.application import play
from shared.deployed import Shop, call, now, wait_until
from shared.playbook import converge

testinfra_hosts = ["ansible://debian12"]
HOST = "debian13"
UNIT = "shop-interruption.service"
METADATA = "/run/imds"
ACTION = "spot/instance-action"
MARKER = "/srv/shop/drained"
PROGRAMS = {"shop-limits", "shop-scale", "shop-threads", "shop-gevent", "shop-eventlet", "shop-solo"}
IMDS = Path(__file__).with_name("imds.py")
Announce = Callable[[float], None]


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="debian12", hosts=("debian12", HOST))


@pytest.fixture
def announce(shop: Shop) -> Iterator[Announce]:
    """Run the instance metadata service on the host. The value announces an interruption after so many seconds."""
    shop.output(f"mkdir -p {METADATA}/spot", HOST)
    run = f"systemd-run --quiet --collect --unit imds python3 -c {shlex.quote(IMDS.read_text())} {METADATA}"
    with shop.altered(HOST, run, f"systemctl stop imds; rm -r {METADATA}"):

        def announced(seconds: float) -> None:
            at = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
            notice = shlex.quote(json.dumps({"action": "terminate", "time": at}))
            shop.output(f"echo {notice} > {METADATA}/.new && mv {METADATA}/.new {METADATA}/{ACTION}", HOST)

        yield announced


def journal(shop: Shop, since: str) -> list[str]:
    moment = datetime.fromisoformat(since).timestamp()
    return shop.output(f"journalctl -u {UNIT} -o cat --since @{moment:.0f}", HOST).splitlines()


def drained(shop: Shop) -> bool:
    return bool(shop.host(HOST).file(MARKER).exists)


def programs(shop: Shop) -> list[str]:
    """Return what Supervisor has, also workers that are stopping."""
    return shop.output("supervisorctl status || true", HOST).splitlines()


def answered(shop: Shop) -> dict[str, Any]:
    """Return the notices that the host drains for."""
    state: dict[str, Any] = json.loads(shop.output("cat /run/shop-interruption/notice", HOST))
    return state


def starts_and_ends(shop: Shop, ids: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Return how often each task was started, and how often it was done."""
    events = [(line["event"], line["id"]) for line in shop.ledger(ids)]
    return tuple(Counter(task for event, task in events if event == kind) for kind in ("started", "done"))  # type: ignore[return-value]


def test_without_a_metadata_service_it_waits_and_logs_one_line(shop: Shop) -> None:
    boot = "systemctl show -P NRestarts -P ActiveState " + UNIT
    assert shop.output(boot, HOST).split() == ["0", "active"]
    shop.output(f"systemctl restart {UNIT}", HOST)
    since = now()
    # Each poll fails within milliseconds, as nothing listens.
    time.sleep(5)
    lines = [line for line in journal(shop, since) if "unavailable" in line]
    assert len(lines) <= 1
    assert shop.output(boot, HOST).split() == ["0", "active"]
    assert not drained(shop)


def test_a_group_without_notices_has_the_command_only(shop: Shop) -> None:
    assert shop.host("debian12").run(f"systemctl cat {UNIT}").rc != 0
    shop.output("test -x /srv/shop/bin/celery_drain_host", "debian12")


def test_root_runs_nothing_that_another_user_can_write(shop: Shop) -> None:
    files = (
        "/srv/shop/bin/celery_drain_host /etc/shop/interruption.json /srv/shop/runtime/celery_fleet_runtime/services/*"
    )
    above = "/srv /srv/shop /srv/shop/bin /srv/shop/runtime /srv/shop/runtime/celery_fleet_runtime /etc/shop"
    for line in shop.output(f"stat -c '%U %A %n' {files} {above}", HOST).splitlines():
        owner, mode, _ = line.split(maxsplit=2)
        assert owner == "root", line
        assert mode[5] + mode[8] == "--", line


def test_a_host_is_drained_before_the_interruption_and_no_task_is_lost(shop: Shop, announce: Announce) -> None:
    seconds, queue = 40, "scale13"
    (long,) = shop.send(call("reports.build", "2026-08", 45, queue=queue))
    shop.wait_for([long], "started")
    short = shop.send(*[call("reports.build", "2026-09", 6, queue=queue)] * 12)
    wait_until(lambda: shop.events(short, "started"), "no short task starts")
    since, began = now(), time.monotonic()
    announce(seconds)
    wait_until(lambda: drained(shop), "the notice is not seen", timeout=10, interval=0.2)
    wait_until(lambda: not programs(shop), "workers run on", timeout=seconds, interval=0.2)
    took = time.monotonic() - began
    # SIGQUIT comes 15 s before the end.
    assert seconds - 16 <= took < seconds
    lines = journal(shop, since)
    assert [line for line in lines if line.startswith("Notice of spot-interruption (terminate at ")]
    assert [line for line in lines if line.startswith("Interrupted the tasks of shop-scale ")]
    assert lines[-1].startswith("All workers have stopped.")
    assert "Cold shutdown" in shop.output("cat /var/log/shop/shop-scale.log", HOST)
    state = answered(shop)
    assert [kind for kind, _ in state["notices"]] == ["spot-interruption"]
    ended = set(starts_and_ends(shop, short)[1])
    assert 0 < len(ended) < 12, "no task ended after the notice, or none waited"
    before = shop.output(f"cat {MARKER}", HOST)
    # Neither a later notice nor the restart of the service changes anything.
    announce(600)
    shop.output(f"systemctl restart {UNIT}", HOST)
    wait_until(lambda: len(answered(shop)["notices"]) == 2, "the later notice is not seen")
    after = answered(shop)
    assert (after["began"], after["end"]) == (state["began"], state["end"])
    assert shop.output(f"cat {MARKER}", HOST) == before
    assert not programs(shop)
    # A run of site.yml starts no worker.
    assert converge("--tags", "workers", "--limit", HOST).returncode == 0
    assert not programs(shop)
    # The notice still stands, and drains the host no more.
    play("undrain", "--limit", HOST)
    shop.wait_for([long, *short])
    assert not drained(shop)
    assert set(shop.pids(HOST)) == PROGRAMS
    started, ends = starts_and_ends(shop, [long, *short])
    assert ends == Counter([long, *short])
    assert started == Counter([long, long, *short]), "a task was repeated that need not be"


def test_the_drain_command_keeps_its_deadline_without_a_controller(shop: Shop) -> None:
    queue = "scale13"
    (long,) = shop.send(call("reports.build", "2026-10", 45, queue=queue))
    shop.wait_for([long], "started")
    began = time.monotonic()
    # Not from the directory of another user, whose modules would be root's.
    shop.output("mkdir -p /tmp/evil/celery_fleet_runtime && touch /tmp/evil/celery_fleet_runtime/__init__.py", HOST)
    output = shop.output("cd /tmp/evil && /srv/shop/bin/celery_drain_host --deadline 20", HOST)
    took = time.monotonic() - began
    assert output.splitlines() == [
        "Draining this host within 20 s",
        "Interrupted the tasks of shop-scale shortly before the deadline",
        "All workers have stopped. Undrain the host by playbooks/undrain.yml",
    ]
    assert 10 <= took < 20
    assert not programs(shop)
    refused = shop.host(HOST).run("/srv/shop/bin/celery_drain_host --deadline -5")
    assert refused.rc == 2
    assert "-5 is not a positive number of seconds" in refused.stderr
    play("undrain", "--limit", HOST)
    shop.wait_for([long])
    started, ends = starts_and_ends(shop, [long])
    assert (started[long], ends[long]) == (2, 1)
