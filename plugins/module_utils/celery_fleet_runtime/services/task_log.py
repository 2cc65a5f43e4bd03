"""Ship task results from the journal to a sink: a file, or CloudWatch.

Usage: python3 -m celery_fleet_runtime.services.task_log CONFIG. The journal is the spool: its size is limited, and no
worker waits for this program. The state of what was sent is saved together with the journal's cursor, so a restart
neither skips nor repeats results, except for a batch that was in transit. Results that the journal dropped before they
were sent are counted by gaps in their numbers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import mmap
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger("task_log")
#: Limits of a call of PutLogEvents. Source: its API reference. The other sink takes such batches too. An event may have
#: 1 MB (256 KB until 2025); a task result is a datagram of less than 208 KB.
LONGEST_BATCH, BATCH_BYTES, BYTES_AN_EVENT, BATCH_SPAN = 10_000, 1_048_576, 26, 24 * 3600
#: Metrics in a call of PutMetricData. Its limits are 1000 metrics and 1 MB, which this many of the longest names keep.
DATA_A_CALL = 500
#: Characters of a dimension's value. CloudWatch's limit is 1024.
LONGEST_NAME = 255
BATCH_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: Minutes (each of a task and a queue) that are kept while CloudWatch accepts the log but not the metrics.
MOST_MINUTES = 5000
#: Age in minutes up to which CloudWatch accepts a metric. Source: API reference of PutMetricData.
OLDEST_MINUTE = 14 * 24 * 60
#: Files of counts whose latest numbers are kept.
MOST_SOURCES = 1000
COUNTERS = {
    "sent": "Task results that the sink accepted.",
    "rejected": "Task results that the sink rejected, e.g. because they are too old.",
    "lost": "Task results that the journal dropped before they were sent.",
    "malformed": "Entries of the journal that are not task results.",
    "failures": "Failed calls of the sink, and failed writes of the state.",
    "metrics_dropped": "Minutes (each of a task and a queue) whose metrics CloudWatch did not accept.",
}


def finite(value: object) -> float | None:
    """Return a finite number of a task result; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


@dataclass(frozen=True)
class Entry:
    """A task result in the journal.

    Attributes:
        cursor: its cursor in the journal.
        time: seconds since the epoch.
        message: the result as a line of JSON.
        result: the parsed message.
    """

    cursor: str
    time: float
    message: str
    result: Mapping[str, Any]

    @classmethod
    def of(cls, line: bytes) -> Entry:
        """Parse a line of the journal's JSON export.

        Raises:
            ValueError: its message is not a task result.
        """
        raw = json.loads(line)
        message = raw.get("MESSAGE")
        # A field that is no text, or occurs twice, is a list.
        result = json.loads(message) if isinstance(message, str) else None
        if not isinstance(result, dict):
            raise ValueError(f"not a JSON object: {message!r:.200}")
        return cls(raw["__CURSOR"], int(raw["__REALTIME_TIMESTAMP"]) / 1e6, message, result)

    @property
    def size(self) -> int:
        return len(self.message.encode()) + BYTES_AN_EVENT


class Sink(Protocol):
    """A destination of task results."""

    def send(self, batch: list[Entry]) -> int:
        """Send a batch; return how many of its results the sink rejects for good. Raise an exception to retry."""


