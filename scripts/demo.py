#!/usr/bin/env python3
"""The demo: boot hosts on this machine, deploy a fleet to them, run tasks, roll out a release, and kill a worker.

With a broker of three hosts, one of them loses its power, too.

`make demo` runs `up`, `make demo-down` runs `down`. The output of each step is in .cache/demo.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lab.fleet import (
    BROKERS,
    LAB,
    LOGS,
    ROOT,
    Fleet,
    LabError,
    Process,
    become_options,
    console,
    get,
    load_fleet,
    monitor_url,
    next_release,
    play,
    podman,
    processes,
    read_ledgers,
    remote,
    say,
)
from scripts import demo_fault
from scripts.demo_fault import Fault

#: The inventory of each number of hosts of the broker.
INVENTORIES = {1: Path("inventories/lab"), 3: Path("inventories/lab-cluster")}
IMAGES = "localhost/fleet-lab-"
# Tasks that are sent at a time during a rollout.
LOAD_TASKS = 20
# Tasks that are sent before the power of a host is cut.
STEADY_TASKS = 200
POLL_SECONDS = 1.5
# The task whose worker is killed, and the longest time until the alert fires, or is resolved.
VICTIM = ("reports.build", ["2026-01", 60])
ALERT = "CeleryTasksKilled"
ALERT_SECONDS = 900


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print the title of a step, and its duration at the end."""
    console.print(f"[bold]{escape(title)}[/]", soft_wrap=True)
    started = time.monotonic()
    yield
    say(f"  took {time.monotonic() - started:.0f} s")


def send(fleet: Fleet, count: int, *options: str) -> dict[str, Any]:
    """Send tasks from beat's host, as the application's user, and return the output of send_load."""
    run = ["sudo", "-n", "-u", fleet.app, f"/srv/{fleet.app}/bin/celery_run"]
    command = [*run, "django-admin", "send_load", "--count", str(count), *options]
    sent: dict[str, Any] = json.loads(remote(fleet, fleet.beat, command).splitlines()[-1])
    return sent


def watch(fleet: Fleet, sent: dict[str, Any], since: float, timeout: float) -> Any:  # noqa: ANN401 - shop's Count
    """Show a progress bar until all tasks have ended or the timeout is over, and return the count."""
    sys.path.insert(0, str(ROOT / "example"))
    ledger = importlib.import_module("shop.ledger")
    roots = {task_id for ids in sent["queues"].values() for task_id in ids}
    columns = (TextColumn("  "), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"), TimeElapsedColumn())
    end = time.monotonic() + timeout
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=sent["total"])
        while True:
            count = ledger.count(read_ledgers(fleet, since), roots)
            ended = count.total.done + count.total.failed + count.total.revoked
            progress.update(bar, completed=ended)
            if ended >= sent["total"] or time.monotonic() > end:
                return count
            time.sleep(POLL_SECONDS)


def host_table(fleet: Fleet, found: dict[str, list[Process]]) -> Table:
    """Return a table of the hosts and their processes."""
    table = Table("host", "address", "program", "state", "up for", title="Hosts", title_justify="left")
    for host, running in found.items():
        for index, process in enumerate(running):
            first = [host, fleet.addresses[host]] if index == 0 else ["", ""]
            state = process.state if process.healthy else f"[bold red]{process.state}[/]"
            table.add_row(*first, process.name, state, process.detail, end_section=index == len(running) - 1)
    return table


def queue_table(title: str, count: Any) -> Table:  # noqa: ANN401 - shop's Count
    """Return a table of the tasks of each queue, by outcome."""
    table = Table(title=title, title_justify="left", show_footer=True)
    table.add_column("queue", footer="all")
    for name in ("sent", "done", "failed", "retried", "lost", "repeated"):
        table.add_column(name, justify="right", footer=str(getattr(count.total, name)))
    for queue, tally in count.queues.items():
        figures = (tally.sent, tally.done, tally.failed, tally.retried, tally.lost, tally.repeated)
        table.add_row(queue or "?", *map(str, figures))
    return table


