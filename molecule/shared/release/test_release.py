"""Releases under load: good ones, bad ones, and those in which something breaks. Each test leaves a whole fleet."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore
from shared.deployed import RUN, Shop, call, now, transcode, wait_until
from shared.lab import cut_off, reboot, start
from shared.playbook import PLAYBOOKS, changes, converge, run_playbook, started_playbook
from shop.ledger import Tally, count

testinfra_hosts = ["ansible://control1"]
ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "example"
# Short tasks and long ones, on workers that come to a release warm and by handover; each fan-out sends ten more.
LOAD = [
    call("customers.sync", 1),
    call("customers.fan_out", 100),
    call("email.send_order_confirmation", 1, "a@shop.example"),
    transcode(1, 0.05),
    call("reports.build", "2026-05", 0.2),
]
# Load is steady, so there is enough to judge by soon.
QUICK = {"celery_rollout_observe_seconds": 10}
WORKERS = ("worker1", "worker2")
# Of what a playbook said, where it is not what it should have.
SHOWN = 4000
BROKER = os.environ["MOLECULE_SCENARIO_NAME"].rpartition("_")[2]
whatever_the_broker = pytest.mark.skipif(
    BROKER != "rabbitmq",
    reason="the broker makes no difference: tried on RabbitMQ",
)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="control1", hosts=("worker1", "worker2", "control1"))


def play(name: str, *options: str, **variables: Any) -> str:
    """Run one of the playbooks and return what it prints, in one line; it must succeed."""
    run = run_playbook(PLAYBOOKS / f"{name}.yml", *options, **QUICK | variables)
    assert run.returncode == 0, run.stdout[-SHOWN:] + run.stderr
    return " ".join(run.stdout.split())


def refused(name: str, *options: str, **variables: Any) -> str:
    """Run one of the playbooks, which must fail, and return what it prints in one line."""
    return told(run_playbook(PLAYBOOKS / f"{name}.yml", *options, **QUICK | variables))


def told(run: subprocess.CompletedProcess[str]) -> str:
    """Return what a run that must have failed printed, in one line."""
    assert run.returncode != 0, run.stdout[-SHOWN:]
    return " ".join((run.stdout + run.stderr).replace("''", "'").split())


@pytest.fixture
def status(tmp_path: Path) -> Any:
    """Return what playbooks/status.yml says of each host, when it is called."""

    def read() -> dict[str, Any]:
        play("status", celery_status_file=str(tmp_path / "status.json"))
        found: dict[str, Any] = json.loads((tmp_path / "status.json").read_text(encoding="utf-8"))
        return found

    return read


# The release that a host points to, and then a line a program: name, state, release of its process, if it has one.
LOOK = r"""
basename $(readlink /srv/shop/current)
supervisorctl status | while read -r name state _ pid _; do
  [ "$state" != RUNNING ] || release=$(tr '\0' '\n' </proc/${pid%,}/environ | sed -n 's/^CELERY_APP_RELEASE=//p')
  echo $name $state $release
  release=
done
"""


# How many of the workers' programs are from the inventory's own template, and how many there are.
OWN_TEMPLATE = """
cd /etc/supervisor/conf.d
grep -l "^; From the user's own template" shop.worker.*.conf | wc -l
ls shop.worker.*.conf | wc -l
"""


def releases_of(shop: Shop) -> set[str]:
    """Return the releases that the hosts point to and their processes run on; those that end tasks don't count."""
    found = set()
    for host in shop.hosts:
        shop.pids(host)  # Waits until Supervisor knows of each program whether it stays up.
        current, *lines = shop.output(LOOK, host).splitlines()
        programs = [line.split() for line in lines]
        # Of a worker that handed over, Supervisor remembers the other slot.
        at_work = {program[0][:-2] for program in programs if program[1] == "RUNNING"}
        others = [program for program in programs if program[1] != "STOPPED" or program[0][:-2] not in at_work]
        assert {program[1] for program in others} <= {"RUNNING", "STOPPING"}, (host, programs)
        found |= {current} | {program[2] for program in programs if program[1] == "RUNNING"}
    return found