class File:
    """A file that is rotated when it is full. A number of old files is kept."""

    def __init__(self, path: str, size: int, keep: int) -> None:
        self._path, self._size, self._keep = Path(path), size, keep
        self._file = self._open()
        # Remove an incomplete line, left by a process that was killed. It will be sent again.
        if end := os.fstat(self._file).st_size:
            with mmap.mmap(self._file, end) as whole:
                os.ftruncate(self._file, whole.rfind(b"\n") + 1)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _old(self, age: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{age}")

    def _rotate(self) -> None:
        for age in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._old(age).replace(self._old(age + 1))
        self._path.replace(self._old(1))
        os.close(self._file)
        self._file = self._open()

    def send(self, batch: list[Entry]) -> int:
        lines: list[bytes] = []
        end = before = os.fstat(self._file).st_size
        for line in (f"{entry.message}\n".encode() for entry in batch):
            if end and end + len(line) > self._size:
                self._write(b"".join(lines), before)
                self._rotate()
                lines, end, before = [], 0, 0
            lines.append(line)
            end += len(line)
        self._write(b"".join(lines), before)
        return 0

    def _write(self, data: bytes, before: int) -> None:
        """Write data completely or, on a full disk, not at all."""
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            os.ftruncate(self._file, before)
            raise


def client(service: str, region: str, endpoint: str) -> Any:  # noqa: ANN401 - boto3 creates its types at run time
    """Return a client of an AWS service. boto3 finds the credentials.

    The client does not retry: Shipper retries, logs and counts failed calls.
    """
    import boto3  # noqa: PLC0415 - only installed where it is used
    from botocore.config import Config  # noqa: PLC0415 - as above

    config = Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 1})
    return boto3.client(service, region_name=region, endpoint_url=endpoint or None, config=config)


class CloudWatch:
    """A log stream of CloudWatch Logs."""

    def __init__(self, group: str, stream: str, region: str, endpoint: str = "") -> None:
        self._client = client("logs", region, endpoint)
        self._names = {"logGroupName": group, "logStreamName": stream}
        self._exists = False

    def send(self, batch: list[Entry]) -> int:
        if not self._exists:
            with contextlib.suppress(self._client.exceptions.ResourceAlreadyExistsException):
                self._client.create_log_stream(**self._names)
            self._exists = True
        in_order = sorted(batch, key=lambda entry: entry.time)
        return self._put([{"timestamp": int(entry.time * 1000), "message": entry.message} for entry in in_order])

    def _put(self, events: list[dict[str, Any]]) -> int:
        try:
            response = self._client.put_log_events(**self._names, logEvents=events)
        except self._client.exceptions.ResourceNotFoundException:
            self._exists = False
            raise
        except self._client.exceptions.InvalidParameterException as error:
            # The stream exists, so an event is invalid. Find it by bisection, as it must not block the others.
            if len(events) == 1:
                log.warning("CloudWatch rejects a task result: %s: %.200s", error, events[0]["message"])
                return 1
            half = len(events) // 2
            return self._put(events[:half]) + self._put(events[half:])
        return rejected(response.get("rejectedLogEventsInfo") or {}, len(events))


def rejected(info: Mapping[str, int], events: int) -> int:
    """Return how many events of a batch were rejected.

    Source: RejectedLogEventsInfo in the API reference of CloudWatch Logs. The indexes are the exclusive end of the old
    events, and the start of those in the future.
    """
    old = max(info.get("tooOldLogEventEndIndex", 0), info.get("expiredLogEventEndIndex", 0))
    return min(events, old + events - info.get("tooNewLogEventStartIndex", events))


@dataclass
class Statistics:
    """A StatisticSet of CloudWatch, in seconds."""

    count: int = 0
    sum: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def add(self, seconds: float | None) -> None:
        if seconds is not None:
            self.count += 1
            self.sum += seconds
            self.least, self.most = min(seconds, self.least), max(seconds, self.most)

    def datum(self) -> dict[str, Any]:
        values = {"SampleCount": self.count, "Sum": self.sum, "Minimum": self.least, "Maximum": self.most}
        return {"StatisticValues": values, "Unit": "Seconds"}


@dataclass
class Minute:
    """The results of a task and a queue in one minute."""

    states: Counter[str] = field(default_factory=Counter)
    wait: Statistics = field(default_factory=Statistics)
    run: Statistics = field(default_factory=Statistics)

    def add(self, result: Mapping[str, Any]) -> None:
        self.states[str(result.get("state", ""))] += 1
        self.wait.add(finite(result.get("wait")))
        self.run.add(finite(result.get("run")))

    def pack(self) -> list[Any]:
        return [self.states, vars(self.wait), vars(self.run)]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Minute:
        states, wait, run = packed
        return cls(Counter(states), Statistics(**wait), Statistics(**run))


