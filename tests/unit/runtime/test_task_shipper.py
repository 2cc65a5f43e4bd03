"""Task results arrive at a sink once and in order, and missing ones are counted."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import importlib
import json
import resource
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.services import task_log
from moto.backends import get_backend
from moto.server import ThreadedMotoServer

REGION, GROUP, STREAM, NAMESPACE = "eu-central-1", "/celery/shop", "worker1", "Celery/shop"
#: A moment in the middle of a minute.
NOW = time.time() // 60 * 60 - 90
SOURCE = "shop-email@1.0.0.0@worker1"
DEADLINE_SECONDS = 30.0


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.reload(task_log)
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(module, "BATCH_SECONDS", 0.05)
    return module


def told(number: int, **more: Any) -> dict[str, Any]:
    what = {"state": "SUCCESS", "task": "customers.sync", "queue": "email", "wait": 0.5, "run": 2.0}
    return {**what, "source": SOURCE, "number": number, **more}


def journal_line(number: int, at: float = NOW, **more: Any) -> bytes:
    entry = {
        "__CURSOR": f"s={number}",
        "__REALTIME_TIMESTAMP": str(int(at * 1e6)),
        "MESSAGE": json.dumps(told(number, **more)),
    }
    return json.dumps(entry).encode()


def entry(module: Any, number: int, at: float = NOW, **more: Any) -> Any:
    return module.Entry.of(journal_line(number, at, **more))


def wait_until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


# -- batches, and what keeps account of them --


@dataclass
class Deaf:
    """A sink that fails at first."""

    refusals: int = 0
    taken: list[Any] = field(default_factory=list)

    def send(self, batch: list[Any]) -> int:
        if self.refusals:
            self.refusals -= 1
            raise OSError("no route to host")
        self.taken += batch
        return 0


def shipper(module: Any, directory: Path, sink: Any, metrics: Any = None) -> Any:
    """Return a shipper that continues from the state in a directory."""
    state_file = directory / "state.json"
    return module.Shipper("shop", sink, module.State.load(state_file), state_file, directory / "metrics.prom", metrics)


def metrics(directory: Path) -> dict[str, float]:
    """Return the shipper's metrics; all are 0 before it runs."""
    path = directory / "metrics.prom"
    lines = path.read_text().splitlines() if path.exists() else []
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    told = {
        name.removesuffix('{app="shop"}').removeprefix("celery_task_log_"): float(value) for name, _, value in samples
    }
    return defaultdict(float, told)


def test_results_are_sent_in_batches(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "BATCH_SECONDS", 1.0)

    def come() -> Iterator[Any]:
        for now[0], number in ((5.0, 0), (5.1, 1), (5.2, 2), (5.7, 0), (6.1, 3), (6.6, 0), (7.2, 0), (9.0, 0)):
            yield entry(module, number) if number else None

    found = [[each.cursor for each in batch] for batch in module.batches(come())]
    # Where nothing comes, it is time to look whether there is something else to do.
    assert found == [[], ["s=1", "s=2"], ["s=3"], []]