def runs(found: dict[str, Any]) -> set[str]:
    """Return the releases that the fleet's hosts point to and its programs run on; those that end tasks don't count."""
    programs = [item for host in found.values() for item in host["programs"] if item["state"] != "STOPPING"]
    # A worker is at work before Supervisor says that it stays up.
    assert {item["state"] for item in programs} <= {"STARTING", "RUNNING"}, programs
    return {host["current"] for host in found.values()} | {item["release"] for item in programs}


def tally(shop: Shop, ids: list[str], since: str, on_their_way: int = 0) -> Tally:
    """Return what became of tasks and of what they sent, once none is open.

    Args:
        since: when the first was sent, or before.
        on_their_way: so many may stay open that were sent, and that no worker began since.
    """

    def settled() -> Tally | None:
        lines = sorted(shop.ledger(since=since), key=lambda line: str(line["time"]))
        last = {line["id"]: line["event"] for line in lines}
        found = count(map(json.dumps, lines), ids)
        begun = [task_id for task_id in found.lost_ids if last[task_id] != "sent"]
        return found.total if not begun and found.total.lost <= on_their_way else None

    total: Tally = wait_until(settled, "tasks are lost")
    return total


@contextmanager
def load(shop: Shop) -> Iterator[None]:
    """Send tasks all the time; at the end each must have been done, once."""
    since = now()
    with flow(shop) as ids:
        yield
    total = tally(shop, ids, since)
    assert total.sent > len(ids) > len(LOAD), "no task was sent"
    assert (total.done, total.repeated) == (total.sent, 0)


@contextmanager
def flow(shop: Shop) -> Iterator[list[str]]:
    """Send tasks all the time, from before to after the block; their ids are in the list then."""
    since = now()
    with shop.flow(*LOAD, every=1.0) as ids:
        wait_until(lambda: len(shop.ledger(since=since)) > len(LOAD), "no task runs")
        yield ids


def ample(shop: Shop) -> int:
    """Return seconds in which a worker starts, or ends short tasks, on this machine for certain, busy as it may be."""
    began = monotonic()
    shop.output(f"{RUN} celery -A shop.celery:app report")
    return 15 + round(10 * (monotonic() - began))


def bad(tmp_path: Path, path: str, old: str, new: str) -> str:
    """Return a copy of the shop that differs in a text."""
    source = tmp_path / "shop"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    file = source / path
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    return str(source)


def test_a_release_loses_and_repeats_nothing(shop: Shop, status: Any) -> None:
    with load(shop):
        play("deploy", celery_app_version="1.1.0")
        assert runs(status()) == {"1.1.0"}
    assert {line["release"] for line in shop.ledger() if line["event"] == "done"} == {"1.0.0", "1.1.0"}


def test_back_and_forth_while_an_old_worker_still_ends_its_tasks(shop: Shop) -> None:
    at_once = {"celery_rollout_batches": ["100%"], "celery_rollout_observe_seconds": 0}
    with load(shop):
        report = shop.report("2026-06")
        play("rollback", **at_once)
        # Handed over: it was not waited for, nor broken off.
        assert not shop.events([report.id], "done"), "it took as long as the longest task"
        # Nor does the removal of beat from its host wait for it.
        assert changes(converge("--tags", "beat")) == {0}
        # The next one waits for the slot of the old worker, and says for what.
        with started_playbook(PLAYBOOKS / "rollback.yml", **at_once) as run:
            run.wait_for(r"shop-reports-\w is finishing its tasks: 1 in flight, the oldest, reports\.build, for \d+ s")
            report.finish()
            assert run.end().returncode == 0
        (line,) = shop.wait_for([report.id])
    assert line["release"] == "1.1.0"
    assert len(shop.events([report.id], "started")) == 1
    assert releases_of(shop) == {"1.1.0"}