#: The minute since the epoch, and the queue and the task.
Minutes = dict[tuple[int, str, str], Minute]


def dimension(value: str) -> str:
    """Return a valid value of a dimension: ASCII characters, and no colon first."""
    text = value[:LONGEST_NAME].encode("ascii", "replace").decode().lstrip(":")
    return text if text.strip() and text.isprintable() else "unknown"


def data(app: str, minutes: Minutes) -> Iterator[dict[str, Any]]:
    """Yield the metrics of minutes: Ended, with the state as a dimension, Wait and Run."""
    for (minute, queue, task), counted in minutes.items():
        names = {"App": app, "Queue": queue, "Task": task}
        rows = [
            ("Ended", {**names, "State": state}, {"Value": n, "Unit": "Count"}) for state, n in counted.states.items()
        ]
        rows += [
            (name, names, statistics.datum())
            for name, statistics in (("Wait", counted.wait), ("Run", counted.run))
            if statistics.count
        ]
        for name, dimensions, values in rows:
            yield {
                "MetricName": name,
                "Timestamp": datetime.fromtimestamp(minute * 60, UTC),
                "Dimensions": [{"Name": each, "Value": dimension(value)} for each, value in dimensions.items()],
                **values,
            }


def calls(minutes: Minutes) -> Iterator[Minutes]:
    """Yield minutes in parts that fit into a call of PutMetricData."""
    call: Minutes = {}
    size = 0
    for name, counted in minutes.items():
        most = len(counted.states) + 2
        if call and size + most > DATA_A_CALL:
            yield call
            call, size = {}, 0
        call[name] = counted
        size += most
    if call:
        yield call


class Metrics:
    """A namespace of CloudWatch metrics."""

    def __init__(self, namespace: str, app: str, region: str, endpoint: str = "") -> None:
        self._client = client("cloudwatch", region, endpoint)
        self._namespace, self._app = namespace, app

    def send(self, minutes: Minutes) -> None:
        """Send minutes that fit into a call. Raise an exception to retry."""
        self._client.put_metric_data(Namespace=self._namespace, MetricData=list(data(self._app, minutes)))


@dataclass
class State:
    """The persistent state, in one file, so that its parts are always consistent.

    Attributes:
        cursor: the journal's cursor of the last result that was sent.
        numbers: for each file of counts, the number of its latest result.
        minutes: minutes whose metrics were not sent yet.
        counters: totals since the first start.
    """

    cursor: str = ""
    numbers: dict[str, int] = field(default_factory=dict)
    minutes: Minutes = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)

    @classmethod
    def load(cls, path: Path) -> State:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            minutes = {(minute, queue, task): Minute.unpack(packed) for minute, queue, task, packed in raw["minutes"]}
            return cls(raw["cursor"], raw["numbers"], minutes, Counter(raw["counters"]))
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s can't be read, so the whole journal is sent again: %r", path, error)
            return cls()

    def save(self, path: Path) -> None:
        minutes = [[*name, minute.pack()] for name, minute in self.minutes.items()]
        content = {"cursor": self.cursor, "numbers": self.numbers, "minutes": minutes, "counters": self.counters}
        replace(path, json.dumps(content))

    def count_gaps(self, batch: Iterable[Entry]) -> int:
        """Return how many results are missing before a batch. A file of counts numbers them without gaps.

        Threads of a process may write them out of order, so they are sorted first.
        """
        numbered = [(str(entry.result.get("source", "")), finite(entry.result.get("number"))) for entry in batch]
        lost = 0
        for source, this in sorted((source, int(this)) for source, this in numbered if this is not None):
            last = self.numbers.pop(source, this - 1)
            lost += max(0, this - last - 1)
            self.numbers[source] = this
        while len(self.numbers) > MOST_SOURCES:
            del self.numbers[next(iter(self.numbers))]
        return lost


