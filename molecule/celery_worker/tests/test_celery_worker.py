"""Workers run what was declared, where it was declared, within their limits, and survive what happens to them."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from shared.deployed import Shop, call, wait_until
from shared.playbook import converge

testinfra_hosts = ["ansible://debian12"]
HOSTS = ("debian12", "debian13")
EACH_HOST = pytest.mark.parametrize(("name", "number"), [("debian12", "12"), ("debian13", "13")])
CONVERGE = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml"


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(sender="debian12", hosts=HOSTS)


def environment(shop: Shop, host: str, pid: int) -> dict[str, str]:
    lines = shop.output(f"tr '\\0' '\\n' < /proc/{pid}/environ", host).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.mark.parametrize(
    ("pool", "module"), [("threads", "thread"), ("gevent", "gevent"), ("eventlet", "eventlet"), ("solo", "solo")]
)
def test_each_host_runs_tasks_in_the_declared_pool(shop: Shop, pool: str, module: str) -> None:
    for host in HOSTS:
        implementation = shop.inspect("stats", f"{pool}@{host}")["pool"]["implementation"]
        assert implementation == f"celery.concurrency.{module}:TaskPool"
    ids = shop.send(*[call("reports.build", "2026-01", 0.3, queue=pool)] * 12)
    done = shop.wait_for(ids)
    assert len(done) == 12
    assert {line["host"] for line in done} == set(HOSTS)
    assert {line["user"] for line in done} == {"shop"}
    assert {line["queue"] for line in done} == {pool}
    assert {line["worker"] for line in done} == {f"{pool}@{host}" for host in HOSTS}


@pytest.mark.parametrize("name", HOSTS)
def test_a_worker_is_the_child_of_supervisor_and_runs_in_the_release(shop: Shop, name: str) -> None:
    for program, pid in shop.pids(name).items():
        parent = shop.output(f"ps -o ppid= -p {pid}", name).strip()
        assert parent == shop.output("cat /run/supervisord.pid", name).strip(), f"{program} daemonized"
        assert shop.output(f"readlink -f /proc/{pid}/cwd", name).strip() == "/var/lib/shop"
        variables = environment(shop, name, pid)
        assert variables["VIRTUAL_ENV"] == "/srv/shop/releases/1.0.0/venv"
        assert variables["CELERY_APP_RELEASE"] == "1.0.0"
        assert variables["HOME"] == "/var/lib/shop"


@EACH_HOST
def test_a_programs_own_environment_arrives_as_declared(shop: Shop, name: str, number: str) -> None:
    greeting = "100% of 'it' %h; \"#\" $HOME %(x)s \\ end"
    assert environment(shop, name, shop.pid(name, "shop-limits"))["GREETING"] == greeting
    assert "GREETING" not in environment(shop, name, shop.pid(name, "shop-scale"))
    assert shop.inspect("stats", f"bounded@debian{number}")["pool"]["max-concurrency"] == 1


@EACH_HOST
def test_a_soft_limit_ends_a_task_that_tidies_up(shop: Shop, name: str, number: str) -> None:
    ids = shop.send(call("reports.build", "2026-02", 45, queue=f"limits{number}"))
    (line,) = shop.wait_for(ids, "failed")
    assert line["host"] == name
    assert "is not ready in time" in shop.output("cat /var/log/shop/shop-limits.log", name)


@EACH_HOST
def test_a_hard_limit_ends_the_task_and_not_the_worker(shop: Shop, name: str, number: str) -> None:
    worker = shop.pid(name, "shop-limits")
    ids = shop.send(call("reports.build", "2026-03", 45, True, queue=f"limits{number}"))
    shop.wait_for(ids, "started")
    (after,) = shop.run(call("customers.noop", queue=f"limits{number}"))
    assert after["host"] == name
    assert not shop.events(ids, "done"), "the task outlived its hard limit"
    assert "Hard time limit (4.0s) exceeded" in shop.output("cat /var/log/shop/shop-limits.log", name)
    assert shop.pid(name, "shop-limits") == worker


@EACH_HOST
def test_a_child_above_its_memory_cap_is_replaced(shop: Shop, name: str, number: str) -> None:
    queue = f"limits{number}"
    worker = shop.pid(name, "shop-limits")
    (first,) = shop.run(call("customers.noop", queue=queue))
    (same,) = shop.run(call("customers.noop", queue=queue))
    assert same["pid"] == first["pid"], "a child below the cap was replaced"
    (heavy,) = shop.run(call("reports.hoard", 200, queue=queue))
    assert heavy["pid"] == first["pid"]
    (fresh,) = shop.run(call("customers.noop", queue=queue))
    assert fresh["pid"] != heavy["pid"], "a child above the cap went on"
    assert shop.pid(name, "shop-limits") == worker


@EACH_HOST
def test_autoscale_grows_with_the_load_and_shrinks_after_it(shop: Shop, name: str, number: str) -> None:
    def stats() -> tuple[int, int]:
        """Return how many processes there are, and how many the autoscaler takes it that there are."""
        found = shop.inspect("stats", f"scale@{name}")
        return len(found["pool"]["processes"]), found["autoscaler"]["current"]

    def grown_and_shrunk() -> bool:
        ids = shop.send(*[call("reports.build", "2026-04", 4, queue=f"scale{number}")] * 8)
        wait_until(lambda: stats()[0] == 4, "the pool does not grow to its maximum")
        assert len(shop.wait_for(ids)) == 8
        wait_until(lambda: stats()[1] == 1, "the autoscaler does not shrink the pool to its minimum")
        # It takes a process that is ending for one more to end (billiard 4.3), and then one too many stays until the
        # next load.
        with suppress(AssertionError):
            wait_until(lambda: stats()[0] == 1, "a process stays", timeout=30)
        return stats() == (1, 1)

    assert stats() == (1, 1)
    assert any(grown_and_shrunk() for _ in range(5)), "the pool never shrinks to its minimum"


@EACH_HOST
def test_a_killed_worker_comes_back_and_its_task_runs(shop: Shop, name: str, number: str) -> None:
    before = shop.pid(name, "shop-scale")
    ids = shop.send(call("reports.build", "2026-05", 10, queue=f"scale{number}"))
    shop.wait_for(ids, "started")
    shop.output(f"kill -{signal.SIGKILL.value} {before}", name)
    (done,) = shop.wait_for(ids)
    assert done["host"] == name
    after = shop.pid(name, "shop-scale")
    assert after not in (0, before)
    children = shop.output("pgrep -c -f 'hostname=scale@' || true", name)
    assert int(children) <= 6, "children of the killed worker live on"


def test_a_killed_child_loses_no_task(shop: Shop) -> None:
    ids = shop.send(call("reports.build", "2026-06", 10, queue="scale12"))
    (started,) = shop.wait_for(ids, "started")
    shop.output(f"kill -9 {started['pid']}", "debian12")
    shop.wait_for(ids)


def test_a_change_restarts_warm_the_program_that_it_touches_and_no_other(shop: Shop) -> None:
    before = {host: shop.pids(host) for host in HOSTS}
    ids = shop.send(*[call("reports.build", "2026-07", 12, queue=f"scale{number}") for number in ("12", "13")])
    shop.wait_for(ids, "started")
    run = converge("-e", "scale_log_level=WARNING", "--tags", "workers")
    assert run.returncode == 0, run.stdout[-3000:]
    for host in HOSTS:
        after = shop.pids(host)
        changed = {program for program in before[host] if before[host][program] != after[program]}
        assert changed == {"shop-scale"}
    assert [line["event"] for line in shop.ledger(ids)].count("done") == 2
    assert len(shop.events(ids, "started")) == 2, "a task was begun again"
    assert converge("--tags", "workers").returncode == 0


def test_a_project_that_does_not_import_is_found_before_any_worker_restarts(shop: Shop) -> None:
    before = {host: shop.pids(host) for host in HOSTS}
    run = converge("-e", "celery_app_module=shop.missing:app", "--tags", "workers")
    assert run.returncode != 0
    assert "No module named 'shop.missing'" in run.stdout
    assert {host: shop.pids(host) for host in HOSTS} == before
    assert converge("--tags", "workers").returncode == 0
    shop.run(call("customers.noop", queue="threads"))


@pytest.mark.parametrize("name", HOSTS)
def test_no_secret_is_where_others_can_see_it(shop: Shop, name: str) -> None:
    # In a file, since sudo logs this test's own commands.
    password = shop.output("sed -nE 's|^CELERY_BROKER_URL=.*://shop:(.+)@.*|\\1|p' /etc/shop/environment", name).strip()
    assert len(password) >= 32, "no broker URL in the environment file"
    shop.output("sed -nE 's|^CELERY_BROKER_URL=.*://shop:(.+)@.*|\\1|p' /etc/shop/environment >/root/password", name)
    found = shop.output(
        "grep -rlFf /root/password --exclude-dir=venv /etc /srv/shop /var/log /var/lib/shop || true", name
    )
    assert found.split() == ["/etc/shop/environment"]
    assert password not in shop.output("ps axww -o args", name)
    assert shop.output("stat -c '%a %U %G' /etc/shop/environment", name).strip() == "640 root shop"
    for path in shop.output("ls /etc/supervisor/conf.d/*.conf /etc/shop/programs/*", name).split():
        assert shop.output(f"stat -c %a {path}", name).strip() == "640"


def test_a_bad_declaration_is_refused_before_any_host_is_touched(shop: Shop) -> None:
    before = {host: shop.pids(host) for host in HOSTS}
    run = converge("-e", '{"celery_worker_defaults": {"prefetch_multiplier": 0, "log_level": "LOUD"}}')
    assert run.returncode != 0
    assert "prefetch_multiplier: 0 is not a whole number of at least 1" in run.stdout
    assert "log_level: 'LOUD' is not a valid value" in run.stdout
    assert "No host was touched" in run.stdout
    assert not re.search(r"changed=[1-9]", run.stdout)
    assert {host: shop.pids(host) for host in HOSTS} == before