@whatever_the_broker
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import not_there", "No module named 'not_there'"),
        (
            "import os, sys\nif 'worker' in sys.argv:\n    sys.exit('no price list')",
            "exits again and again. The end of its log: .*no price list",
        ),
        (
            "import os, sys, time\nif 'worker' in sys.argv:\n    time.sleep(3600)",
            r"shop-\S+ does not answer after \d+ s",
        ),
    ],
    ids=["does-not-import", "dies-at-start", "hangs-at-start"],
)
def test_a_release_that_does_not_come_up_is_taken_back(shop: Shop, tmp_path: Path, code: str, reason: str) -> None:
    before = {host: shop.pids(host) for host in WORKERS}
    source = bad(tmp_path, "shop/celery.py", "import os\n", f"{code}\nimport os\n")
    with load(shop):
        # Each has a version of its own, as each is something else.
        bad_release = {"celery_app_version": f"2.0.{len(code)}", "celery_app_source": source}
        said = refused("deploy", **bad_release, celery_rollout_start_timeout=ample(shop))
    assert re.search(reason, said), said[-SHOWN:]
    assert releases_of(shop) == {"1.1.0"}
    staged = "not_there" in code
    assert ("No worker was touched" in said) == staged, said[-SHOWN:]
    untouched = WORKERS if staged else ("worker2",)
    assert all(shop.pids(host) == before[host] for host in untouched)


@whatever_the_broker
def test_a_release_that_fails_its_tasks_is_taken_back(shop: Shop, status: Any, tmp_path: Path) -> None:
    source = bad(
        tmp_path,
        "shop/customers/tasks.py",
        "    if self.request.retries < ",
        "    raise KeyError\n    if self.request.retries < ",
    )
    since = now()
    with flow(shop) as ids:
        said = refused("deploy", celery_app_version="2.1.0", celery_app_source=source)
    assert re.search(r"on worker1, \d+ of \d+ tasks failed \(\d+%; baseline: 0%\)", said), said[-SHOWN:]
    assert "worker1: runs on 1.1.0" in said, said[-SHOWN:]
    found = status()
    assert runs(found) == {"1.1.0"}
    assert "2.1.0" not in {host["previous"] for host in found.values()}, "the next way back leads to the bad release"
    total = tally(shop, ids, since)
    assert total.failed > 0, "the release failed no task"
    assert (total.done + total.failed, total.repeated) == (total.sent, 0)
    assert {line["host"] for line in shop.ledger() if line["release"] == "2.1.0"} == {"worker1"}


def test_a_host_that_goes_away_in_the_middle_stops_the_release(shop: Shop) -> None:
    since = now()
    with flow(shop) as ids:
        with started_playbook(PLAYBOOKS / "deploy.yml", **QUICK, celery_app_version="1.3.0") as run:
            wait_until(lambda: current(shop, "worker1") == "1.3.0", "the first host does not come to the release")
            cut_off("worker2")
            try:
                said = told(run.end())
            finally:
                start(shop.host("worker2"), "worker2")
        assert "worker2: unreachable" in said, said[-SHOWN:]
        assert "worker1: runs on 1.1.0" in said, said[-SHOWN:]
        wait_until(lambda: len(shop.pids("worker2")) == 4, "its workers do not come up")
        play("sweep")
        play("deploy", celery_app_version="1.3.0")
    assert releases_of(shop) == {"1.3.0"}
    # Redis has no record of what it was about to hand to a worker when the host lost its power: one message each.
    on_their_way = 4 if BROKER == "redis" else 0
    total = tally(shop, ids, since, on_their_way)
    # What a host was at is run again, done or not.
    assert total.done + total.lost == total.sent > len(ids)


