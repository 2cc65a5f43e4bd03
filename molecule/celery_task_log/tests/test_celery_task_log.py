"""Ends of tasks are found by their fields, brought to a file once, bounded, and those that are missing are counted."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

from shared.deployed import wait_until

CONVERGE = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml"
JOURNAL = "journalctl --namespace=shop --quiet --output=cat SYSLOG_IDENTIFIER=celery"
FAILURES = f"{JOURNAL} CELERY_TASK=customers.sync CELERY_STATE=FAILURE --since -24h"
TASKS = "/var/log/shop-tasks/tasks.jsonl"


def refused(host: Any, processes: int = 1, tasks: int = 0) -> int:
    """Tell of so many tasks from each of some processes; return how many of all, ever, the journal did not take."""
    command = "runuser -u shop -- python3 /srv/shop/runtime/tell.py %s %s"
    return int(host.check_output(command, str(processes), str(tasks)))


def tell(host: Any, processes: int, tasks: int) -> int:
    """Tell of so many tasks from each of some processes; returns how many of them the journal took."""
    before = refused(host)
    return processes * tasks - (refused(host, processes, tasks) - before)


def metrics(host: Any) -> dict[str, float]:
    lines = host.run("cat /var/lib/metrics/celery-shop-task-log.prom").stdout.splitlines()
    samples = (line.split() for line in lines if not line.startswith("#"))
    told = {name.removesuffix('{app="shop"}').removeprefix("celery_task_log_"): float(value) for name, value in samples}
    return defaultdict(float, told)


def written(host: Any) -> int:
    return int(host.check_output(f"{JOURNAL} | wc -l"))


def known(host: Any) -> float:
    """Return of how many ends the shipper knows what became of them."""
    found = metrics(host)
    return found["sent_total"] + found["lost_total"]


def rebuild(host: Any, **variables: object) -> None:
    name = host.backend.get_hostname()
    subprocess.run(
        ["ansible-playbook", str(CONVERGE), "--limit", name, "-e", json.dumps(variables)],
        capture_output=True,
        text=True,
        check=True,
    )


def test_failures_of_a_task_are_one_question(host: Any) -> None:
    before, in_journal = known(host), written(host)
    # Ten of them fail. A journal on a busy machine does not take them all, and writes down later what it took.
    taken = tell(host, 1, 1000)
    wait_until(lambda: written(host) - in_journal == taken, f"the journal has not the {taken} that it took")
    found = [json.loads(line) for line in host.check_output(FAILURES).splitlines()]
    assert {(end["task"], end["state"], end["queue"], end["wait"], end["run"]) for end in found} == {
        ("customers.sync", "FAILURE", "email", 0.5, 0.25)
    }
    assert len(found) >= 2
    assert found[-1]["exception"].endswith("ü" * 900)
    assert host.run(f"runuser -u nobody -- {FAILURES}").stdout == ""
    wait_until(lambda: known(host) >= before + taken, "they don't get to the file")
    ends = [json.loads(line) for line in host.check_output(f"cat {TASKS}").splitlines()]
    assert [end["number"] for end in ends if end["state"] == "FAILURE"] == [end["number"] for end in found]


def test_a_restart_repeats_and_leaves_out_nothing(host: Any) -> None:
    before = known(host) + refused(host)
    for _ in range(3):
        refused(host, 1, 500)
        host.check_output("systemctl restart shop-task-log")
    wait_until(lambda: known(host) + refused(host) == before + 3 * 500, "some are missing, or there twice")


def test_a_burst_is_kept_or_counted_and_the_search_stays_quick(host: Any) -> None:
    before, in_journal = known(host), written(host)
    taken = tell(host, 4, 25_000)
    wait_until(
        lambda: written(host) - in_journal == taken,
        f"the journal has not the {taken} of 100000 that it took",
    )
    wait_until(lambda: known(host) >= before + taken, "the file does not get them")
    assert float(host.check_output(f"bash -c 'TIMEFORMAT=%R; time {FAILURES} >/dev/null' 2>&1")) < 1


def test_a_dead_sink_fills_no_disk_and_what_it_missed_is_counted(host: Any) -> None:
    before = known(host)
    rebuild(
        host,
        celery_task_log_journal_size="16M",
        celery_task_log_sink="cloudwatch",
        celery_task_log_agents={},
        celery_task_log_cloudwatch_region="eu-central-1",
        celery_task_log_cloudwatch_endpoint="http://127.0.0.1:9",
        celery_task_log_cloudwatch_access_key="AKIATEST",
        celery_task_log_cloudwatch_secret_key="not/a/real/secret",
    )
    taken = tell(host, 1, 30_000)
    wait_until(lambda: metrics(host)["failures_total"] >= 2, "nobody tried")
    measure = "du -s --block-size=1M /var/log/journal/*.shop | cut -f1"
    wait_until(lambda: int(host.check_output(measure)) <= 20, "the journal takes more than it may")
    environment = host.file("/etc/shop/task-log.env")
    assert (environment.user, environment.mode) == ("root", 0o600)
    assert "not/a/real/secret" not in host.check_output("ps -eo args; cat /etc/shop/task-log.json")
    # A sink that takes them again gets those that are still there, and the others are counted.
    rebuild(host)
    assert not environment.exists
    tell(host, 1, 1)
    wait_until(lambda: known(host) >= before + taken, "some are neither sent nor counted")
    assert metrics(host)["lost_total"] > 0
