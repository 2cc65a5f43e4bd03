"""Send tasks with and without a signature, verify and claim messages, and compare keys; print CPU seconds of each.

Runs in the application's environment. Arguments: module:application, a task that does nothing, and how many of each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import celery_fleet_settings as fleet  # type: ignore[import-not-found]  # rendered on the host
from celery.app.utils import find_app
from celery_fleet_runtime import guard, replay, signing  # type: ignore[import-not-found]  # as above
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

DIRECTORY = Path(fleet.SIGNING["directory"])
CONTENT = b"x" * 1000


def measured(number: int, action: Callable[[], object]) -> dict[str, float]:
    """Return the seconds and the CPU seconds of one of several actions."""
    began, used = time.perf_counter(), time.process_time()
    for _ in range(number):
        action()
    return {"seconds": (time.perf_counter() - began) / number, "cpu": (time.process_time() - used) / number}


def keys(number: int) -> dict[str, dict[str, float]]:
    """Return what signing and verifying costs with each kind of key."""
    found = {}
    own = ed25519.Ed25519PrivateKey.generate()
    signature = own.sign(CONTENT)
    found["sign Ed25519"] = measured(number, lambda: own.sign(CONTENT))
    found["verify Ed25519"] = measured(number, lambda: own.public_key().verify(signature, CONTENT))
    scheme: Any = (padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH), hashes.SHA256())
    for bits in (2048, 3072, 4096):
        key = rsa.generate_private_key(65537, bits)
        signed = key.sign(CONTENT, *scheme)
        found[f"sign RSA {bits}"] = measured(number, partial(key.sign, CONTENT, *scheme))
        found[f"verify RSA {bits}"] = measured(number, partial(key.public_key().verify, signed, CONTENT, *scheme))
    return found


def main() -> None:
    app, task, number = find_app(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    app.loader.import_default_modules()
    found = {}
    signed = guard.Producer._publish
    with app.producer_pool.acquire(block=True) as producer:
        for how, publish in (("plain", signed.__wrapped__), ("signed", signed)):
            guard.Producer._publish = publish
            app.send_task(task, producer=producer)
            found[f"send {how}"] = measured(number, lambda: app.send_task(task, producer=producer))
    headers = {"task": task, "id": "1", "eta": None, "retries": 0, "argsrepr": "()", "kwargsrepr": "{}"}
    routing = {"content_type": "application/json", "exchange": app.main, "routing_key": "customers"}
    body = b'[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    message = signing.SenderKey(DIRECTORY / "sender.key").signer.sign(body, headers, {}, **routing)
    trusted = signing.Trust(DIRECTORY / "trusted.json").keys
    check = {"content_type": "application/json", "now": time.time()}
    found["verify"] = measured(number, lambda: signing.verify(trusted, message, body, **check))
    cache = replay.ReplayCache(DIRECTORY / "replay_cache.json")
    nonces = iter(f"bench-{index}" for index in range(number))

    def claim() -> None:
        nonce = next(nonces)
        cache.claim(nonce, 60)
        cache.finish(nonce, 60)

    found["claim"] = measured(number, claim)
    print("\n" + json.dumps(found | keys(max(20, number // 20))))


if __name__ == "__main__":
    main()