def pages(fleet: Fleet) -> str:
    """Return the URLs of the web pages, with their users and passwords."""
    broker = f"{fleet.scheme}://{fleet.addresses[fleet.broker]}"
    management = 15671 if fleet.tls else 15672
    brokers = {
        "rabbitmq": ("RabbitMQ", f"{broker}:{management}/", f"{fleet.app}-admin", "rabbitmq_administrator"),
        "redis": ("Redis", f"{broker}:8081/", "redis", "redis_ui_basic_auth"),
    }
    entries = [
        brokers[fleet.kind],
        ("Flower", f"{fleet.scheme}://{fleet.addresses[fleet.flower]}/", "flower", "flower_basic_auth"),
        ("The fleet", f"{monitor_url(fleet, 'prometheus')}/consoles/fleet.html", "prometheus", "prometheus"),
        ("Alerts", f"{monitor_url(fleet, 'alertmanager')}/", "prometheus", "alertmanager"),
    ]
    home = Path.home()
    secrets = f"~/{fleet.secrets.relative_to(home)}" if fleet.secrets.is_relative_to(home) else str(fleet.secrets)
    # Lines, not a table, which would cut or wrap what users copy.
    return "\n".join(
        f"{name}: {address}\n  user {user}, password in {secrets}/{file}" for name, address, user, file in entries
    )


def security(fleet: Fleet, inventory: Path) -> str:
    """Return how connections are protected, and how to check it."""
    page = f"{fleet.addresses[fleet.flower]}:443"
    return (
        "\nAll connections between the hosts use TLS, and their firewalls let in only what the plan names. Check it:\n"
        f"  openssl s_client -brief -verify_return_error -CAfile {fleet.ca} -connect {page} </dev/null\n"
        f"  .venv/bin/ansible-playbook -i {inventory} playbooks/plan.yml\n"
        f"A browser warns of the pages until you import {fleet.ca}."
    )


def wait_for(check: Callable[[], Any], what: str, timeout: float) -> Any:  # noqa: ANN401 - what check returns
    """Poll until check returns a true value, and return it.

    Raises:
        LabError: the timeout is over.
    """
    end = time.monotonic() + timeout
    while not (result := check()):
        if time.monotonic() > end:
            raise LabError(f"Timed out after {timeout:.0f} s: {what}")
        time.sleep(POLL_SECONDS)
    return result


def alerts(fleet: Fleet) -> set[str]:
    """Return the names of the alerts in Alertmanager."""
    return {alert["labels"]["alertname"] for alert in get(fleet, "alertmanager", "/api/v2/alerts")}


def kill_a_worker(fleet: Fleet) -> None:
    """Kill a worker with an in-flight task, and wait until the alert has fired and is resolved."""
    task, arguments = VICTIM
    query = quote(f'celery_worker_tasks_running{{program="{fleet.app}-{task.partition(".")[0]}"}} > 0')

    def busy() -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = get(fleet, "prometheus", f"/api/v1/query?query={query}")["data"]["result"]
        return result

    # Prometheus may still have the tasks of the release, which are done.
    wait_for(lambda: not busy(), f"workers run {task} without an end", ALERT_SECONDS)
    run = ["sudo", "-n", "-u", fleet.app, f"/srv/{fleet.app}/bin/celery_run"]
    remote(fleet, fleet.beat, [*run, "celery", "call", task, "--args", json.dumps(arguments)])
    (worker, *_) = wait_for(busy, f"no worker is running {task}", ALERT_SECONDS)
    program, host = worker["metric"]["program"], worker["metric"]["instance"]
    status = remote(fleet, host, ["sudo", "-n", "supervisorctl", "status"], allowed=(0, 3)).splitlines()
    (parent,) = (line.split()[3].rstrip(",") for line in status if line.startswith(program) and " RUNNING " in line)
    remote(fleet, host, ["sudo", "-n", "sh", "-c", f"kill -KILL {parent} $(pgrep --parent {parent})"])
    killed = time.monotonic()
    wait_for(lambda: ALERT in alerts(fleet), f"{ALERT} does not fire", ALERT_SECONDS)
    say(f"  {program} on {host} was killed; {ALERT} fired after {time.monotonic() - killed:.0f} s")
    wait_for(lambda: ALERT not in alerts(fleet), f"{ALERT} is not resolved", ALERT_SECONDS)
    say(f"  and was resolved after {time.monotonic() - killed:.0f} s, as its window is one minute here")


