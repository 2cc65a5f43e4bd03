#!/usr/bin/python3
"""Brings the ends of tasks from the journal to where they are searched for: a file, or CloudWatch.

Usage: celery_task_shipper.py CONFIG. The journal is the spool: it is bounded, and no worker waits for this program.
What a sink has taken is noted together with the journal's cursor, so nothing is left out or sent twice when this is
restarted, but for a batch that was on its way. What the journal dropped before it was sent is counted by the gaps in
the ends' numbers.
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

log = logging.getLogger("celery_task_shipper")
#: Of a call of PutLogEvents, source: its API reference. The other sinks fit into them. One event may have 1 MB (256 KB
#: until 2025), and no end of a task comes near: as a datagram it has less than 208 KB.
LONGEST_BATCH, BATCH_BYTES, BYTES_AN_EVENT, BATCH_SPAN = 10_000, 1_048_576, 26, 24 * 3600
#: Of a call of PutMetricData, whose limits are 1000 metrics and 1 MB: so many of the longest names fit.
DATA_A_CALL = 500
#: Of a dimension's value in CloudWatch, which may have 1024 characters.
LONGEST_NAME = 255
BATCH_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: Minutes of a task and queue that are kept where CloudWatch takes the log and not the metrics.
MOST_MINUTES = 5000
#: How many minutes ago something may have been to be taken as a metric, source: API reference, PutMetricData.
OLDEST_MINUTE = 14 * 24 * 60
#: Files of counts whose numbers are remembered.
MOST_SOURCES = 1000
COUNTERS = {
    "sent": "Ends of tasks that the sink has taken.",
    "rejected": "Ends of tasks that the sink does not take, such as those that are too old for it.",
    "lost": "Ends of tasks that the journal dropped before they were sent.",
    "malformed": "Entries of the journal that are no ends of tasks.",
    "failures": "Calls of the sink that failed, and notes of what was sent that could not be written.",
    "metrics_dropped": "Minutes of a task and queue that CloudWatch did not take as metrics.",
}


def number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


@dataclass(frozen=True)
class Entry:
    """The end of a task.

    Attributes:
        cursor: its place in the journal.
        time: seconds since the epoch.
        message: one line of JSON.
        told: what that says.
    """

    cursor: str
    time: float
    message: str
    told: Mapping[str, Any]

    @classmethod
    def of(cls, line: bytes) -> Entry:
        """Take up a line of the journal's export as JSON.

        Raises:
            ValueError: its message is none of ours.
        """
        raw = json.loads(line)
        message = raw.get("MESSAGE")
        # What is no text, or is there twice, comes as a list.
        told = json.loads(message) if isinstance(message, str) else None
        if not isinstance(told, dict):
            raise ValueError(f"no JSON object: {message!r:.200}")
        return cls(raw["__CURSOR"], int(raw["__REALTIME_TIMESTAMP"]) / 1e6, message, told)

    @property
    def size(self) -> int:
        return len(self.message.encode()) + BYTES_AN_EVENT


class Sink(Protocol):
    """Where ends of tasks are brought to."""

    def send(self, batch: list[Entry]) -> int:
        """Take all of them, or raise whatever is wrong; returns how many it will never take."""


class File:
    """A file that begins anew when it is full; so many old ones are kept."""

    def __init__(self, path: str, size: int, keep: int) -> None:
        self._path, self._size, self._keep = Path(path), size, keep
        self._file = self._open()
        # Whoever wrote before was killed in the middle of a line, which will come again.
        if end := os.fstat(self._file).st_size:
            with mmap.mmap(self._file, end) as whole:
                os.ftruncate(self._file, whole.rfind(b"\n") + 1)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _old(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _begin_anew(self) -> None:
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
                self._begin_anew()
                lines, end, before = [], 0, 0
            lines.append(line)
            end += len(line)
        self._write(b"".join(lines), before)
        return 0

    def _write(self, data: bytes, before: int) -> None:
        """Write all of it or, where the disk is full, nothing."""
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            os.ftruncate(self._file, before)
            raise


def client(service: str, region: str, endpoint: str) -> Any:  # noqa: ANN401 - boto3's are made as it runs
    """Return a client of AWS, whose credentials are where boto3 looks for them.

    What fails is tried again by the one who asks, who says so and counts it.
    """
    import boto3  # noqa: PLC0415 - there only where it is used
    from botocore.config import Config  # noqa: PLC0415 - as above

    config = Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 1})
    return boto3.client(service, region_name=region, endpoint_url=endpoint or None, config=config)


class CloudWatch:
    """A stream of CloudWatch Logs."""

    def __init__(self, group: str, stream: str, region: str, endpoint: str = "") -> None:
        self._client = client("logs", region, endpoint)
        self._names = {"logGroupName": group, "logStreamName": stream}
        self._there = False

    def send(self, batch: list[Entry]) -> int:
        if not self._there:
            with contextlib.suppress(self._client.exceptions.ResourceAlreadyExistsException):
                self._client.create_log_stream(**self._names)
            self._there = True
        in_order = sorted(batch, key=lambda entry: entry.time)
        return self._put([{"timestamp": int(entry.time * 1000), "message": entry.message} for entry in in_order])

    def _put(self, events: list[dict[str, Any]]) -> int:
        try:
            answer = self._client.put_log_events(**self._names, logEvents=events)
        except self._client.exceptions.ResourceNotFoundException:
            self._there = False
            raise
        except self._client.exceptions.InvalidParameterException as error:
            # The names are right, or there would be no stream. One of these must not hold up the others for ever.
            if len(events) == 1:
                log.warning("CloudWatch never takes this: %s: %.200s", error, events[0]["message"])
                return 1
            half = len(events) // 2
            return self._put(events[:half]) + self._put(events[half:])
        return rejected(answer.get("rejectedLogEventsInfo") or {}, len(events))


def rejected(info: Mapping[str, int], events: int) -> int:
    """Return how many of so many events were rejected.

    Source: RejectedLogEventsInfo in the API reference of CloudWatch Logs: where the old ones end, that one excluded,
    and where those of the future begin.
    """
    old = max(info.get("tooOldLogEventEndIndex", 0), info.get("expiredLogEventEndIndex", 0))
    return min(events, old + events - info.get("tooNewLogEventStartIndex", events))


@dataclass
class Statistics:
    """A set of seconds, as CloudWatch takes it."""

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
    """What became of the tasks of one name and queue that ended in a minute."""

    states: Counter[str] = field(default_factory=Counter)
    wait: Statistics = field(default_factory=Statistics)
    run: Statistics = field(default_factory=Statistics)

    def add(self, told: Mapping[str, Any]) -> None:
        self.states[str(told.get("state", ""))] += 1
        self.wait.add(number(told.get("wait")))
        self.run.add(number(told.get("run")))

    def pack(self) -> list[Any]:
        return [self.states, vars(self.wait), vars(self.run)]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Minute:
        states, wait, run = packed
        return cls(Counter(states), Statistics(**wait), Statistics(**run))


#: The minute since the epoch, and the queue and the task.
Minutes = dict[tuple[int, str, str], Minute]


def dimension(value: str) -> str:
    """Return a name as CloudWatch takes it: some ASCII characters, and no colon first."""
    text = value[:LONGEST_NAME].encode("ascii", "replace").decode().lstrip(":")
    return text if text.strip() and text.isprintable() else "unknown"


def data(app: str, minutes: Minutes) -> Iterator[dict[str, Any]]:
    """Yield what minutes are to CloudWatch: three metrics, of which the count has the state as a dimension."""
    for (minute, queue, task), counted in minutes.items():
        names = {"App": app, "Queue": queue, "Task": task}
        found = [
            ("Ended", {**names, "State": state}, {"Value": n, "Unit": "Count"}) for state, n in counted.states.items()
        ]
        found += [
            (name, names, statistics.datum())
            for name, statistics in (("Wait", counted.wait), ("Run", counted.run))
            if statistics.count
        ]
        for name, dimensions, values in found:
            yield {
                "MetricName": name,
                "Timestamp": datetime.fromtimestamp(minute * 60, UTC),
                "Dimensions": [{"Name": each, "Value": dimension(value)} for each, value in dimensions.items()],
                **values,
            }


def calls(minutes: Minutes) -> Iterator[Minutes]:
    """Yield the parts of them that fit into a call of PutMetricData each."""
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
    """A namespace of CloudWatch's metrics."""

    def __init__(self, namespace: str, app: str, region: str, endpoint: str = "") -> None:
        self._client = client("cloudwatch", region, endpoint)
        self._namespace, self._app = namespace, app

    def send(self, minutes: Minutes) -> None:
        """Take those that fit into a call, or raise whatever is wrong."""
        self._client.put_metric_data(Namespace=self._namespace, MetricData=list(data(self._app, minutes)))