@whatever_the_broker
def test_a_controller_that_is_killed_in_the_middle_goes_on_when_it_is_run_again(shop: Shop) -> None:
    with load(shop):
        with started_playbook(PLAYBOOKS / "deploy.yml", **QUICK, celery_app_version="1.4.0") as run:
            wait_until(lambda: current(shop, "worker1") == "1.4.0", "the first host does not come to the release")
            # No second one while the first is at work.
            assert "Another rollout holds the lock" in refused("deploy", celery_app_version="1.5.0")
            run.kill()
        output = play("deploy", celery_app_version="1.4.0")
        assert "Took over the stale lock of another rollout" in output
    assert releases_of(shop) == {"1.4.0"}


def current(shop: Shop, host: str) -> str:
    return Path(shop.output("readlink /srv/shop/current", host).strip()).name


def kept(shop: Shop, host: str) -> list[str]:
    """Return the releases that are on a host, the oldest first."""
    return shop.output("ls -tr /srv/shop/releases", host).split()


def test_what_is_unfinished_at_the_deadline_of_a_drain_goes_to_others(shop: Shop, status: Any) -> None:
    before = releases_of(shop)
    with load(shop):
        assert "No worker would consume reports, video." in refused("drain", "--limit", "worker2")
        report = shop.report("2026-07")
        # It is asked about each 15 s: often enough that the loop is one.
        deadline = 50 + ample(shop)
        output = play("drain", "--limit", "worker2", celery_drain_deadline=deadline, celery_drain_force=True)
        assert len(re.findall(r"worker2: shop-reports-\w is finishing its tasks: 1 in flight", output)) > 2
        assert re.search(r"msg: shop-reports-\w did not finish before the deadline", output)
        # It handed its task back, so that nothing of it waits for others to find it.
        if BROKER == "redis":
            assert "0 tasks were requeued" in output
        assert "Cold shutdown" in shop.output("cat /var/log/shop/shop-reports-*.log", "worker2")
        assert shop.pids("worker2") == {}
        found = status()["worker2"]
        assert found["drained"]
        # It comes back with the host as little as with a release.
        reboot(shop.host("worker2"), "worker2")
        assert shop.pids("worker2") == {}
        report.finish()
        play("undrain", "--limit", "worker2")
        assert not status()["worker2"]["drained"]
        shop.wait_for([report.id])
    assert len(shop.events([report.id], "started")) == 2
    assert releases_of(shop) == before


@pytest.mark.parametrize("by", [pytest.param("supervisor", marks=whatever_the_broker), "remote_control"])
def test_a_restart_takes_what_it_was_told_and_nothing_else(shop: Shop, by: str) -> None:
    before = {host: shop.pids(host) for host in WORKERS}
    with load(shop):
        play(
            "restart",
            celery_restart_queues=["video"],
            celery_restart_programs=["shop-email"],
            celery_rollout_stop_method=by,
        )
    for host, pids in before.items():
        after = shop.pids(host)
        assert len(after) == len(pids), (host, pids, after)
        restarted = {name for name in pids if after.get(name) != pids[name]}
        expected = {name for name in pids if name.startswith(("shop-email-", "shop-video"))}
        assert restarted == expected, (host, pids, after)


# Prints how many logins the broker refused.
REFUSALS = {
    "rabbitmq": "cat /var/log/rabbitmq/*.log | grep -c -e 'invalid credentials' -e ACCESS_REFUSED || true",
    "redis": """
        export REDISCLI_AUTH=$(cat /var/lib/celery-fleet/redis/administrator.password)
        redis-cli -s /run/redis/redis.sock --user shop-admin ACL LOG 100 |
        awk '/^count$/ { getline; count = $1 } /^auth$/ { refused += count } END { print refused + 0 }'
    """,
}
LOGIN = """
import sys
from shop.celery import app
with app.connection(sys.argv[1]) as connection:
    connection.connect()
    connection.channel()
"""
# Set in the inventory on RabbitMQ, generated on Redis.
OWN = {"rabbitmq_application_password": "another, 100% @ / : ' #"} if BROKER == "rabbitmq" else {}


