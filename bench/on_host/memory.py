"""Fill a queue of a broker again and again, each time from empty, and print the costs.

What to do comes as JSON on standard input; what happened goes as a JSON object a line to standard output. Celery itself
publishes some messages of each kind. Copies of them, each with ids of its own, fill the queue.
"""

from __future__ import annotations

import functools
import json
import random
import sys
import time
import uuid
from typing import Any

from celery import Celery
from kombu import pools

from bench.on_host.brokers import SERVERS, application, disk, wait_until

TASK = "customers.import_orders"
# So many messages, of different arguments, are published by Celery for each kind of fill.
SAMPLES = 40

NAMES = """
    Amara Adeyemi, Bo Brandt, Chidi Castro, Dorothea Dimitrov, Emre Eriksen, Fatima Fontaine, Giulia Garcia,
    Henrik Haddad, Ines Ito, Jun Jansen, Katarzyna Kowalski, Luis Lindqvist, Mei Moreau, Noor Nguyen,
    Oskar Okafor, Priya Petrov
"""
CITY_NAMES = "Aarhus Bilbao Cluj Dresden Eindhoven Faro Ghent Haifa Izmir Jaipur Kaunas Leeds Malmo Nantes Oulu Porto"
TEXT = """
    please leave the parcel with neighbour if nobody answers door second floor left bell does not work call before
    delivery gift wrap blue paper no invoice inside replacement for damaged item reported last week customer asked
    twice about refund keep receipt fragile glass shelf mounting kit missing screws send separately warehouse checked
    stock partial shipment agreed remaining boxes follow monday morning express customs form attached signed by manager
"""
FIRST, LAST = zip(*(name.split() for name in NAMES.split(",")), strict=True)
CITIES, WORDS = CITY_NAMES.split(), TEXT.split()


def order(chance: random.Random) -> dict[str, Any]:
    """Return an order, as an argument of a task."""
    name, family = chance.choice(FIRST), chance.choice(LAST)
    return {
        "id": chance.randrange(10**6, 10**8),
        "reference": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "placed": f"2026-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}T{chance.randrange(24):02}:14:09Z",
        "customer": {
            "name": f"{name} {family}",
            "email": f"{name}.{family}{chance.randrange(1000)}@example.org".lower(),
            "city": chance.choice(CITIES),
        },
        "lines": [
            {
                "sku": f"{chance.choice('ABCDEFGH')}{chance.randrange(10**5, 10**7)}",
                "quantity": chance.randrange(1, 9),
                "price": chance.randrange(100, 99999) / 100,
            }
            for _ in range(chance.randrange(1, 5))
        ],
        "note": " ".join(chance.choice(WORDS) for _ in range(chance.randrange(4, 16))),
    }


def arguments(size: int, chance: random.Random) -> list[Any]:
    """Return arguments of a task with this size as JSON: none, or a list of orders."""
    if size == 0:
        return []
    orders: list[dict[str, Any]] = []
    while len(json.dumps([[*orders, (more := order(chance))]])) <= size:
        orders.append(more)
    # The last one is made to fit.
    orders = orders or [{"note": ""}]
    missing = size - len(json.dumps([orders]))
    filling = " ".join(chance.choice(WORDS) for _ in range(missing))
    orders[-1]["note"] += filling[:missing]
    return [orders]


def arguments_of_samples(size: int) -> list[list[Any]]:
    """Return the arguments of the tasks that Celery publishes, the same in each run."""
    chance = random.Random(size)  # noqa: S311 - nothing secret
    return [arguments(size, chance) for _ in range(SAMPLES)]


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


def celery_samples(options: dict[str, Any]) -> list[list[Any]]:
    """Return templates for each fill, of messages that Celery published to this broker."""
    found = []
    with SERVERS[options["kind"]](options) as broker:
        for fill in options["fills"]:
            app = application(options["settings"], options["queue"], broker.url)
            app.conf.task_compression = fill["compression"]
            sets = arguments_of_samples(fill["size"])
            found.append(broker.samples(functools.partial(send, app, options["queue"]["name"], sets)))
            if len(found[-1]) != SAMPLES:
                raise RuntimeError(f"Celery published {len(found[-1])} messages instead of {SAMPLES}")
    # Else the next broker's first message would go to the connection that ended with this one, and be sent again.
    pools.reset()  # type: ignore[no-untyped-call]
    return found


def send(app: Celery, queue: str, sets: list[list[Any]]) -> None:
    """Send a task with each set of arguments."""
    for args in sets:
        app.send_task(TASK, args=args, queue=queue)


def read_one(app: Celery, name: str, size: int) -> None:
    """Consume a message from the queue, as a worker does.

    Raises:
        ValueError: it is not what was sent.
    """
    with app.connection_for_read() as connection:
        message = app.amqp.queues[name].bind(connection.default_channel).get()
        args, kwargs, _ = message.payload
        right = len(json.dumps(args)) == max(size, len("[]")) and kwargs == {}
        if not right or message.properties["correlation_id"] != message.headers["id"]:
            raise ValueError(f"a message of the queue is not what was sent: {message.headers} {message.payload}")
        message.ack()


def measure(options: dict[str, Any], fill: dict[str, Any], templates: list[Any]) -> dict[str, Any]:
    """Fill the queue of a new broker, and return the increase of its memory and disk space."""
    tasks: int = fill["tasks"]

    def state() -> dict[str, int]:
        broker.process.wait_until_calm()
        resident = broker.process.status("VmRSS")
        return {"memory": broker.memory(), "resident": resident, "disk": disk(broker.data)}

    def added() -> dict[str, int]:
        return {name: value - before[name] for name, value in state().items()}

    with SERVERS[options["kind"]](options) as broker:
        app = application(options["settings"], options["queue"], broker.url)
        broker.declare(app)
        before = state()
        broker.process.forget_peak()
        started = told = time.monotonic()
        for done in broker.fill(templates, tasks):
            if time.monotonic() - told > fill["tell_seconds"]:
                told = time.monotonic()
                tell(done=done, of=tasks)
        seconds = time.monotonic() - started
        wait_until(lambda: broker.count() == tasks, f"{tasks} messages are in the queue")
        filled = added()
        peak = broker.process.status("VmHWM") - before["resident"]
        compacted = added() if broker.compact() else None
        if broker.count() != tasks:
            raise RuntimeError(f"{broker.count()} messages are in the queue instead of {tasks}")
        read_one(app, options["queue"]["name"], fill["size"])
        pools.reset()  # type: ignore[no-untyped-call]
        return {
            "version": broker.version,
            "message": sum(broker.size(template) for template in templates) / len(templates),
            "filled": filled,
            "peak": peak,
            "compacted": compacted,
            "before": before,
            "seconds": seconds,
        }


def main() -> None:
    options = json.load(sys.stdin)
    for fill, templates in zip(options["fills"], celery_samples(options), strict=True):
        tell(result=measure(options, fill, templates))


if __name__ == "__main__":
    main()
