"""Beat runs once in the fleet, whatever the inventory says, and goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from shared.deployed import Shop, wait_until

testinfra_hosts = ["ansible://debian12"]
HOSTS = ("debian12", "debian13")
CONVERGE = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml"
SCHEDULE = "/var/lib/shop/celerybeat-schedule"
# Of a copy: beat has the file locked.
LAST_RUN = (
    f'cp {SCHEDULE} /var/tmp/schedule && /srv/shop/current/venv/bin/python -c "import shelve; '
    "s = shelve.open('/var/tmp/schedule', 'r'); print(s['entries']['heartbeat'].total_run_count)\""
)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="debian12", hosts=HOSTS)


def beats(shop: Shop) -> dict[str, int]:
    """Return how many beat processes each host runs."""
    return {name: int(shop.output("pgrep -u shop -fc '[c]elery.* beat ' || true", name)) for name in HOSTS}


def ticks(shop: Shop) -> int:
    return sum(line["event"] == "done" and line["task"] == "ticks.heartbeat" for line in shop.ledger())


def test_one_beat_runs_though_two_hosts_are_in_its_group(shop: Shop) -> None:
    assert beats(shop) == {"debian12": 1, "debian13": 0}
    assert "shop-beat" not in shop.pids("debian13")


def test_what_it_sends_is_done_by_the_worker(shop: Shop) -> None:
    before = ticks(shop)
    wait_until(lambda: ticks(shop) > before, "no tick is done")


@pytest.mark.parametrize("command", ["supervisorctl restart shop-beat", "kill -9 $(supervisorctl pid shop-beat)"])
def test_its_schedule_survives_a_restart_and_a_kill(shop: Shop, command: str) -> None:
    pid = shop.pid("debian12", "shop-beat")
    runs = int(shop.output(LAST_RUN, "debian12"))
    shop.output(command, "debian12")
    wait_until(lambda: shop.pids("debian12").get("shop-beat", pid) != pid, "beat does not come back")
    before = ticks(shop)
    wait_until(lambda: ticks(shop) > before, "no tick is done after it came back")
    assert int(shop.output(LAST_RUN, "debian12")) >= runs, "it began a new schedule"
    assert beats(shop) == {"debian12": 1, "debian13": 0}


def rebuild(**variables: object) -> str:
    """Build the fleet anew with some variables changed and return what Ansible printed."""
    run = subprocess.run(
        ["ansible-playbook", str(CONVERGE), "--tags", "workers,beat", "-e", json.dumps(variables)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    return run.stdout


def test_what_moves_to_another_host_is_gone_from_the_old_one(shop: Shop) -> None:
    worker = {"name": "ticks", "queues": ["ticks"], "concurrency": 1}
    # The worker joins beat, and leaves a host that has nothing to do any more.
    rebuild(celery_workers=[{**worker, "group": "broker"}])
    assert set(shop.pids("debian12")) == {"shop-ticks", "shop-beat"}
    assert not shop.pids("debian13")

    # Both go back there, and leave theirs to the broker.
    output = rebuild(celery_beat_group="other")
    assert not shop.pids("debian12")
    assert set(shop.pids("debian13")) == {"shop-ticks", "shop-beat"}
    assert beats(shop) == {"debian12": 0, "debian13": 1}
    stop = output.index("Remove beat from all other hosts")
    assert stop < output.index("PLAY [Run beat]"), "for a moment there were two"
    before = ticks(shop)
    wait_until(lambda: ticks(shop) > before, "no tick is done from the new host")