def broker_url(shop: Shop, file: str = "/etc/shop/environment") -> str:
    return shop.output(f'set -a; . {file}; echo "$CELERY_BROKER_URL"').strip()


def accepted(shop: Shop, url: str) -> bool:
    """Return whether the broker accepts a user and a password."""
    run = shop.host(shop.sender).run(f"{RUN} python -c {shlex.quote(LOGIN)} {shlex.quote(url)}")
    assert run.rc == 0 or re.search("ACCESS_REFUSED|invalid username-password", run.stderr), run.stderr
    return bool(run.rc == 0)


@contextmanager
def no_login_refused(shop: Shop) -> Iterator[None]:
    connected = Shop(shop.sender, ())
    before = connected.output(REFUSALS[BROKER], "broker1")
    yield
    assert connected.output(REFUSALS[BROKER], "broker1") == before


def test_rotated_passwords_refuse_no_client_and_lose_no_task(shop: Shop) -> None:
    old, releases = broker_url(shop), releases_of(shop)
    with no_login_refused(shop):
        report = shop.report("2026-08")
        # What sends the tasks is in no inventory, so it keeps the earlier password.
        with load(shop):
            play("rotate", **OWN, celery_rotate=[f"{BROKER}_application"], celery_rotate_finish=False)
            new = broker_url(shop)
            assert new != old
            assert accepted(shop, old)
            assert accepted(shop, new)
        with load(shop), started_playbook(PLAYBOOKS / "rotate.yml", **QUICK, **OWN, celery_rotate_finish=True) as run:
            # Handed over, and still with the earlier password.
            run.wait_for(r"RETRYING: \[\w+\]: Wait for workers that finish their tasks")
            assert accepted(shop, old)
            report.finish()
            ended = run.end()
            assert ended.returncode == 0, ended.stdout[-SHOWN:] + ended.stderr
        shop.wait_for([report.id])
    assert len(shop.events([report.id], "started")) == 1
    assert accepted(shop, new)
    assert not accepted(shop, old)
    for url in (old, new):
        password = url.split("@")[0].rpartition(":")[2]
        assert password not in ended.stdout + ended.stderr
        assert unquote(password) not in ended.stdout + ended.stderr
    assert releases_of(shop) == releases
    assert changes(converge(**OWN)) == {0}


@whatever_the_broker
def test_a_rotation_that_is_killed_goes_on_when_it_is_run_again(shop: Shop) -> None:
    old, name = broker_url(shop), f"{BROKER}_application"
    with no_login_refused(shop):
        with load(shop):
            with started_playbook(PLAYBOOKS / "rotate.yml", **QUICK, celery_rotate=[name]) as run:
                run.wait_for("Activating The rotation on batch 1")
                assert "Another rollout holds the lock" in refused("rotate", celery_rotate=[name])
                run.kill()
            new = broker_url(shop)
            assert new != old
            assert "connected with an earlier password, which stays valid" in refused("rotate")
            assert accepted(shop, old)
            assert accepted(shop, new)
        with load(shop):
            assert "All passwords are rotated" in play("rotate")
    assert broker_url(shop) == new
    assert accepted(shop, new)
    assert not accepted(shop, old)
    assert changes(converge()) == {0}


@pytest.mark.skipif(BROKER != "redis", reason="the broker makes no difference: tried on Redis")
def test_web_servers_have_both_passwords_until_their_rotation_is_finished(shop: Shop) -> None:
    file, name = "/etc/shop-producer/environment", f"{BROKER}_producer"
    old = broker_url(shop, file)
    assert f"The earlier values of {name} are still valid" in play("rotate", celery_rotate=[name])
    new = broker_url(shop, file)
    assert new != old
    assert changes(converge()) == {0}
    assert accepted(shop, old)
    assert accepted(shop, new)
    play("rotate", celery_rotate_finish=True)
    assert broker_url(shop, file) == new
    assert accepted(shop, new)
    assert not accepted(shop, old)
    assert changes(converge()) == {0}