@dataclass
class State:
    """What outlives this process, as one file, so that its parts always fit together.

    Attributes:
        cursor: the journal's, of the last that was sent.
        numbers: of the last end that each file of counts told.
        minutes: what CloudWatch's metrics still have to be told.
        counters: since the beginning.
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
            log.warning("%s can't be read, all that the journal has is sent again: %r", path, error)
            return cls()

    def save(self, path: Path) -> None:
        minutes = [[*name, minute.pack()] for name, minute in self.minutes.items()]
        content = {"cursor": self.cursor, "numbers": self.numbers, "minutes": minutes, "counters": self.counters}
        replace(path, json.dumps(content))

    def see(self, batch: Iterable[Entry]) -> int:
        """Return how many ends are missing before these: those of one file of counts are numbered without a gap.

        Threads of one process may have overtaken each other, so they are put in order first.
        """
        told = [(str(entry.told.get("source", "")), number(entry.told.get("number"))) for entry in batch]
        lost = 0
        for source, this in sorted((source, int(this)) for source, this in told if this is not None):
            last = self.numbers.pop(source, this - 1)
            lost += max(0, this - last - 1)
            self.numbers[source] = this
        while len(self.numbers) > MOST_SOURCES:
            del self.numbers[next(iter(self.numbers))]
        return lost


@dataclass
class Pause:
    """How long to leave a service alone: longer each time that it fails, and never longer than a minute."""

    seconds: float = 0.0
    until: float = 0.0

    def lengthen(self) -> None:
        self.seconds = min(max(FIRST_PAUSE, 2 * self.seconds), LONGEST_PAUSE)
        self.until = time.monotonic() + self.seconds

    def end(self) -> None:
        self.seconds = self.until = 0.0


@dataclass
class Shipper:
    """Sends batches, and keeps account."""

    app: str
    sink: Sink
    state: State
    state_file: Path
    metrics_file: Path
    metrics: Metrics | None = None
    pause: Pause = field(default_factory=Pause)
    metrics_pause: Pause = field(default_factory=Pause)

    def ship(self, batch: list[Entry]) -> bool:
        """Return whether the sink has taken a batch."""
        counters = self.state.counters
        try:
            refused = self.sink.send(batch)
        except Exception as error:  # whatever it is: the journal has them
            counters["failures"] += 1
            self.pause.lengthen()
            log.warning("%d ends of tasks can't be sent, again in %.0f s: %s", len(batch), self.pause.seconds, error)
            self.tell(batch[0].time)
            return False
        self.pause.end()
        if refused:
            log.warning(
                "The sink did not take %d of %d ends of tasks: they are too old for it, or not valid",
                refused,
                len(batch),
            )
        counters["sent"] += len(batch) - refused
        counters["rejected"] += refused
        counters["lost"] += self.state.see(batch)
        if self.metrics:
            for entry in batch:
                queue, task = str(entry.told.get("queue", "")), str(entry.told.get("task", ""))
                self.state.minutes.setdefault((int(entry.time) // 60, queue, task), Minute()).add(entry.told)
        self.state.cursor = batch[-1].cursor
        self.save(batch[-1].time)
        return True

    def measure(self, now: float) -> None:
        """Send the metrics of the minutes that are over.

        They may not hold up the log, so they are kept apart where they are not taken, and no more than so many.

        Args:
            now: seconds since the epoch.
        """
        minutes, counters, this = self.state.minutes, self.state.counters, int(now) // 60
        over = sorted(name for name in minutes if name[0] < this)
        if not self.metrics or not over or time.monotonic() < self.metrics_pause.until:
            return
        untaken: list[tuple[int, str, str]] = []
        for call in calls({name: minutes[name] for name in over if name[0] > this - OLDEST_MINUTE}):
            if not untaken:
                try:
                    self.metrics.send(call)
                    self.metrics_pause.end()
                    continue
                except Exception as error:  # as above
                    counters["failures"] += 1
                    self.metrics_pause.lengthen()
                    log.warning("Metrics can't be sent, again in %.0f s: %s", self.metrics_pause.seconds, error)
            untaken += call
        kept = untaken[-MOST_MINUTES:]
        dropped = sum(name[0] <= this - OLDEST_MINUTE for name in over) + len(untaken) - len(kept)
        counters["metrics_dropped"] += dropped
        for name in set(over) - set(kept):
            del minutes[name]
        self.save(now)

    def save(self, reached: float) -> None:
        try:
            self.state.save(self.state_file)
        except OSError as error:
            # To end here would be to send the same again and again. So it is sent again once, after a restart.
            self.state.counters["failures"] += 1
            log.warning("What is sent now comes again after a restart: %s", error)
        self.tell(reached)

    def tell(self, reached: float) -> None:
        """Tell Prometheus how far it is, by a file that the node exporter reads."""
        behind = round(max(0.0, time.time() - reached), 1)
        told: list[tuple[str, str, str, float]] = [
            (f"{name}_total", "counter", text, self.state.counters[name]) for name, text in COUNTERS.items()
        ]
        told.append(
            (
                "behind_seconds",
                "gauge",
                "How long ago the last that was sent ended, or the first that can't be.",
                behind,
            )
        )
        lines = (
            f"# HELP celery_task_log_{name} {text}\n# TYPE celery_task_log_{name} {kind}\n"
            f'celery_task_log_{name}{{app="{self.app}"}} {value}\n'
            for name, kind, text, value in told
        )
        replace(self.metrics_file, "".join(lines))


def replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def batches(entries: Iterator[Entry | None]) -> Iterator[list[Entry]]:
    """Yield what comes within a second or so, and fits into one call of a sink; nothing where nothing comes.

    Args:
        entries: None when there is nothing yet.
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
    """Yield the ends of tasks from the journal, those after a cursor first; None when there is nothing yet.

    Args:
        malformed: called for each entry that is no end of a task.

    Raises:
        RuntimeError: journalctl ended.
    """
    # Without --all, what is longer than 4096 bytes comes as null. Anybody may write to the journal: only what came from
    # this user is taken, and the workers run as it.
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
                # What can be read at once: a line that came with others would not wake the selector again.
                chunk = os.read(process.stdout.fileno(), BATCH_BYTES)
                if not chunk:
                    raise RuntimeError(f"journalctl ended with {process.wait()}")
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    try:
                        yield Entry.of(line)
                    except ValueError as error:
                        malformed()
                        log.warning("Not the end of a task: %s", error)
        finally:
            process.terminate()


def sink_of(config: Mapping[str, Any]) -> Sink:
    options = dict(config)
    kinds: dict[str, Callable[..., Sink]] = {"file": File, "cloudwatch": CloudWatch}
    return kinds[options.pop("kind")](**options)


def run(config: Mapping[str, Any], stopping: threading.Event) -> None:
    """Ship until it is time to stop.

    While the sink takes nothing, no journalctl runs: it would keep files open that the journal has removed, and the
    disk would hold more than it may.
    """
    state_file = Path(config["state"])
    metrics = Metrics(app=config["app"], **config["metrics"]) if config.get("metrics") else None
    state = State.load(state_file)
    shipper = Shipper(config["app"], sink_of(config["sink"]), state, state_file, Path(config["metrics_file"]), metrics)
    shipper.tell(time.time())

    def malformed() -> None:
        state.counters["malformed"] += 1

    while not stopping.is_set():
        with contextlib.closing(follow(config["namespace"], state.cursor, malformed)) as entries:
            for batch in batches(entries):
                taken = shipper.ship(batch) if batch else True
                if not batch:
                    # That nothing came is told too: by a file that grows old, one that hangs is seen.
                    shipper.tell(time.time())
                shipper.measure(time.time())
                if not taken or stopping.is_set():
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