@dataclass
class Pause:
    """The pause before a failed service is called again: doubled after each failure, up to a minute."""

    seconds: float = 0.0
    until: float = 0.0

    def lengthen(self) -> None:
        self.seconds = min(max(FIRST_PAUSE, 2 * self.seconds), LONGEST_PAUSE)
        self.until = time.monotonic() + self.seconds

    def reset(self) -> None:
        self.seconds = self.until = 0.0


@dataclass
class Shipper:
    """Sends batches to a sink, and keeps the state, the metrics and the counters."""

    app: str
    sink: Sink
    state: State
    state_file: Path
    metrics_file: Path
    metrics: Metrics | None = None
    pause: Pause = field(default_factory=Pause)
    metrics_pause: Pause = field(default_factory=Pause)

    def ship(self, batch: list[Entry]) -> bool:
        """Send a batch, and return whether the sink accepted it."""
        counters = self.state.counters
        try:
            refused = self.sink.send(batch)
        except Exception as error:  # any error: the journal keeps the results
            counters["failures"] += 1
            self.pause.lengthen()
            log.warning("%d task results can't be sent. Retry in %.0f s: %s", len(batch), self.pause.seconds, error)
            self.write_metrics(batch[0].time)
            return False
        self.pause.reset()
        if refused:
            log.warning(
                "The sink rejected %d of %d task results: they are too old or invalid",
                refused,
                len(batch),
            )
        counters["sent"] += len(batch) - refused
        counters["rejected"] += refused
        counters["lost"] += self.state.count_gaps(batch)
        if self.metrics:
            for entry in batch:
                queue, task = str(entry.result.get("queue", "")), str(entry.result.get("task", ""))
                self.state.minutes.setdefault((int(entry.time) // 60, queue, task), Minute()).add(entry.result)
        self.state.cursor = batch[-1].cursor
        self.save(batch[-1].time)
        return True

    def send_metrics(self, now: float) -> None:
        """Send the metrics of past minutes.

        Metrics must not block the log. If they are not accepted, at most MOST_MINUTES are kept for a retry.

        Args:
            now: seconds since the epoch.
        """
        minutes, counters, this = self.state.minutes, self.state.counters, int(now) // 60
        over = sorted(name for name in minutes if name[0] < this)
        if not self.metrics or not over or time.monotonic() < self.metrics_pause.until:
            return
        unsent: list[tuple[int, str, str]] = []
        for call in calls({name: minutes[name] for name in over if name[0] > this - OLDEST_MINUTE}):
            if not unsent:
                try:
                    self.metrics.send(call)
                    self.metrics_pause.reset()
                    continue
                except Exception as error:  # any error: the minutes are kept
                    counters["failures"] += 1
                    self.metrics_pause.lengthen()
                    log.warning("Metrics can't be sent. Retry in %.0f s: %s", self.metrics_pause.seconds, error)
            unsent += call
        kept = unsent[-MOST_MINUTES:]
        dropped = sum(name[0] <= this - OLDEST_MINUTE for name in over) + len(unsent) - len(kept)
        counters["metrics_dropped"] += dropped
        for name in set(over) - set(kept):
            del minutes[name]
        self.save(now)

    def save(self, reached: float) -> None:
        try:
            self.state.save(self.state_file)
        except OSError as error:
            # An exit here would send the same results again and again. So they are sent again once, after a restart.
            self.state.counters["failures"] += 1
            log.warning("The state can't be saved, so results are sent again after a restart: %s", error)
        self.write_metrics(reached)

    def write_metrics(self, reached: float) -> None:
        """Write the shipper's metrics to a file for the node exporter's textfile collector.

        Args:
            reached: time of the last result that was sent, or of the first that can't be, in seconds since the epoch.
        """
        behind = round(max(0.0, time.time() - reached), 1)
        rows: list[tuple[str, str, str, float]] = [
            (f"{name}_total", "counter", text, self.state.counters[name]) for name, text in COUNTERS.items()
        ]
        rows.append(
            (
                "behind_seconds",
                "gauge",
                "Age of the last result that was sent, or of the first that can't be sent.",
                behind,
            )
        )
        lines = (
            f"# HELP celery_task_log_{name} {text}\n# TYPE celery_task_log_{name} {kind}\n"
            f'celery_task_log_{name}{{app="{self.app}"}} {value}\n'
            for name, kind, text, value in rows
        )
        replace(self.metrics_file, "".join(lines))


def replace(path: Path, text: str) -> None:
    """Write a file atomically."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def batches(entries: Iterator[Entry | None]) -> Iterator[list[Entry]]:
    """Yield batches of entries that arrive within a second or so, and fit into one call of a sink; or an empty one.

    Args:
        entries: None stands for a pause in the journal.
    """
    batch: list[Entry] = []
    size, since = 0, 0.0
    for entry in entries:
        full = (
            entry
            and batch
            and (
                len(batch) == LONGEST_BATCH
                or size + entry.size > BATCH_BYTES
                or abs(entry.time - batch[0].time) > BATCH_SPAN
            )
        )
        if full or time.monotonic() - since >= BATCH_SECONDS:
            yield batch
            batch, size, since = [], 0, time.monotonic()
        if entry:
            batch.append(entry)
            size += entry.size


def follow(
    namespace: str, cursor: str, malformed: Callable[[], None], wait: float = 0.5
) -> Generator[Entry | None, None, None]:
    """Yield task results from the journal after a cursor; None stands for a pause.

    Args:
        malformed: called for each entry that is not a task result.

    Raises:
        RuntimeError: journalctl exited.
    """
    # Without --all, a field longer than 4096 bytes is null. Any user may write to the journal, so only entries of this
    # user, as whom the workers run, are read.
    command = ["journalctl", f"--namespace={namespace}", "--output=json", "--all", "--output-fields=MESSAGE", "--quiet"]
    command += ["--follow", "--no-tail", *([f"--after-cursor={cursor}"] if cursor else [])]
    command += ["SYSLOG_IDENTIFIER=celery", f"_UID={os.getuid()}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout  # noqa: S101 - it is a pipe
        selector = selectors.DefaultSelector()
        selector.register(process.stdout, selectors.EVENT_READ)
        try:
            rest = b""
            while True:
                if not selector.select(wait):
                    yield None
                    continue
                # Read all that is available: buffered lines would not wake the selector again.
                chunk = os.read(process.stdout.fileno(), BATCH_BYTES)
                if not chunk:
                    raise RuntimeError(f"journalctl exited with code {process.wait()}")
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    try:
                        yield Entry.of(line)
                    except ValueError as error:
                        malformed()
                        log.warning("Not a task result: %s", error)
        finally:
            process.terminate()


def sink_of(config: Mapping[str, Any]) -> Sink:
    """Return the configured sink."""
    options = dict(config)
    kinds: dict[str, Callable[..., Sink]] = {"file": File, "cloudwatch": CloudWatch}
    return kinds[options.pop("kind")](**options)


def run(config: Mapping[str, Any], stopping: threading.Event) -> None:
    """Ship task results until the event is set.

    While the sink accepts nothing, no journalctl is running. It would keep deleted files of the journal open, and so
    exceed the journal's limit on the disk.
    """
    state_file = Path(config["state"])
    metrics = Metrics(app=config["app"], **config["metrics"]) if config.get("metrics") else None
    state = State.load(state_file)
    shipper = Shipper(config["app"], sink_of(config["sink"]), state, state_file, Path(config["metrics_file"]), metrics)
    shipper.write_metrics(time.time())

    def malformed() -> None:
        state.counters["malformed"] += 1

    while not stopping.is_set():
        with contextlib.closing(follow(config["namespace"], state.cursor, malformed)) as entries:
            for batch in batches(entries):
                accepted = shipper.ship(batch) if batch else True
                if not batch:
                    # Also without results: an old file shows that the shipper hangs.
                    shipper.write_metrics(time.time())
                shipper.send_metrics(time.time())
                if not accepted or stopping.is_set():
                    break
        stopping.wait(max(0.0, shipper.pause.until - time.monotonic()))


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), stopping)


if __name__ == "__main__":
    main()