@whatever_the_broker
def test_a_release_on_one_host_alone(shop: Shop) -> None:
    before = shop.pids("worker2")
    play("deploy", "--limit", "worker1", celery_app_version="1.5.0")
    assert {host: current(shop, host) for host in WORKERS} == {"worker1": "1.5.0", "worker2": "1.4.0"}
    assert shop.pids("worker2") == before
    play("rollback", "--limit", "worker1", celery_app_version="1.4.0")
    assert releases_of(shop) == {"1.4.0"}


@whatever_the_broker
def test_a_check_says_what_would_happen_and_changes_nothing(shop: Shop) -> None:
    before = {host: shop.pids(host) for host in WORKERS}
    output = play("deploy", "--check", "--diff", celery_app_version="1.6.0")
    assert "worker1: shop-customers would be restarted on 1.6.0" in output
    assert re.search(r"worker2: shop-reports-\w would be restarted on 1.6.0", output)
    assert "worker2: shop-video would be stopped" in play(
        "drain", "--check", "--limit", "worker2", celery_drain_force=True
    )
    assert {host: shop.pids(host) for host in WORKERS} == before
    assert releases_of(shop) == {"1.4.0"}
    assert not any("1.6.0" in kept(shop, host) for host in shop.hosts)


@whatever_the_broker
def test_old_releases_go_but_none_that_runs(shop: Shop) -> None:
    oldest = kept(shop, "worker1")[0]
    held = f"sh -c 'VIRTUAL_ENV=/srv/shop/releases/{oldest}/venv nohup sleep 300 >/dev/null 2>&1 & echo $!'"
    pid = shop.output(held, "worker1").strip()
    play("deploy", celery_app_version="1.6.0", celery_rollout_keep_releases=2)
    assert set(kept(shop, "worker1")) == {oldest, "1.4.0", "1.6.0"}
    assert set(kept(shop, "worker2")) == {"1.4.0", "1.6.0"}
    shop.output(f"kill {pid}", "worker1")


