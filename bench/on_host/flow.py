"""Send tasks at a steady rate until stdin is closed. Then print the number of short tasks, and all ids, as JSON.

Run by the application's own Python: flow.py TASKS_A_SECOND HOSTS LONG_SECONDS. With LONG_SECONDS a long task runs on
each host on average: one for each host at the start, which end one after another, and from then on as many as end.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from shop.celery import app

MONTH = "2026-03"


def main() -> None:
    rate, hosts, long = float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    app.loader.import_default_modules()
    short, build = app.tasks["customers.sync"], app.tasks["reports.build"]
    ids: dict[str, list[str]] = {"short": [], "long": []}
    if long:
        ids["long"] = [build.apply_async([MONTH, long * (lane + 1) / hosts]).id for lane in range(hosts)]
    print("begun", flush=True)
    began = time.monotonic()
    while not ended.is_set():
        now = time.monotonic() - began
        while len(ids["short"]) <= now * rate:
            ids["short"].append(short.apply_async([len(ids["short"])]).id)
        # The first of those at the start has ended by now: its host gets another.
        while long and len(ids["long"]) - hosts < now * hosts / long - 1:
            ids["long"].append(build.apply_async([MONTH, long]).id)
        ended.wait(max(0.0, len(ids["short"]) / rate - (time.monotonic() - began)))
    print(json.dumps(ids), flush=True)


if __name__ == "__main__":
    main()
