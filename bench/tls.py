"""Measure what TLS costs a client: messages sent and consumed, and connections, with and without it, by turns.

On a worker's host of the demo, which also gets a port without TLS for as long as it takes.
"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path
from statistics import median
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._url import broker_url

from bench.throughput import on
from lab.fleet import Fleet, load_fleet, play

NAME = "bench"
ON_HOST = Path(__file__).with_name("tls_on_host.py")
PORTS = {"rabbitmq": {"plain": 5672, "tls": 5671}, "redis": {"plain": 6379, "tls": 6380}}
KINDS = ("send", "consume", "connect")


def urls(fleet: Fleet, password: str) -> dict[str, str]:
    """Return the broker's URL without and with TLS."""
    broker = {"kind": fleet.kind, "address": fleet.addresses[fleet.broker], "user": NAME, "vhost": NAME, "database": 15}
    return {
        how: broker_url(broker | {"port": port} | ({"tls_port": port} if how == "tls" else {}), password)
        for how, port in PORTS[fleet.kind].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inventory", type=Path, default=Path("inventories/lab"), help="default: inventories/lab")
    parser.add_argument("--broker", choices=sorted(PORTS), default="rabbitmq")
    parser.add_argument("--messages", type=int, default=2000, help="a round (default: 2000)")
    parser.add_argument("--rounds", type=int, default=5, help="of each (default: 5)")
    options = parser.parse_args()
    fleet = load_fleet(options.inventory, options.broker)
    worker = next(host for host in fleet.app_hosts if host != fleet.beat)
    password = secrets.token_urlsafe(24)
    variables = ["--extra-vars", f"celery_broker={fleet.kind}"]
    play(options.inventory, "site.yml", [*variables, "--extra-vars", "celery_tls=both"])
    found: dict[tuple[int, str, str], list[dict[str, float]]] = {}
    try:
        for command, given in commands(fleet, password):
            on(fleet, fleet.broker, command, given)
        for number in range(options.rounds):
            for size in (100, 20_000):
                for how, url in urls(fleet, password).items():
                    run = ["sudo", "-n", "-u", fleet.app, f"/srv/{fleet.app}/bin/celery_run"]
                    run += ["python", "-c", ON_HOST.read_text(encoding="utf-8"), str(options.messages), str(size)]
                    answer: dict[str, Any] = json.loads(on(fleet, worker, run, url))
                    for kind in KINDS:
                        found.setdefault((size, kind, how), []).append(answer[kind])
            print(f"round {number + 1} of {options.rounds}", flush=True)
    finally:
        for command in removals(fleet):
            on(fleet, fleet.broker, command)
        play(options.inventory, "site.yml", variables)
    for size, kind, _ in dict.fromkeys((size, kind, "") for size, kind, _ in found):
        ratios = {
            what: median(each[what] for each in found[size, kind, "tls"])
            / median(each[what] for each in found[size, kind, "plain"])
            for what in ("seconds", "cpu")
        }
        cpu = median(each["cpu"] for each in found[size, kind, "plain"])
        print(
            f"{fleet.kind}, {kind}, {size} bytes: time x{ratios['seconds']:.2f}, client's CPU x{ratios['cpu']:.2f} "
            f"of {cpu * 1000:.2f} ms each"
        )


def commands(fleet: Fleet, password: str) -> list[tuple[list[str], str]]:
    """Return the commands, and what each reads, that create a user for the messages of this benchmark."""
    if fleet.kind == "rabbitmq":
        control = ["sudo", "-n", "rabbitmqctl", "--quiet"]
        return [
            ([*control, "add_vhost", NAME], ""),
            ([*control, "add_user", NAME], password),
            ([*control, "set_permissions", "-p", NAME, NAME, ".*", ".*", ".*"], ""),
        ]
    return [(redis(), f"ACL SETUSER {NAME} on >{password} ~* &* +@all")]


def removals(fleet: Fleet) -> list[list[str]]:
    """Return the commands that remove what commands() has created."""
    if fleet.kind == "rabbitmq":
        return [["sudo", "-n", "rabbitmqctl", "--quiet", *what, NAME] for what in (["delete_vhost"], ["delete_user"])]
    return [redis("ACL", "DELUSER", NAME)]


def redis(*command: str) -> list[str]:
    """Return a command of redis-cli as the administrator; without one, it reads commands from its input."""
    shell = (
        "REDISCLI_AUTH=$(cat /var/lib/celery-fleet/redis/administrator.password) "
        'redis-cli -s /run/redis/redis.sock --user shop-admin "$@"'
    )
    return ["sudo", "-n", "sh", "-c", shell, "redis", *command]


if __name__ == "__main__":
    main()