@whatever_the_broker
@pytest.mark.parametrize(
    ("name", "variables", "reason"),
    [
        ("rollback", {"celery_app_version": "9.9.9"}, "Release 9.9.9 is not installed on worker1, which has .*1.6.0"),
        ("restart", {"celery_restart_queues": ["vidoe"]}, "vidoe: not a program or queue of a worker"),
        ("deploy", {"celery_app_version": "../1"}, "celery_app_version '../1' can't name a release"),
        (
            "deploy",
            {"celery_app_version": "1.7.0", "celery_rollout_batches": ["1", "200%", "few"]},
            r"'200%' is neither a number of hosts nor a percentage\. .*'few' is neither",
        ),
        ("drain", {}, "No worker would consume customers, email, reports, ticks, video."),
        (
            "broker_restore",
            {"celery_broker_backup_file": "/nowhere/backup.txt", "celery_broker_backups": 0},
            "does not exist on this machine.*is no backup of (redis|rabbitmq).*celery_broker_backups: is 0",
        ),
        (
            "rotate",
            {"celery_rotate": ["rabbitmq_applicaton", "prometheus"]},
            "prometheus.*: not a secret of this fleet",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_touched(
    shop: Shop, name: str, variables: dict[str, Any], reason: str
) -> None:
    before = {host: shop.pids(host) for host in WORKERS}
    assert re.search(reason, refused(name, **variables))
    assert {host: shop.pids(host) for host in WORKERS} == before


@pytest.mark.skipif(BROKER != "redis", reason="a backup of RabbitMQ has no tasks")
def test_a_backup_has_the_tasks_of_its_time(shop: Shop, tmp_path: Path) -> None:
    def control(command: str) -> None:
        nodes = ",".join(f"customers@{host}" for host in WORKERS)
        shop.output(f"{RUN} celery -A shop.celery:app control {command} customers --timeout 60 -d {nodes}")

    control("cancel_consumer")
    waiting = shop.send(call("customers.noop"), call("customers.noop"))
    play("broker_backup", celery_broker_backup_dir=str(tmp_path))
    (backup,) = tmp_path.glob("broker1/*")
    assert [oct(path.stat().st_mode) for path in (backup, backup.parent)] == ["0o100600", "0o40700"]
    control("add_consumer")
    shop.wait_for(waiting)

    reason = refused("broker_restore", celery_broker_backup_file=str(backup))
    assert re.search(r"celery_broker_restore_replace: \d+ keys of redis would be replaced", reason)
    restored = now()
    play("broker_restore", celery_broker_backup_file=str(backup), celery_broker_restore_replace=True)
    wait_until(lambda: len(shop.events(waiting, "done", restored)) == len(waiting), "tasks of the backup do not run")


@pytest.mark.skipif(BROKER != "rabbitmq", reason="a backup of Redis has its tasks")
def test_a_backup_has_what_others_have_on_the_broker(shop: Shop, tmp_path: Path) -> None:
    remove = "rabbitmqctl delete_vhost others && rabbitmqctl delete_user others-app"
    shop.output("rabbitmqctl add_vhost others && rabbitmqctl add_user others-app secret", "broker1")
    play("broker_backup", celery_broker_backup_dir=str(tmp_path))
    (backup,) = tmp_path.glob("broker1/*")
    assert [oct(path.stat().st_mode) for path in (backup, backup.parent)] == ["0o100600", "0o40700"]
    shop.output(remove, "broker1")
    play("broker_restore", celery_broker_backup_file=backup.name)
    assert "others" in shop.output("rabbitmqctl --silent list_vhosts", "broker1").split()
    assert "others-app" in shop.output("rabbitmqctl --silent list_users", "broker1").split()
    shop.output(remove, "broker1")
    shop.run(call("customers.noop"))


def test_remote_control_reaches_each_worker_after_all_that(shop: Shop, status: Any) -> None:
    def reached() -> bool:
        answer = json.loads(shop.output(f"{RUN} celery -A shop.celery:app inspect ping --timeout 10 --json"))
        found = status()
        programs = [item["name"] for host in WORKERS for item in found[host]["programs"]]
        return sorted(node.partition("@")[0] for node in answer) == sorted(
            name.removeprefix("shop-") for name in programs
        )

    # A worker that handed over to another, and ends, answers until it has ended.
    wait_until(reached, "others answer than there are")


def test_a_template_of_the_users_own_holds_after_all_that(shop: Shop) -> None:
    for host in ("worker1", "worker2"):
        own, programs = shop.output(OWN_TEMPLATE, host).splitlines()
        assert own == programs != "0", host


@pytest.mark.skipif(BROKER != "redis", reason="the scenario of RabbitMQ does not encrypt them")
def test_secrets_are_encrypted_after_all_that() -> None:
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    store = SecretStore(ROOT / ".lab" / f"fleet-{scenario.name}" / "secrets", encrypted=True)
    assert {"redis_application", "ca/ca.key"} <= set(store.names())
    assert store.plain_names() == []


def test_beat_was_never_doubled_by_all_that(shop: Shop) -> None:
    ticks = [line for line in shop.ledger() if line["event"] == "sent" and line.get("task") == "ticks.heartbeat"]
    times = sorted(datetime.fromisoformat(line["time"]) for line in ticks)
    assert len(times) > 5
    # Two would send twice in a quarter of a minute.
    assert min(later - earlier for earlier, later in pairwise(times)) > timedelta(seconds=5)