def current_release(fleet: Fleet) -> str:
    """Return the release that the fleet runs."""
    return Path(remote(fleet, fleet.beat, ["readlink", f"/srv/{fleet.app}/current"]).strip()).name


@contextmanager
def load(fleet: Fleet) -> Iterator[dict[str, Any]]:
    """Send tasks during the block. The value has all of them at its end."""
    sent: dict[str, Any] = {"queues": defaultdict(list), "total": 0, "failures": 0, "children": 0}
    over = threading.Event()

    def keep_sending() -> None:
        while not over.is_set():
            # By chance, many of a small mix would fail on one host, and the rollout would roll back.
            more = send(fleet, LOAD_TASKS, "--no-failures")
            for queue, ids in more["queues"].items():
                sent["queues"][queue] += ids
            for name in ("total", "failures", "children"):
                sent[name] += more[name]

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(keep_sending)
        try:
            yield sent
        finally:
            over.set()
            sending.result()


def release(fleet: Fleet, options: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """Roll out the next release under load, and return the tasks that were sent and their count by outcome."""
    version = next_release(current_release(fleet))
    since = time.time()
    with step(f"Rolling out release {version} with playbooks/deploy.yml, under load"), load(fleet) as sent:
        variables = {"celery_app_version": version, "celery_broker": options.broker}
        play(options.inventory, "playbooks/deploy.yml", ["--extra-vars", json.dumps(variables)])
    with step("Waiting for the last tasks"):
        return sent, watch(fleet, sent, since, options.timeout)


def power_failure(fleet: Fleet, options: argparse.Namespace) -> tuple[str, Any, list[str]]:
    """Cut the power of a host of the broker under load, and boot it again.

    Returns:
        What it cost, for people; the count of the tasks by outcome; and the problems.
    """
    fault, since = Fault(demo_fault.victim(fleet), fleet.kind), time.time()
    alert = demo_fault.ALERTS[fleet.kind]

    def all_consume(after: float) -> bool:
        entries = demo_fault.parsed(read_ledgers(fleet, since))
        sent = {entry["id"] for entry in entries if entry["event"] == "sent" and demo_fault.moment(entry) > after}
        return {entry["host"] for entry in entries if entry["event"] == "done" and entry["id"] in sent} >= {
            *fleet.worker_hosts
        }

    with step(f"Cutting the power of {fault.host}, a host of the broker, under load"), load(fleet) as sent:
        wait_for(lambda: sent["total"] >= STEADY_TASKS, "no tasks are sent", ALERT_SECONDS)
        wait_for(lambda: all_consume(since), "not all workers consume", ALERT_SECONDS)
        fault.began, fault.cut = since, time.time()
        demo_fault.cut_power(fleet, fault.host)
        wait_for(lambda: alert in alerts(fleet), f"{alert} does not fire", ALERT_SECONDS)
        fault.alerted = time.time()
        wait_for(lambda: all_consume(fault.cut), f"not all workers consume without {fault.host}", ALERT_SECONDS)
        demo_fault.boot(fleet, fault.host)
        fault.booted = time.time()
        wait_for(lambda: alert not in alerts(fleet), f"{alert} is not resolved", ALERT_SECONDS)
        fault.resolved = time.time()
        wait_for(lambda: all_consume(fault.resolved), "not all workers consume", ALERT_SECONDS)
        fault.ended = time.time()
    say(f"  {alert} fired after {fault.alerted - fault.cut:.0f} s")
    if fleet.kind == "redis":
        with step("Requeueing the tasks that workers had received with playbooks/sweep.yml"):
            play(options.inventory, "playbooks/sweep.yml", ["--extra-vars", f"celery_broker={options.broker}"])
    with step("Waiting for the last tasks"):
        count = watch(fleet, sent, since, options.timeout)
    entries = demo_fault.parsed(read_ledgers(fleet, since))
    outcome = demo_fault.outcome_of(count, entries, fleet.worker_hosts, fault)
    report = demo_fault.write(demo_fault.page(fleet, fault, outcome))
    text = f"{fault.host} lost its power and returned: {outcome.text()}.\nReport of the power failure: {report}\n"
    return text, count, problems_of(sent, count, options.timeout, twice=True)


def problems_of(sent: dict[str, Any], count: Any, timeout: float, *, twice: bool = False) -> list[str]:  # noqa: ANN401 - shop's Count
    """Return the tasks that were lost, repeated, or failed unexpectedly, for people.

    Args:
        twice: whether tasks may run twice, because the broker delivers those again that it does not know to be done.
    """
    problems = []
    total = count.total
    if missing := sent["total"] - total.done - total.failed - total.revoked:
        problems.append(f"{missing} tasks have not ended after {timeout:.0f} s: {' '.join(count.lost_ids[:5])}")
    if total.repeated and not twice:
        problems.append(f"{total.repeated} tasks ran twice: {' '.join(count.repeated_ids[:5])}")
    if total.failed > sent["failures"]:
        problems.append(f"{total.failed - sent['failures']} tasks failed unexpectedly. See the workers' logs")
    return problems


def up(options: argparse.Namespace) -> int:
    """Boot hosts, deploy the fleet, run tasks and a rollout, and print the result. Existing hosts are reused."""
    started = time.monotonic()
    if options.brokers not in map(str, INVENTORIES):
        raise LabError(
            f"BROKERS={options.brokers}: the demo has a broker of {' or '.join(map(str, INVENTORIES))} hosts"
        )
    options.inventory = options.inventory or INVENTORIES[int(options.brokers)]
    fleet = load_fleet(options.inventory, options.broker)
    if (existing := hosts_of(fleet)) and existing != sorted(fleet.addresses):
        raise LabError(f"the demo's hosts are {', '.join(existing)} already. Run `make demo-down` before another demo")
    with step(f"Booting {len(fleet.addresses)} hosts on this machine (builds their image the first time)"):
        play(options.inventory, "lab/create.yml", become_options())
    with step("Deploying the fleet with site.yml"):
        play(options.inventory, "site.yml", ["--extra-vars", f"celery_broker={options.broker}"])
    with step(f"Sending {options.count} tasks from {fleet.beat} to every queue"):
        since = time.time()
        sent = send(fleet, options.count)
        sizes = ", ".join(f"{len(ids)} to {queue}" for queue, ids in sent["queues"].items())
        say(f"  {sizes}; some of them send {sent['children']} more")
    with step("Waiting for the tasks"):
        count = watch(fleet, sent, since, options.timeout)
    problems = problems_of(sent, count, options.timeout)
    released, meanwhile = release(fleet, options)
    problems += problems_of(released, meanwhile, options.timeout)
    with step("Killing a worker with an in-flight task"):
        kill_a_worker(fleet)
    survived, failure = "", []
    if len(fleet.brokers) > 1:
        survived, during, lost = power_failure(fleet, options)
        problems += lost
        failure = [queue_table("Tasks during the power failure", during)]
    found = {host: processes(fleet, host) for host in fleet.addresses}
    tables = [queue_table("Tasks", count), queue_table("Tasks during the release", meanwhile), *failure]
    for table in (host_table(fleet, found), *tables):
        console.print()
        console.print(table)
    say(f"The {sent['failures']} tasks of customers.fail are meant to fail.")
    say(f"\n{pages(fleet)}")
    say(security(fleet, options.inventory))
    say(f"Report of the rollout: {max((fleet.secrets / 'rollouts').glob('*.html'))}\n{survived}")
    say(f"The demo took {time.monotonic() - started:.0f} s. `make demo-down` removes it.")
    problems += [
        f"{process.name} on {host} is {process.state}"
        for host in found
        for process in found[host]
        if not process.healthy
    ]
    if "flower" not in {process.name for process in found[fleet.flower]}:
        problems.append(f"Flower is not on {fleet.flower}")
    if problems:
        raise LabError("; ".join(problems))
    return 0


def hosts_of(fleet: Fleet) -> list[str]:
    """Return the hosts that exist, of this inventory or another one with its network."""
    prefix = f"{fleet.network}-"
    names = podman("ps", "--all", "--format", "{{.Names}}", "--filter", f"name=^{prefix}").stdout.split()
    return sorted(name.removeprefix(prefix) for name in names)


def remove_tree(path: Path) -> None:
    """Remove a directory if it exists, and print that."""
    if path.exists():
        shutil.rmtree(path)
        say(f"  removed {path}")


def remove_images() -> None:
    """Remove the lab's images, except those that other hosts use."""
    result = podman("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={IMAGES}*")
    # podman lists an image under all of its names, of which others are not the lab's.
    for image in filter(lambda name: name.startswith(IMAGES), result.stdout.split()):
        removed = podman("rmi", image)
        if removed.returncode == 0:
            say(f"  removed the image {image}")
        else:
            say(f"  kept the image {image}: {removed.stderr.strip()}")


def down(options: argparse.Namespace) -> int:
    """Remove the hosts and all of their files. Files that other hosts of the lab use are kept."""
    options.inventory = options.inventory or INVENTORIES[max(INVENTORIES)]
    fleet = load_fleet(options.inventory)
    with step("Removing the demo"):
        if shutil.which("podman"):
            existing = hosts_of(fleet)
            play(options.inventory, "lab/destroy.yml", become_options())
            say(f"  removed the hosts {', '.join(existing) or '(none)'} and their network {fleet.network}")
            remove_images()
        remove_tree(fleet.secrets)
        artifacts = Path.home() / ".cache" / "celery-fleet" / "artifacts"
        # Artifacts of the demo's application and of Flower. Those of other applications are kept.
        for pattern in (f"{fleet.app}-*.tar", "requirements.lock-*.tar"):
            for artifact in artifacts.glob(pattern):
                artifact.unlink()
                say(f"  removed {artifact}")
        for parent in (fleet.secrets.parent, artifacts, artifacts.parent):
            if parent.is_dir() and not any(parent.iterdir()):
                remove_tree(parent)
        others = sorted(path.name for path in LAB.iterdir() if path.is_dir()) if LAB.is_dir() else []
        if others:
            say(f"  kept {LAB}, which {', '.join(others)} also use")
        else:
            remove_tree(LAB)
        remove_tree(LOGS)
    say("Debian's packages and .venv, which `make setup` installed, are kept.")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inventory", type=Path, help="default: inventories/lab, or lab-cluster")
    commands = parser.add_subparsers(required=True, metavar="up|down")
    upward = commands.add_parser("up", help="boot the hosts, deploy the fleet, and run tasks and a rollout")
    upward.add_argument("--broker", choices=BROKERS, default="rabbitmq", help="default: rabbitmq")
    upward.add_argument("--brokers", default="1", help="number of the broker's hosts, 1 or 3 (default: 1)")
    upward.add_argument("--count", type=int, default=300, help="number of tasks (default: 300)")
    upward.add_argument("--timeout", type=float, default=1800, help="seconds to wait for the tasks (default: 1800)")
    upward.set_defaults(run=up)
    downward = commands.add_parser("down", help="remove the hosts and all of their files")
    downward.set_defaults(run=down)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except LabError as error:
        console.print(f"[bold red]demo:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
