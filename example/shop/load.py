"""A mix of tasks such as a day in the shop makes, small enough for a demo."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from shop.customers.tasks import FAN_OUT_LARGEST, FAN_OUT_SMALLEST


@dataclass(frozen=True)
class Call:
    """One task to send."""

    task: str
    arguments: dict[str, Any] = field(default_factory=dict)
    #: Tasks that it sends in turn.
    children: int = 0


def mix(size: int, seed: int, *, failures: bool = True) -> list[Call]:
    """Return `size` calls, an equal share for each queue. The same seed gives the same calls.

    Args:
        size: how many. What they send in turn comes on top.
        seed: where the dice start.
        failures: whether some fail on purpose.
    """
    dice = random.Random(seed)  # noqa: S311 - dice, not secrets
    kinds = [_customers, _email, _video, _reports, _ticks]
    calls = [kinds[number % len(kinds)](number, dice) for number in range(size)]
    dice.shuffle(calls)
    return calls if failures else [Call("customers.noop") if call.task == "customers.fail" else call for call in calls]


def _customers(number: int, dice: random.Random) -> Call:
    # By turns, not by dice, so that even a small mix has each of them.
    match number // 5 % 10:
        case 0:
            children = dice.randint(FAN_OUT_SMALLEST, FAN_OUT_LARGEST)
            arguments = {"first_customer": number * 100, "count": children}
            return Call("customers.fan_out", arguments, children)
        case 1 | 2:
            return Call("customers.sync", {"customer": number, "transient_errors": dice.randint(1, 2)})
        case 3:
            return Call("customers.fail", {"reason": "a bug, on purpose"})
        case 4 | 5:
            return Call("customers.noop")
        case _:
            return Call("customers.sync", {"customer": number})


def _email(number: int, dice: random.Random) -> Call:
    recipient = f"customer-{number}@shop.example"
    wait = round(dice.uniform(0.1, 0.5), 2)
    return Call("email.send_order_confirmation", {"order": number, "recipient": recipient, "wait": wait})


def _video(number: int, dice: random.Random) -> Call:
    return Call("video.transcode", {"video": number, "seconds": round(dice.uniform(0.05, 0.2), 2)})


def _reports(number: int, dice: random.Random) -> Call:
    if number // 5 % 10 == 0:
        return Call("reports.hoard", {"megabytes": 20})
    month = f"2026-{dice.randint(1, 12):02d}"
    return Call("reports.build", {"month": month, "seconds": round(dice.uniform(0.1, 0.6), 2)})


def _ticks(_number: int, _dice: random.Random) -> Call:
    return Call("ticks.heartbeat")