@pytest.mark.parametrize(("limit", "value"), [("LONGEST_BATCH", 2), ("BATCH_BYTES", 2 * 300), ("BATCH_SPAN", 15)])
def test_a_batch_fits_into_one_call(module: Any, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(module, limit, value)
    entries = [entry(module, number, NOW + 10 * number, more="x" * 80) for number in range(5)]
    assert all(200 < each.size <= 300 for each in entries)
    assert [len(batch) for batch in module.batches(iter(entries))] == [2, 2]


def test_the_pause_grows_to_a_minute_and_ends(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 60.0)
    sink = Deaf(8)
    one = shipper(module, tmp_path, sink)
    pauses = []
    while not one.ship([entry(module, 1), entry(module, 2)]):
        pauses.append(one.pause.seconds)
        assert metrics(tmp_path)["behind_seconds"] > 60
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert one.pause.seconds == 0
    assert [each.cursor for each in sink.taken] == ["s=1", "s=2"]
    assert (metrics(tmp_path)["sent_total"], metrics(tmp_path)["failures_total"]) == (2, 8)


def test_results_that_the_journal_dropped_are_counted(module: Any, tmp_path: Path) -> None:
    # Where it begins, nobody knows what was before; other files have numbers of their own.
    shipper(module, tmp_path, Deaf()).ship([entry(module, number) for number in (7, 8, 12)])
    assert metrics(tmp_path)["lost_total"] == 3
    again = shipper(module, tmp_path, Deaf())
    again.ship([entry(module, 1, source="shop-video@1.0.0.0@worker1"), entry(module, 14)])
    assert metrics(tmp_path)["lost_total"] == 4
    assert again.state.cursor == "s=14"


def test_results_out_of_order_are_no_gap(module: Any, tmp_path: Path) -> None:
    shipper(module, tmp_path, Deaf()).ship([entry(module, number) for number in (1, 3, 2, 5, 4)])
    assert metrics(tmp_path)["lost_total"] == 0


def test_numbers_that_begin_again_are_no_gap(module: Any, tmp_path: Path) -> None:
    one = shipper(module, tmp_path, Deaf())
    one.ship([entry(module, 900)])
    one.ship([entry(module, 1)])
    one.ship([entry(module, 2)])
    assert metrics(tmp_path)["lost_total"] == 0


def test_the_number_of_sources_in_the_state_is_limited(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SOURCES", 3)
    one = shipper(module, tmp_path, Deaf())
    for number in range(10):
        one.ship([entry(module, 1, source=f"shop-email@{number}.0@worker1")])
    assert list(one.state.numbers) == [f"shop-email@{number}.0@worker1" for number in (7, 8, 9)]


def test_an_unreadable_state_is_reset(module: Any, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"cursor": "s=')
    assert shipper(module, tmp_path, Deaf()).state.cursor == ""


def test_a_state_that_cannot_be_written_repeats_nothing_until_a_restart(module: Any, tmp_path: Path) -> None:
    one = shipper(module, tmp_path, Deaf())
    one.state_file = tmp_path / "gone" / "state.json"
    assert one.ship([entry(module, 1)])
    assert one.ship([entry(module, 2)])
    assert one.state.cursor == "s=2"
    assert (metrics(tmp_path)["sent_total"], metrics(tmp_path)["failures_total"]) == (2, 2)


@pytest.mark.parametrize("message", [None, "hello", [1, 2], '["a list"]', "1"])
def test_an_invalid_entry_is_refused(module: Any, message: object) -> None:
    line = json.dumps({"__CURSOR": "s=1", "__REALTIME_TIMESTAMP": "1", "MESSAGE": message})
    with pytest.raises(ValueError, match=r"not a JSON object|Expecting value"):
        module.Entry.of(line.encode())


# -- the file --


def file_sink(module: Any, directory: Path, size: int = 1000, keep: int = 2) -> Any:
    return module.sink_of({"kind": "file", "path": str(directory / "tasks.jsonl"), "size": size, "keep": keep})


def numbers(*paths: Path) -> list[int]:
    return [json.loads(line)["number"] for path in paths for line in path.read_text().splitlines()]


def test_a_full_file_is_rotated(module: Any, tmp_path: Path) -> None:
    file_sink(module, tmp_path).send([entry(module, number) for number in range(25)])
    file_sink(module, tmp_path).send([entry(module, number) for number in range(25, 50)])
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["tasks.jsonl", "tasks.jsonl.1", "tasks.jsonl.2"]
    assert all(path.stat().st_size <= 1000 for path in files)
    assert all(path.stat().st_mode & 0o777 == 0o640 for path in files)
    kept = numbers(*reversed(files))
    assert kept == list(range(50 - len(kept), 50))


def test_a_line_longer_than_the_file_is_kept_whole(module: Any, tmp_path: Path) -> None:
    sink = file_sink(module, tmp_path)
    sink.send([entry(module, 1, more="x" * 2000), entry(module, 2)])
    assert numbers(tmp_path / "tasks.jsonl.1", tmp_path / "tasks.jsonl") == [1, 2]


def test_an_incomplete_line_is_replaced(module: Any, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"number": 1}\n{"numb')
    file_sink(module, tmp_path).send([entry(module, 2)])
    assert numbers(tmp_path / "tasks.jsonl") == [1, 2]


def test_a_full_disk_breaks_no_line_and_repeats_none(module: Any, tmp_path: Path) -> None:
    sink = file_sink(module, tmp_path, size=100_000)
    sink.send([entry(module, 1)])
    one = shipper(module, tmp_path, sink)
    batch = [entry(module, number) for number in range(2, 50)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # To the one who writes, a file that may not grow is a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            sink.send(batch)
        assert numbers(tmp_path / "tasks.jsonl") == [1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert one.ship(batch)
    assert numbers(tmp_path / "tasks.jsonl") == list(range(1, 50))


# -- CloudWatch, as moto plays it over HTTP --


@dataclass
class Cloud:
    """A simulated AWS, which can be stopped."""

    port: int
    server: ThreadedMotoServer | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, service: str) -> Any:
        return boto3.client(service, region_name=REGION, endpoint_url=self.endpoint)

    def start(self) -> None:
        self.server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()

    def stop(self) -> None:
        if self.server:
            self.server.stop()
            self.server = None

    def logged(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        for page in self.client("logs").get_paginator("filter_log_events").paginate(logGroupName=GROUP):
            events += [json.loads(event["message"]) for event in page["events"]]
        return events

    def statistics(self, name: str, *statistics: str, **dimensions: str) -> dict[str, float]:
        """Return the statistics of a metric in the minute of NOW."""
        named = {"App": "shop", "Queue": "email", "Task": "customers.sync", **dimensions}
        minute = datetime.fromtimestamp(NOW // 60 * 60, UTC)
        (point,) = self.client("cloudwatch").get_metric_statistics(
            Namespace=NAMESPACE,
            MetricName=name,
            Dimensions=[{"Name": key, "Value": value} for key, value in named.items()],
            StartTime=minute,
            EndTime=minute + timedelta(minutes=1),
            Period=60,
            Statistics=statistics,
        )["Datapoints"]
        return {statistic: point[statistic] for statistic in statistics}


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture(scope="module")
def server() -> Iterator[Cloud]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Cloud(free.getsockname()[1])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def cloud(server: Cloud, credentials: None) -> Iterator[Cloud]:  # noqa: ARG001 - they are there as long as it is
    server.client("logs").create_log_group(logGroupName=GROUP)
    yield server
    # What moto knows is this process's, not the server's.
    for service in ("logs", "cloudwatch"):
        get_backend(service).reset()


def log_sink(module: Any, cloud: Cloud) -> Any:
    sink = {"kind": "cloudwatch", "group": GROUP, "stream": STREAM, "region": REGION, "endpoint": cloud.endpoint}
    return module.sink_of(sink)


def metrics_sink(module: Any, cloud: Cloud) -> Any:
    return module.Metrics(NAMESPACE, "shop", REGION, cloud.endpoint)


@dataclass
class Journal:
    """A simulated journal: a file, and a journalctl that reads it."""

    path: Path
    count: int = 0

    def write(self, number: int, **more: Any) -> None:
        with self.path.open("ab") as file:
            for _ in range(number):
                self.count += 1
                file.write(journal_line(self.count, **more) + b"\n")


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    journal = Journal(tmp_path / "journal")
    journal.path.touch()
    program = tmp_path / "bin" / "journalctl"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\nafter=0\n"
        "for each; do case $each in --after-cursor=s=*) after=${each#--after-cursor=s=};; esac; done\n"
        f"exec tail -n +$((after + 1)) -f {journal.path}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return journal


@contextmanager
def running(
    module: Any, directory: Path, sink: dict[str, Any], metrics: dict[str, Any] | None = None
) -> Iterator[None]:
    """Run the shipper as its service does, and stop it by its signal."""
    config = {
        "app": "shop",
        "namespace": "shop",
        "state": str(directory / "state.json"),
        "metrics_file": str(directory / "metrics.prom"),
        "sink": sink,
        "metrics": metrics,
    }
    stopping = threading.Event()
    thread = threading.Thread(target=module.run, args=(config, stopping))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive(), "it does not stop"


def test_results_arrive_once_and_in_order_after_an_outage_of_the_endpoint(
    module: Any, cloud: Cloud, journal: Journal, tmp_path: Path
) -> None:
    cloud.stop()
    sink = {"kind": "cloudwatch", "group": GROUP, "stream": STREAM, "region": REGION, "endpoint": cloud.endpoint}
    journal.write(100)
    with running(module, tmp_path, sink):
        wait_until(lambda: metrics(tmp_path)["failures_total"] >= 3, "nobody tried again")
        assert metrics(tmp_path)["sent_total"] == 0
        journal.write(50)
        cloud.start()
        wait_until(lambda: metrics(tmp_path)["sent_total"] == 150, "they don't arrive")
    # It goes on where it was, and knows what it did.
    journal.write(50)
    with running(module, tmp_path, sink):
        wait_until(lambda: metrics(tmp_path)["sent_total"] == 200, "it does not go on")
    assert [event["number"] for event in cloud.logged()] == list(range(1, 201))
    assert (metrics(tmp_path)["lost_total"], metrics(tmp_path)["rejected_total"]) == (0, 0)


def test_an_invalid_entry_blocks_nothing(module: Any, journal: Journal, tmp_path: Path) -> None:
    journal.write(1)
    with journal.path.open("ab") as file:
        file.write(b'{"__CURSOR": "s=2", "__REALTIME_TIMESTAMP": "1", "MESSAGE": null}\n')
    journal.count += 1
    journal.write(1)
    with running(module, tmp_path, {"kind": "file", "path": str(tmp_path / "tasks.jsonl"), "size": 10_000, "keep": 1}):
        wait_until(lambda: metrics(tmp_path)["sent_total"] == 2, "they don't arrive")
        assert metrics(tmp_path)["malformed_total"] == 1
    assert numbers(tmp_path / "tasks.jsonl") == [1, 3]


def test_a_group_that_is_missing_is_waited_for(module: Any, cloud: Cloud, tmp_path: Path) -> None:
    logs = cloud.client("logs")
    one = shipper(module, tmp_path, log_sink(module, cloud))
    assert one.ship([entry(module, 1)])
    logs.delete_log_group(logGroupName=GROUP)
    assert not one.ship([entry(module, 2)])
    logs.create_log_group(logGroupName=GROUP)
    assert one.ship([entry(module, 2)])
    assert [event["number"] for event in cloud.logged()] == [2]


def test_results_that_are_too_old_are_counted_and_the_others_sent(module: Any, cloud: Cloud, tmp_path: Path) -> None:
    one = shipper(module, tmp_path, log_sink(module, cloud))
    old = [entry(module, number, NOW - 15 * 86400 + number) for number in (1, 2, 3)]
    # One call may not span more than a day: that is what batches are for.
    batch = [*old, entry(module, 4)]
    assert one.ship(batch)
    assert [event["number"] for event in cloud.logged()] == [4]
    assert metrics(tmp_path)["rejected_total"] >= 2
    assert metrics(tmp_path)["rejected_total"] + metrics(tmp_path)["sent_total"] == 4


@pytest.mark.parametrize(
    ("info", "count"),
    [
        ({}, 0),
        ({"tooOldLogEventEndIndex": 3}, 3),
        ({"tooOldLogEventEndIndex": 2, "expiredLogEventEndIndex": 5}, 5),
        ({"tooNewLogEventStartIndex": 9}, 1),
        ({"expiredLogEventEndIndex": 4, "tooNewLogEventStartIndex": 8}, 6),
        ({"tooOldLogEventEndIndex": 10, "tooNewLogEventStartIndex": 0}, 10),
    ],
)
def test_rejected_results_are_counted_from_the_response(module: Any, info: dict[str, int], count: int) -> None:
    assert module.rejected(info, 10) == count


def test_a_rejected_result_does_not_block_the_others(module: Any, cloud: Cloud, tmp_path: Path) -> None:
    sink = log_sink(module, cloud)
    real, calls = sink._client.put_log_events, []

    def picky(**arguments: Any) -> Any:
        calls.append(len(arguments["logEvents"]))
        if any(json.loads(event["message"])["number"] == 37 for event in arguments["logEvents"]):
            raise sink._client.exceptions.InvalidParameterException(
                {"Error": {"Code": "InvalidParameterException"}}, ""
            )
        return real(**arguments)

    sink._client.put_log_events = picky
    assert shipper(module, tmp_path, sink).ship([entry(module, number) for number in range(100)])
    assert sorted(event["number"] for event in cloud.logged()) == [number for number in range(100) if number != 37]
    assert metrics(tmp_path)["rejected_total"] == 1
    assert len(calls) < 20


def test_a_clock_that_was_set_back_costs_no_second_call(module: Any, cloud: Cloud, tmp_path: Path) -> None:
    sink = log_sink(module, cloud)
    real, calls = sink._client.put_log_events, []

    def put(**arguments: Any) -> Any:
        calls.append(len(arguments["logEvents"]))
        return real(**arguments)

    sink._client.put_log_events = put
    assert shipper(module, tmp_path, sink).ship(
        [entry(module, 1), entry(module, 2, NOW - 5), entry(module, 3, NOW + 1)]
    )
    assert (calls, [event["number"] for event in cloud.logged()]) == ([3], [2, 1, 3])


def test_missing_credentials_are_logged(
    module: Any, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    # A worker of another test's may have left the root logger at another level.
    caplog.set_level("WARNING", module.log.name)
    assert not shipper(module, tmp_path, log_sink(module, cloud)).ship([entry(module, 1)])
    assert metrics(tmp_path)["failures_total"] == 1
    assert "Unable to locate credentials" in caplog.text


# -- CloudWatch's metrics --


def test_a_minute_becomes_counts_and_statistics(module: Any, cloud: Cloud, tmp_path: Path) -> None:
    one = shipper(module, tmp_path, Deaf(), metrics_sink(module, cloud))
    one.ship([entry(module, 1, run=1.0, wait=None), entry(module, 2, run=3.0)])
    one.send_metrics(NOW)
    assert cloud.client("cloudwatch").list_metrics()["Metrics"] == [], "the minute is not over"
    # What was not sent when it stopped is sent when it comes back.
    again = shipper(module, tmp_path, Deaf(), metrics_sink(module, cloud))
    again.ship([entry(module, 3, run=8.0), entry(module, 4, state="FAILURE", run=float("nan"))])
    again.send_metrics(NOW + 60)
    again.send_metrics(NOW + 120)
    assert cloud.statistics("Ended", "Sum", State="SUCCESS") == {"Sum": 3}
    assert cloud.statistics("Ended", "Sum", State="FAILURE") == {"Sum": 1}
    assert cloud.statistics("Run", "SampleCount", "Sum", "Minimum", "Maximum") == {
        "SampleCount": 3,
        "Sum": 12,
        "Minimum": 1,
        "Maximum": 8,
    }
    assert cloud.statistics("Wait", "SampleCount", "Sum") == {"SampleCount": 3, "Sum": 1.5}


@pytest.mark.parametrize(
    ("name", "told"), [("", "unknown"), (" ", "unknown"), (":a", "a"), ("größe", "gr??e"), ("x" * 300, "x" * 255)]
)
def test_a_dimension_is_a_valid_value_for_cloudwatch(module: Any, name: str, told: str) -> None:
    assert module.dimension(name) == told


def test_a_call_of_putmetricdata_keeps_its_limit(module: Any, cloud: Cloud, tmp_path: Path) -> None:
    sink = metrics_sink(module, cloud)
    real, sizes = sink._client.put_metric_data, []

    def put(**arguments: Any) -> Any:
        sizes.append(len(arguments["MetricData"]))
        return real(**arguments)

    sink._client.put_metric_data = put
    one = shipper(module, tmp_path, Deaf(), sink)
    one.ship([entry(module, number, task=f"tasks.number{number}") for number in range(400)])
    one.send_metrics(NOW + 60)
    assert (sum(sizes), max(sizes) <= module.DATA_A_CALL) == (1200, True)
    assert not one.state.minutes


@dataclass
class NoMetrics:
    """A namespace that refuses these credentials."""

    tries: int = 0

    def send(self, _: object) -> None:
        self.tries += 1
        raise PermissionError("cloudwatch:PutMetricData is not allowed")


def test_rejected_metrics_do_not_block_the_log_and_are_limited(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_MINUTES", 20)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.0)
    sink, nothing = Deaf(), NoMetrics()
    one = shipper(module, tmp_path, sink, nothing)
    for number in range(50):
        assert one.ship([entry(module, number, NOW + 60 * number)])
        one.send_metrics(NOW + 60 * number)
    assert len(sink.taken) == 50
    assert nothing.tries == 49
    assert len(one.state.minutes) == 21, "those that were tried, and the minute that is not over"
    assert metrics(tmp_path)["metrics_dropped_total"] == 29
    assert min(one.state.minutes)[0] == int(NOW) // 60 + 29, "the oldest go first"


def test_minutes_that_are_too_old_for_metrics_are_dropped_and_counted(
    module: Any, cloud: Cloud, tmp_path: Path
) -> None:
    one = shipper(module, tmp_path, Deaf(), metrics_sink(module, cloud))
    one.ship([entry(module, 1, NOW - 15 * 86400), entry(module, 2)])
    one.send_metrics(NOW + 60)
    assert metrics(tmp_path)["metrics_dropped_total"] == 1
    assert cloud.statistics("Ended", "Sum", State="SUCCESS") == {"Sum": 1}
    assert not one.state.minutes
