#!/usr/bin/env python3
"""Write the Grafana dashboards of roles/grafana_dashboards/files from the description in this file.

What a panel shows is said once, as a Panel; how Grafana wants it said is at the end. With --check nothing is written:
exits with 1 if a file would change.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import Literal, TypedDict, Unpack
from zlib import crc32

from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FILES = Path(__file__).resolve().parent.parent / "roles" / "grafana_dashboards" / "files"
TAG = "celery-fleet"
# The data source that the role makes; where there is none of that name, Grafana takes its default.
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
SOURCE_NAME = "celery-fleet"

# Grafana's names of units.
SECONDS, BYTES, SHARE, COUNT, MOMENT = "s", "bytes", "percentunit", "short", "dateTimeAsIso"
A_SECOND, A_MINUTE = "cps", "cpm"
# What stands for a value, and its colour.
Words = Mapping[str, tuple[str, str]]
GOOD, WARN, BAD, PLAIN = "green", "orange", "red", "text"


@dataclass(frozen=True)
class Limits:
    """From which value on a number is shown as doubtful, and from which as bad; with low, below which."""

    doubtful: float | None = None
    bad: float | None = None
    low: bool = False


@dataclass(frozen=True)
class Query:
    """A question to Prometheus.

    Attributes:
        name: of its series, with {{label}}; in a table, of its column, which is left out if it has none.
        unit: in a table; elsewhere it is the panel's.
        limits: in a table, likewise.
    """

    name: str
    expr: str
    unit: str = ""
    limits: Limits | None = None


@dataclass(frozen=True)
class Panel:
    """What one panel tells.

    Attributes:
        says: what the number is, and what it is not.
        labels: in a table, names of the columns before the numbers, by the label that is in them.
        empty: what is shown where there is nothing to show, of a panel that is right to be empty in a healthy fleet.
        width: of 24.
        height: in Grafana's steps of 30 pixels.
        top: where the axis ends, if no value is above it.
    """

    shape: Literal["stat", "graph", "states", "table"]
    title: str
    says: str
    unit: str
    queries: tuple[Query, ...]
    limits: Limits | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    words: Words = field(default_factory=dict)
    empty: str = ""
    stacked: bool = False
    width: int = 12
    height: int = 8
    top: float | None = None


@dataclass(frozen=True)
class Variable:
    """What the reader chooses from: the values that a label has in the series of a selector.

    Attributes:
        name: of the variable. Links take its value along to dashboards that have one of that name.
    """

    name: str
    of: str
    label: str
    several: bool = True


@dataclass(frozen=True)
class Dashboard:
    """A dashboard.

    Attributes:
        name: of its file and, behind the tag, its address in Grafana.
        broker: the kind without which it has no data.
        releases: whether it marks when hosts came to another release.
    """

    name: str
    title: str
    says: str
    variables: tuple[Variable, ...]
    rows: Mapping[str, tuple[Panel, ...]]
    broker: Literal["rabbitmq", "redis"] | None = None
    releases: bool = True


class Options(TypedDict, total=False):
    """What a panel may have besides, as Panel says."""

    limits: Limits
    empty: str
    stacked: bool
    width: int
    height: int
    top: float


def number(title: str, says: str, unit: str, expr: str, limits: Limits | None = None) -> Panel:
    """Return a panel of one number, as it is now."""
    return Panel("stat", title, says, unit, (Query("", expr),), limits, width=4, height=4)


def word(title: str, says: str, expr: str, words: Words) -> Panel:
    """Return a panel of one word, as it is now."""
    return Panel("stat", title, says, COUNT, (Query("", expr),), words=words, width=4, height=4)


def graph(title: str, says: str, unit: str, series: Mapping[str, str], **options: Unpack[Options]) -> Panel:
    """Return a panel of lines over time, by the name that they have in its legend."""
    return Panel("graph", title, says, unit, tuple(starmap(Query, series.items())), **options)


def states(title: str, says: str, series: Mapping[str, str], words: Words, **options: Unpack[Options]) -> Panel:
    """Return a panel of bars that change their colour over time."""
    return Panel("states", title, says, COUNT, tuple(starmap(Query, series.items())), words=words, **options)


def table(title: str, says: str, labels: Mapping[str, str], *columns: Query, **options: Unpack[Options]) -> Panel:
    """Return a panel of a line for each combination of labels, with numbers as they are now."""
    return Panel("table", title, says, COUNT, columns, labels=labels, **options)


# What the reader chose: an application, and of it queues, hosts, and workers' programs.
APP = 'app=~"$app"'
QUEUE = f'{APP}, queue=~"$queue"'
HOST = f'{APP}, instance=~"$instance"'
PROGRAM = f'{HOST}, program=~"$program"'
NODE = 'job="hosts", instance=~"$instance"'
BROKER = 'instance=~"$broker"'

THE_APP = Variable("app", "celery_worker_up", "app", several=False)
THE_QUEUE = Variable("queue", 'celery_queue_depth{app=~"$app"}', "queue")
THE_PROGRAM = Variable("program", 'celery_worker_up{app=~"$app"}', "program")
THE_INSTANCE = Variable("instance", 'celery_release_info{app=~"$app"}', "instance")

UP = {"0": ("down", BAD), "1": ("up", GOOD)}
ANSWERS = {"0": ("does not answer", BAD), "1": ("answers", GOOD)}
ALARM = {"0": ("no", GOOD), "1": ("yes", BAD)}
STATUS = {"0": ("failed", BAD), "1": ("well", GOOD)}
DRAINED = {"0": ("at work", GOOD), "1": ("drained", WARN)}
RUNS = {"1": ("runs", "blue")}
ANY = Limits(bad=1)
# What alerts start from, where a queue or celery_alerts does not say otherwise.
OLD = Limits(doubtful=150, bad=300)
SLOW = Limits(doubtful=900, bad=1800)
FAILING = Limits(doubtful=0.01, bad=0.05)
RETRIED = Limits(doubtful=0.1, bad=0.2)
FULL = Limits(doubtful=0.75, bad=0.9)

AGE_SAYS = (
    "How long the oldest message has waited: head is read from that message, bound says that it is no older"
    " (a quorum queue does not tell of its head), empty is an empty queue's. Messages without a time of"
    " sending have none."
)
DRAIN_SAYS = (
    "How long what waits would take if nothing came and tasks went on beginning as in the last five minutes;"
    " none where none begins, however many wait."
)
QUANTILE_SAYS = "interpolated between the bounds of buckets (10 ms to an hour), so it is as exact as these are."


def rate(metric: str, chosen: str, by: str = "") -> str:
    """Return an expression of how many there are a second, summed up by labels."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{chosen}}}[$__rate_interval]))"


def a_minute(metric: str, chosen: str, by: str = "") -> str:
    """Return an expression of how many there are a minute."""
    return f"60 * {rate(metric, chosen, by)}"


def share(part: str, whole: str, chosen: str, by: str) -> str:
    """Return an expression of how many of a whole are a part of it, from 0 to 1; none where there is nothing."""
    return f"{rate(part, chosen, by)} / ({rate(whole, chosen, by)} > 0)"


def quantile(which: float, kind: str, chosen: str, by: str = "") -> str:
    """Return an expression of a quantile of the seconds that tasks wait or run."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({which}, {rate(f'celery_task_{kind}_seconds_bucket', chosen, labels)})"


def times(kind: str, chosen: str, by: str, name: str) -> dict[str, str]:
    """Return the quantiles and the maximum of the seconds that tasks wait or run."""
    return {
        f"{name} P50".strip(): quantile(0.5, kind, chosen, by),
        f"{name} P99".strip(): quantile(0.99, kind, chosen, by),
        f"{name} max".strip(): f"max by ({by}) (celery_task_{kind}_seconds_max{{{chosen}}})",
    }


def completed(counted: str, chosen: str, by: str) -> str:
    """Return an expression of how many tasks end a second, well or not.

    Args:
        counted: celery_task: by release, queue and task; celery_worker_tasks: by program and release.
    """
    return f"{rate(f'{counted}_succeeded_total', chosen, by)} + {rate(f'{counted}_failed_total', chosen, by)}"


TOLD = 'time() - max by (instance) (node_textfile_mtime_seconds{file=~".*/celery-$app[.]prom"})'
FIRING = f'ALERTS{{alertstate="firing", {QUEUE}, queue!=""}}'
USED_MEMORY = f"1 - node_memory_MemAvailable_bytes{{{NODE}}} / node_memory_MemTotal_bytes{{{NODE}}}"
USED_TIME = f'1 - avg by (instance) (rate(node_cpu_seconds_total{{{NODE}, mode="idle"}}[$__rate_interval]))'


def fullest(chosen: str) -> str:
    """Return an expression of the share in use of hosts' fullest file systems, without those that nobody writes to."""
    disks = f'{chosen}, fstype!~"squashfs|iso9660|erofs|ramfs"'
    return f"1 - min by (instance) (node_filesystem_avail_bytes{{{disks}}} / node_filesystem_size_bytes{{{disks}}})"


def memory(process: str) -> str:
    """Return an expression of the bytes of a worker's parents or children."""
    return f'sum by (program, instance) (celery_worker_memory_bytes{{{PROGRAM}, process="{process}"}})'


def messages(state: str) -> str:
    """Return a selector of the messages of each of RabbitMQ's queues, ready or unacked."""
    return f'rabbitmq_detailed_queue_messages_{state}{{{BROKER}, vhost=~"$vhost"}}'


FLEET = Dashboard(
    "fleet",
    "Celery: fleet",
    "Whether the fleet is well, and where to look if it is not.",
    (THE_APP,),
    {
        "Now": (
            number(
                "Alerts",
                "Alerts that fire; those of hosts and of what watches are every application's.",
                COUNT,
                'count(ALERTS{alertstate="firing", app=~"$app|"}) or vector(0)',
                ANY,
            ),
            number(
                "Waiting",
                "Messages that wait in all queues, without those that workers already hold.",
                COUNT,
                f"sum(celery_queue_depth{{{APP}}})",
            ),
            number("Oldest", AGE_SAYS, SECONDS, f"max(celery_queue_age_seconds{{{APP}}})", OLD),
            number(
                "Workers down",
                "Workers of which no process runs, without those of drained hosts and of hosts that are not heard of.",
                COUNT,
                f"sum((celery_worker_up{{{APP}}} == bool 0)"
                f" unless on (app, instance) (celery_host_drained{{{APP}}} == 1))",
                ANY,
            ),
            number(
                "Hosts unheard",
                "Hosts whose node exporter did not answer the last time; nothing else here knows of them.",
                COUNT,
                'sum(up{job="hosts"} == bool 0)',
                ANY,
            ),
            number(
                "Releases",
                "Releases that hosts start workers on: two while one is rolled out, else one.",
                COUNT,
                f"count(count by (release) (celery_release_info{{{APP}}}))",
                Limits(doubtful=2),
            ),
            table(
                "What fires",
                "Alerts that fire, with what they are about; what each means is in docs/alerts.md.",
                {
                    "alertname": "Alert",
                    "severity": "Severity",
                    "queue": "Queue",
                    "task": "Task",
                    "program": "Program",
                    "instance": "Host",
                },
                Query(
                    "",
                    "count by (alertname, severity, queue, task, program, instance)"
                    ' (ALERTS{alertstate="firing", app=~"$app|"})',
                ),
                empty="None fires",
                width=24,
                height=5,
            ),
        ),
        "Queues": (
            table(
                "Queues",
                (
                    "Each queue as it is now; an age whose method is bound is an upper bound, and no drain time means"
                    " that no task begins."
                ),
                {"queue": "Queue", "method": "Method"},
                Query("Waiting", f"sum by (queue) (celery_queue_depth{{{APP}}})", COUNT),
                Query("Oldest", f"max by (queue, method) (celery_queue_age_seconds{{{APP}}})", SECONDS, OLD),
                Query("Consumers", f"sum by (queue) (celery_queue_consumers{{{APP}}})", COUNT, Limits(bad=1, low=True)),
                Query("Arrive", f"sum by (queue) (celery_queue_arrived:rate5m{{{APP}}})", A_SECOND),
                Query("Begin", f"sum by (queue) (celery_queue_started:rate5m{{{APP}}})", A_SECOND),
                Query("Drained in", f"max by (queue) (celery_queue_drain_seconds{{{APP}}})", SECONDS, SLOW),
                Query(
                    "Fail", share("celery_task_failed_total", "celery_task_started_total", APP, "queue"), SHARE, FAILING
                ),
                Query(
                    "Are retried",
                    share("celery_task_retried_total", "celery_task_started_total", APP, "queue"),
                    SHARE,
                    RETRIED,
                ),
                width=24,
                height=9,
            ),
            graph(
                "Waiting, by queue",
                "Messages that wait, without those that workers already hold.",
                COUNT,
                {"{{queue}}": f"sum by (queue) (celery_queue_depth{{{APP}}})"},
                stacked=True,
            ),
            graph(
                "Oldest, by queue",
                AGE_SAYS,
                SECONDS,
                {"{{queue}} ({{method}})": f"max by (queue, method) (celery_queue_age_seconds{{{APP}}})"},
                limits=OLD,
            ),
        ),
        "Tasks": (
            graph(
                "Arriving, beginning, ending",
                "Tasks a second; what arrives is what begins and what waits more: an estimate over five minutes.",
                A_SECOND,
                {
                    "arrive": f"sum(celery_queue_arrived:rate5m{{{APP}}})",
                    "begin": rate("celery_task_started_total", APP),
                    "end well": rate("celery_task_succeeded_total", APP),
                    "fail": rate("celery_task_failed_total", APP),
                    "are sent again": rate("celery_task_retried_total", APP),
                },
            ),
            graph(
                "Wait",
                f"How long tasks that begin have waited since they were sent, or due: {QUANTILE_SAYS}",
                SECONDS,
                times("wait", APP, "app", ""),
            ),
        ),
        "Workers and releases": (
            graph(
                "Busy",
                "Tasks that run, beside those that could run at once; between the two lines is what is free.",
                COUNT,
                {
                    "run": f"sum(celery_worker_tasks_running{{{APP}}})",
                    "can run": f"sum(celery_worker_pool_size{{{APP}}})",
                },
            ),
            graph(
                "Hosts, by release",
                "Hosts that start workers on each release; an old worker may still end its tasks on the one before.",
                COUNT,
                {"{{release}}": f"count by (release) (celery_release_info{{{APP}}})"},
                stacked=True,
            ),
        ),
        "What watches": (
            states(
                "Answers to Prometheus",
                "Whether what is asked has answered; of a host that does not, nothing else here is new.",
                {"{{instance}} {{job}}": "min by (job, instance) (up)"},
                ANSWERS,
                height=10,
            ),
            graph(
                "Age of what hosts tell of workers",
                "Seconds since a host's exporter wrote what it found; beyond a minute somebody is paged.",
                SECONDS,
                {"{{instance}}": TOLD},
                limits=Limits(doubtful=30, bad=60),
                height=10,
            ),
            graph(
                "Time to tell",
                "How long exporters take to find out, and Prometheus to fetch it: the longest of each.",
                SECONDS,
                {
                    "what workers do": f"max(celery_exporter_seconds{{{APP}}})",
                    "job {{job}}": "max by (job) (scrape_duration_seconds)",
                },
            ),
            graph(
                "What was not told",
                (
                    "Ends of tasks that the journal did not take, messages to people that failed, and rules that"
                    " failed, a minute: all zero in a healthy fleet."
                ),
                A_MINUTE,
                {
                    "ends of tasks": a_minute("celery_worker_untold_total", APP),
                    "messages": a_minute("alertmanager_notifications_failed_total", 'job="alertmanager"'),
                    "rules": a_minute("prometheus_rule_evaluation_failures_total", 'job="prometheus"'),
                },
                limits=ANY,
            ),
            graph(
                "Task log behind",
                "How old the ends of tasks are that a host brings to the log's sink; without a sink there are none.",
                SECONDS,
                {"{{instance}}": f"celery_task_log_behind_seconds{{{APP}}}"},
                limits=Limits(doubtful=300, bad=600),
                empty="No sink",
            ),
            graph(
                "Certificates run out in",
                "Seconds until the first certificate of an address that is watched runs out.",
                SECONDS,
                {"{{instance}}": 'min by (instance) (probe_ssl_earliest_cert_expiry{job="certificates"} - time())'},
                limits=Limits(doubtful=14 * 24 * 3600, bad=3 * 24 * 3600, low=True),
                empty="None is watched",
            ),
        ),
    },
)

QUEUES = Dashboard(
    "queue",
    "Celery: queue",
    "Why a queue is deep or old: what comes, what is done, how long it takes, and which tasks fail.",
    (THE_APP, THE_QUEUE),
    {
        "Depth and age": (
            graph(
                "Waiting",
                "Messages that wait, without those that workers already hold.",
                COUNT,
                {"{{queue}}": f"sum by (queue) (celery_queue_depth{{{QUEUE}}})"},
            ),
            graph(
                "Oldest",
                AGE_SAYS,
                SECONDS,
                {"{{queue}} ({{method}})": f"max by (queue, method) (celery_queue_age_seconds{{{QUEUE}}})"},
                limits=OLD,
            ),
            graph(
                "Drained in",
                DRAIN_SAYS,
                SECONDS,
                {"{{queue}}": f"max by (queue) (celery_queue_drain_seconds{{{QUEUE}}})"},
                limits=SLOW,
                empty="No task begins",
            ),
            graph(
                "Consumers",
                (
                    "Who consumes: RabbitMQ counts it itself; with Redis it is worker processes that run and are"
                    " declared for the queue."
                ),
                COUNT,
                {"{{queue}}": f"sum by (queue) (celery_queue_consumers{{{QUEUE}}})"},
            ),
        ),
        "Flow": (
            graph(
                "Arriving and beginning",
                "Tasks a second over five minutes; what arrives is what begins and what waits more: an estimate.",
                A_SECOND,
                {
                    "{{queue}} arrive": f"sum by (queue) (celery_queue_arrived:rate5m{{{QUEUE}}})",
                    "{{queue}} begin": f"sum by (queue) (celery_queue_started:rate5m{{{QUEUE}}})",
                },
            ),
            graph(
                "Completed",
                "Tasks that ended a second, well or failed; one that sent itself again has not ended.",
                A_SECOND,
                {"{{queue}}": completed("celery_task", QUEUE, "queue")},
            ),
        ),
        "Time": (
            graph(
                "Wait",
                f"How long tasks that begin have waited since they were sent, or due: {QUANTILE_SAYS}",
                SECONDS,
                times("wait", QUEUE, "queue", "{{queue}}"),
                limits=OLD,
            ),
            graph(
                "Run",
                f"How long tasks that end have run; those that still run are not in it, and it is {QUANTILE_SAYS}",
                SECONDS,
                times("run", QUEUE, "queue", "{{queue}}"),
            ),
        ),
        "Tasks": (
            table(
                "Tasks",
                "Each task as it goes now; the longest is of this minute and the last, and quantiles are interpolated.",
                {"queue": "Queue", "task": "Task"},
                Query("Begin", rate("celery_task_started_total", QUEUE, "queue, task"), A_SECOND),
                Query(
                    "Fail",
                    share("celery_task_failed_total", "celery_task_started_total", QUEUE, "queue, task"),
                    SHARE,
                    FAILING,
                ),
                Query(
                    "Are retried",
                    share("celery_task_retried_total", "celery_task_started_total", QUEUE, "queue, task"),
                    SHARE,
                    RETRIED,
                ),
                Query("Wait P50", quantile(0.5, "wait", QUEUE, "queue, task"), SECONDS),
                Query("Wait P99", quantile(0.99, "wait", QUEUE, "queue, task"), SECONDS),
                Query("Run P50", quantile(0.5, "run", QUEUE, "queue, task"), SECONDS),
                Query("Run P99", quantile(0.99, "run", QUEUE, "queue, task"), SECONDS),
                Query("Longest run", f"max by (queue, task) (celery_task_run_seconds_max{{{QUEUE}}})", SECONDS),
                width=24,
                height=10,
            ),
            graph(
                "Failures, by task",
                "Tasks that ended with an exception, a minute; the task log says which and why.",
                A_MINUTE,
                {"{{task}}": a_minute("celery_task_failed_total", QUEUE, "queue, task")},
            ),
            graph(
                "Retries, by task",
                "Tasks that sent themselves again, a minute; each of them begins once more later.",
                A_MINUTE,
                {"{{task}}": a_minute("celery_task_retried_total", QUEUE, "queue, task")},
            ),
        ),
        "Alerts": (
            states(
                "Alerts of queues and tasks",
                "When alerts fired; a queue's own thresholds stand beside its definition, so colours above may differ.",
                {"{{alertname}} {{queue}} {{task}}": f"max by (alertname, queue, task) ({FIRING})"},
                {"1": ("fires", BAD)},
                empty="None fired",
                width=24,
            ),
        ),
    },
)

WORKERS = Dashboard(
    "worker",
    "Celery: worker",
    "Which workers run, how busy they are, which were restarted or killed, and what they cost in memory.",
    (THE_APP, THE_PROGRAM, THE_INSTANCE),
    {
        "Now": (
            number(
                "Up",
                "Workers of which a process runs, one a host and program.",
                COUNT,
                f"sum(celery_worker_up{{{PROGRAM}}})",
            ),
            number(
                "Down",
                "Workers of which no process runs, on drained hosts too; hosts that are not heard of are not counted.",
                COUNT,
                f"sum(celery_worker_up{{{PROGRAM}}} == bool 0)",
                ANY,
            ),
            number(
                "Can run at once",
                "Tasks that can run at once: prefork's children that are there, else what is declared.",
                COUNT,
                f"sum(celery_worker_pool_size{{{PROGRAM}}})",
            ),
            number(
                "Run",
                "Tasks that run now; those that a worker holds and has not begun are not in it.",
                COUNT,
                f"sum(celery_worker_tasks_running{{{PROGRAM}}})",
            ),
            number(
                "Restarts",
                "Starts in the time that is shown, releases among them; one within 15 seconds of another is not seen.",
                COUNT,
                "sum(changes(max by (app, program, instance)"
                f" (celery_worker_start_time_seconds{{{PROGRAM}}})[$__range:]))",
            ),
            number(
                "Killed at tasks",
                "Tasks whose process was killed in the time that is shown, estimated from what was seen at its ends.",
                COUNT,
                f"sum(increase(celery_worker_broken_off_total{{{PROGRAM}}}[$__range]))",
                ANY,
            ),
        ),
        "Up": (
            states(
                "Workers",
                "Whether a process of the worker runs; a gap is a host that was not heard of.",
                {"{{program}} {{instance}}": f"max by (program, instance) (celery_worker_up{{{PROGRAM}}})"},
                UP,
                height=10,
            ),
            states(
                "Hosts",
                "Whether a host is drained, so that its workers are down on purpose.",
                {"{{instance}}": f"max by (instance) (celery_host_drained{{{HOST}}})"},
                DRAINED,
                height=10,
            ),
        ),
        "Work": (
            graph(
                "Busy",
                "Share of what can run at once that runs; at 100% further tasks wait, and it says nothing of how long.",
                SHARE,
                {
                    "{{program}} {{instance}}": (
                        f"sum by (program, instance) (celery_worker_tasks_running{{{PROGRAM}}})"
                        f" / (sum by (program, instance) (celery_worker_pool_size{{{PROGRAM}}}) > 0)"
                    )
                },
                top=1,
            ),
            graph(
                "Pool",
                "Tasks that can run at once; during a handover both workers count.",
                COUNT,
                {"{{program}} {{instance}}": f"sum by (program, instance) (celery_worker_pool_size{{{PROGRAM}}})"},
            ),
            graph(
                "Completed",
                "Tasks that ended a second, well or failed; one that sent itself again has not ended.",
                A_SECOND,
                {"{{program}} {{instance}}": completed("celery_worker_tasks", PROGRAM, "program, instance")},
            ),
            graph(
                "Failures and retries",
                "Tasks that failed or sent themselves again, a minute.",
                A_MINUTE,
                {
                    "{{program}} {{instance}} failed": a_minute(
                        "celery_worker_tasks_failed_total", PROGRAM, "program, instance"
                    ),
                    "{{program}} {{instance}} retried": a_minute(
                        "celery_worker_tasks_retried_total", PROGRAM, "program, instance"
                    ),
                },
            ),
        ),
        "Deaths": (
            graph(
                "Restarts in 15 minutes",
                "How often a worker was started in the 15 minutes before, releases too; above three somebody is paged.",
                COUNT,
                {
                    "{{program}} {{instance}}": (
                        "changes(max by (app, program, instance)"
                        f" (celery_worker_start_time_seconds{{{PROGRAM}}})[15m:])"
                    )
                },
                limits=Limits(doubtful=2, bad=4),
            ),
            graph(
                "Killed at tasks, a minute",
                "Tasks whose process was killed, a minute, be it for memory, by the hard time limit, or by kill -9.",
                A_MINUTE,
                {"{{program}} {{instance}}": a_minute("celery_worker_broken_off_total", PROGRAM, "program, instance")},
                limits=ANY,
            ),
        ),
        "Memory": (
            graph(
                "Parents",
                "Resident memory of each worker's main processes; what it shares with children is counted in both.",
                BYTES,
                {"{{program}} {{instance}}": memory("parent")},
            ),
            graph(
                "Children",
                (
                    "Resident memory of each worker's children together; shared pages are counted once for each, so"
                    " it is more than what they take."
                ),
                BYTES,
                {"{{program}} {{instance}}": memory("children")},
            ),
        ),
        "Hosts": (
            graph(
                "Memory in use",
                "Share of the host's memory that is not available to new processes.",
                SHARE,
                {"{{instance}}": USED_MEMORY},
                limits=FULL,
                width=8,
                top=1,
            ),
            graph(
                "Processors in use",
                "Share of the time of all processors that is not idle.",
                SHARE,
                {"{{instance}}": USED_TIME},
                width=8,
                top=1,
            ),
            graph(
                "Fullest file system",
                "Share of the fullest file system that is in use, those in memory among them.",
                SHARE,
                {"{{instance}}": fullest(NODE)},
                limits=FULL,
                width=8,
                top=1,
            ),
        ),
        "Queues": (
            table(
                "Who consumes what",
                "Processes that run and are declared for the queue; whether they really take from it the broker knows.",
                {"program": "Program", "queue": "Queue"},
                Query(
                    "Processes",
                    f"sum by (program, queue) (celery_worker_consumes{{{PROGRAM}}})",
                    COUNT,
                    Limits(bad=1, low=True),
                ),
                width=8,
                height=9,
            ),
            graph(
                "Since it last sent a task",
                "Seconds since a program, as beat, last sent a task; one that has nothing to send is silent too.",
                SECONDS,
                {"{{program}}": f"time() - max by (program) (celery_program_sent_timestamp_seconds{{{APP}}})"},
                width=8,
                height=9,
            ),
            graph(
                "Counted without names",
                (
                    "Tasks begun a minute that are counted as (other), without their queue and name: a process has"
                    " places for 511 pairs of these. All programs of the host together."
                ),
                A_MINUTE,
                {"{{instance}}": a_minute("celery_task_started_total", f'{HOST}, task="(other)"', "instance")},
                limits=ANY,
                empty="All have names",
                width=8,
                height=9,
            ),
        ),
    },
)

RELEASES = Dashboard(
    "release",
    "Celery: release",
    "Which host runs which release, since when, and whether the new one does as well as the old.",
    (THE_APP, THE_INSTANCE),
    {
        "Where": (
            table(
                "Hosts",
                "The release that workers of the host start on; one that started before may still run another.",
                {"instance": "Host", "release": "Release"},
                Query("", f"max by (instance, release) (celery_release_info{{{HOST}}})"),
                width=8,
                height=9,
            ),
            table(
                "Processes",
                "The release that each worker process really runs, and since when; two slots are a handover.",
                {"instance": "Host", "program": "Program", "slot": "Slot", "release": "Release"},
                Query(
                    "Started",
                    f"1000 * max by (program, slot, instance, release) (celery_worker_start_time_seconds{{{HOST}}})",
                    MOMENT,
                ),
                width=16,
                height=9,
            ),
        ),
        "When": (
            states(
                "Hosts, over time",
                "When each host came to a release and left it; the marks on the other panels are the same moments.",
                {"{{instance}} {{release}}": f"max by (instance, release) (celery_release_info{{{HOST}}})"},
                RUNS,
                height=9,
            ),
            graph(
                "Worker processes, by release",
                "Processes that run on each release; those of the old one go as they end their tasks.",
                COUNT,
                {"{{release}}": f"count by (release) (celery_worker_start_time_seconds{{{HOST}}})"},
                stacked=True,
                height=9,
            ),
        ),
        "How well": (
            graph(
                "Beginning, by release",
                "Tasks that begin a second on each release.",
                A_SECOND,
                {"{{release}}": rate("celery_task_started_total", HOST, "release")},
                stacked=True,
            ),
            graph(
                "Failing, by release",
                "Share of the tasks that begin on a release that fail; of few tasks it proves nothing.",
                SHARE,
                {"{{release}}": share("celery_task_failed_total", "celery_task_started_total", HOST, "release")},
                limits=FAILING,
                empty="No task begins",
            ),
            graph(
                "Run, by release",
                f"How long tasks that end have run; each release has its own mix of tasks, and it is {QUANTILE_SAYS}",
                SECONDS,
                {
                    "{{release}} P50": quantile(0.5, "run", HOST, "release"),
                    "{{release}} P99": quantile(0.99, "run", HOST, "release"),
                },
            ),
            graph(
                "Killed at tasks, by release",
                "Tasks whose process was killed, a minute, on each release.",
                A_MINUTE,
                {"{{release}}": a_minute("celery_worker_broken_off_total", HOST, "release")},
                limits=ANY,
            ),
        ),
    },
)

RABBITMQ = Dashboard(
    "rabbitmq",
    "Celery: broker (RabbitMQ)",
    "Whether RabbitMQ takes tasks and gives them out, and what it is short of.",
    (
        Variable("broker", "rabbitmq_build_info", "instance"),
        Variable("vhost", "rabbitmq_detailed_queue_messages_ready", "vhost"),
    ),
    {
        "Now": (
            word(
                "RabbitMQ",
                "Whether its exporter answers, which is a part of it.",
                f'min(up{{job="broker", {BROKER}}})',
                ANSWERS,
            ),
            word(
                "Memory alarm",
                "Above its watermark it takes no more tasks; senders block.",
                f"max(rabbitmq_alarms_memory_used_watermark{{{BROKER}}})",
                ALARM,
            ),
            word(
                "Disk alarm",
                "Below its limit of free disk it takes no more tasks; senders block.",
                f"max(rabbitmq_alarms_free_disk_space_watermark{{{BROKER}}})",
                ALARM,
            ),
            number(
                "Connections",
                "Connections that are open, workers' and senders'.",
                COUNT,
                f"sum(rabbitmq_connections{{{BROKER}}})",
            ),
            number(
                "Ready",
                "Messages that wait in all queues, Celery's own (events, control) among them.",
                COUNT,
                f"sum({messages('ready')})",
            ),
            number(
                "Held",
                "Messages that consumers hold and have not acknowledged: tasks that run, and those fetched ahead.",
                COUNT,
                f"sum({messages('unacked')})",
            ),
        ),
        "Memory, disk, connections": (
            graph(
                "Memory",
                "Resident memory, and the watermark from which on it takes no more tasks.",
                BYTES,
                {
                    "{{instance}} used": f"rabbitmq_process_resident_memory_bytes{{{BROKER}}}",
                    "{{instance}} watermark": f"rabbitmq_resident_memory_limit_bytes{{{BROKER}}}",
                },
            ),
            graph(
                "Free disk",
                "Free disk where it keeps messages, and the limit below which it takes no more tasks.",
                BYTES,
                {
                    "{{instance}} free": f"rabbitmq_disk_space_available_bytes{{{BROKER}}}",
                    "{{instance}} limit": f"rabbitmq_disk_space_available_limit_bytes{{{BROKER}}}",
                },
            ),
            graph(
                "Connections, channels, consumers",
                "What is open; consumers are all queues', Celery's own (events, control) among them.",
                COUNT,
                {
                    "{{instance}} connections": f"rabbitmq_connections{{{BROKER}}}",
                    "{{instance}} channels": f"rabbitmq_channels{{{BROKER}}}",
                    "{{instance}} consumers": f"rabbitmq_consumers{{{BROKER}}}",
                },
            ),
            graph(
                "File descriptors in use",
                "Share of the files and sockets that it may open; each connection is one.",
                SHARE,
                {"{{instance}}": f"rabbitmq_process_open_fds{{{BROKER}}} / rabbitmq_process_max_fds{{{BROKER}}}"},
                limits=Limits(doubtful=0.6, bad=0.8),
                top=1,
            ),
        ),
        "Messages": (
            graph(
                "Ready, by queue",
                "Messages that wait; queues without any are left out.",
                COUNT,
                {"{{queue}}": f"sum by (queue) ({messages('ready')}) > 0"},
                empty="None waits",
            ),
            graph(
                "Held, by queue",
                "Messages that consumers hold and have not acknowledged; queues without any are left out.",
                COUNT,
                {"{{queue}}": f"sum by (queue) ({messages('unacked')}) > 0"},
                empty="None is held",
            ),
            graph(
                "In and out",
                "Messages a second of all virtual hosts, Celery's own (events, control) among them.",
                A_SECOND,
                {
                    "received": rate("rabbitmq_global_messages_received_total", BROKER),
                    "delivered": rate("rabbitmq_global_messages_delivered_total", BROKER),
                    "acknowledged": rate("rabbitmq_global_messages_acknowledged_total", BROKER),
                },
            ),
            graph(
                "Again and astray",
                "Messages a minute that were delivered again, as their worker was lost or gave them back, or that no"
                " queue took.",
                A_MINUTE,
                {
                    "delivered again": a_minute("rabbitmq_global_messages_redelivered_total", BROKER),
                    "dropped": a_minute("rabbitmq_global_messages_unroutable_dropped_total", BROKER),
                    "returned": a_minute("rabbitmq_global_messages_unroutable_returned_total", BROKER),
                },
            ),
        ),
        "Churn and exporter": (
            graph(
                "Opened and closed",
                "Connections and channels a minute; many are senders that connect anew for each task.",
                A_MINUTE,
                {
                    "connections opened": a_minute("rabbitmq_connections_opened_total", BROKER),
                    "connections closed": a_minute("rabbitmq_connections_closed_total", BROKER),
                    "channels opened": a_minute("rabbitmq_channels_opened_total", BROKER),
                },
            ),
            graph(
                "Time to tell",
                "How long Prometheus takes to fetch what RabbitMQ tells of itself (broker) and of each queue (queues).",
                SECONDS,
                {"{{job}}": f'max by (job) (scrape_duration_seconds{{job=~"broker|queues", {BROKER}}})'},
            ),
        ),
    },
    broker="rabbitmq",
    releases=False,
)

REDIS = Dashboard(
    "redis",
    "Celery: broker (Redis)",
    "Whether Redis or Valkey takes tasks and keeps them, and what it is short of.",
    (Variable("broker", "redis_up", "instance"),),
    {
        "Now": (
            word("Redis", "Whether it answers its exporter.", f"min(redis_up{{{BROKER}}})", ANSWERS),
            number(
                "Memory in use",
                "Share of maxmemory; at 100% it refuses tasks.",
                SHARE,
                f"max(redis_memory_used_bytes{{{BROKER}}} / (redis_memory_max_bytes{{{BROKER}}} > 0))",
                FULL,
            ),
            word(
                "Last write",
                "Whether the last write to its log of changes succeeded; if not, it takes no more tasks.",
                f"min(redis_aof_last_write_status{{{BROKER}}})",
                STATUS,
            ),
            word(
                "Last rewrite",
                "Whether its log of changes could be written anew the last time.",
                f"min(redis_aof_last_bgrewrite_status{{{BROKER}}})",
                STATUS,
            ),
            number(
                "Connections",
                "Connections that are open, workers' and senders'.",
                COUNT,
                f"sum(redis_connected_clients{{{BROKER}}})",
            ),
            number("Up since", "Seconds since it was started.", SECONDS, f"min(redis_uptime_in_seconds{{{BROKER}}})"),
        ),
        "Memory, disk, connections": (
            graph(
                "Memory",
                "What its data takes, what the process takes of the host, and maxmemory, at which it refuses tasks.",
                BYTES,
                {
                    "{{instance}} data": f"redis_memory_used_bytes{{{BROKER}}}",
                    "{{instance}} process": f"redis_memory_used_rss_bytes{{{BROKER}}}",
                    "{{instance}} maxmemory": f"redis_memory_max_bytes{{{BROKER}}}",
                },
            ),
            graph(
                "Log of changes",
                "Size of its log of changes on disk; it grows until it is written anew.",
                BYTES,
                {"{{instance}}": f"redis_aof_current_size_bytes{{{BROKER}}}"},
            ),
            graph(
                "Connections in use",
                "Share of the connections that it may have; beyond that new ones are refused.",
                SHARE,
                {
                    "{{instance}}": f"redis_connected_clients{{{BROKER}}}"
                    f' / on (instance) (redis_script_values{{{BROKER}, key="maxclients"}} > 0)'
                },
                limits=Limits(doubtful=0.6, bad=0.8),
                top=1,
            ),
            graph(
                "Fullest file system",
                "Share of the fullest file system of its host that is in use, those in memory among them.",
                SHARE,
                {"{{instance}}": fullest(f'job="hosts", {BROKER}')},
                limits=FULL,
                top=1,
            ),
        ),
        "Work": (
            graph(
                "Commands",
                "Commands a second, of workers that wait for tasks too.",
                A_SECOND,
                {"{{instance}}": rate("redis_commands_processed_total", BROKER, "instance")},
            ),
            graph(
                "Processor",
                "Share of one processor that it uses; it works on one, so at 100% everything waits.",
                SHARE,
                {
                    "{{instance}}": (
                        f"{rate('redis_cpu_user_seconds_total', BROKER, 'instance')}"
                        f" + {rate('redis_cpu_sys_seconds_total', BROKER, 'instance')}"
                    )
                },
                limits=FULL,
                top=1,
            ),
            graph(
                "Refused and evicted",
                "Connections refused and keys evicted, a minute: both zero in a healthy fleet, as an evicted key may"
                " be a lost task.",
                A_MINUTE,
                {
                    "connections refused": a_minute("redis_rejected_connections_total", BROKER),
                    "keys evicted": a_minute("redis_evicted_keys_total", BROKER),
                },
                limits=ANY,
            ),
            graph(
                "Clients that wait",
                "Connections that wait for a task: idle workers have some, and busy ones fewer.",
                COUNT,
                {"{{instance}}": f"redis_blocked_clients{{{BROKER}}}"},
            ),
        ),
        "Exporter": (
            states(
                "Exporter",
                "Whether the exporter answers Prometheus, and whether it was refused something by Redis.",
                {
                    "{{instance}} answers": f'up{{job="broker", {BROKER}}}',
                    "{{instance}} is answered": f"1 - max by (instance) (redis_exporter_last_scrape_error{{{BROKER}}})",
                },
                {"0": ("no", BAD), "1": ("yes", GOOD)},
            ),
            graph(
                "Time to tell",
                "How long Prometheus takes to fetch what the exporter tells, reading every queue's head among it.",
                SECONDS,
                {"{{instance}}": f'max by (instance) (scrape_duration_seconds{{job="broker", {BROKER}}})'},
            ),
        ),
    },
    broker="redis",
    releases=False,
)

DASHBOARDS = (FLEET, QUEUES, WORKERS, RELEASES, RABBITMQ, REDIS)

RELEASE_MARK = (
    f"count by (app, release) (celery_release_info{{{APP}}}"
    f" unless on (app, instance, release) celery_release_info{{{APP}}} offset $__rate_interval)"
)

# From here on: how Grafana wants it said.


class ReleaseMark(models.AnnotationQuery):
    """The mark of a release, with what the SDK's model has no fields for."""

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {"titleFormat": "Release {{release}}", "textFormat": "Hosts have come to it"}


class ReleaseMarkBuilder(builders.AnnotationQuery):
    def build(self) -> models.AnnotationQuery:
        return ReleaseMark(name="Releases", datasource=SOURCE, enable=True, icon_color="blue", expr=RELEASE_MARK)


def number_of(dashboard: Dashboard, title: str) -> int:
    """Return a panel's id, which stays when panels come and go around it."""
    return crc32(f"{dashboard.name} {title}".encode()) % 1_000_000 + 1


def steps(limits: Limits | None) -> list[models.Threshold]:
    """Return colours, each with the value from which on it holds."""
    if limits is None:
        return [models.Threshold(None, PLAIN)]
    marks = [(limits.doubtful, WARN), (limits.bad, BAD)]
    if limits.low:
        marks = [(limits.bad, GOOD if limits.doubtful is None else WARN), (limits.doubtful, GOOD)]
    found = [models.Threshold(None, BAD if limits.low else GOOD)]
    return found + [models.Threshold(value, colour) for value, colour in marks if value is not None]


def thresholds(limits: Limits | None) -> builders.ThresholdsConfig:
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps(limits))


def mappings(words: Words) -> list[models.ValueMapping]:
    return [
        models.ValueMap(
            {
                value: models.ValueMappingResult(text=text, color=colour, index=index)
                for index, (value, (text, colour)) in enumerate(words.items())
            }
        )
    ]


def targets(panel: Panel) -> Iterator[prometheus.Dataquery]:
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().datasource(SOURCE).ref_id(chr(ord("A") + index)).expr(query.expr)
        if panel.shape in ("stat", "table"):
            target.instant()
        else:
            target.range().legend_format(query.name)
        yield target.format(PromQueryFormat.TABLE if panel.shape == "table" else PromQueryFormat.TIME_SERIES)


def stat_panel(panel: Panel) -> stat.Panel:
    found = stat.Panel().graph_mode(BigValueGraphMode.NONE).thresholds(thresholds(panel.limits))
    return found.color_mode(BigValueColorMode.VALUE).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def states_panel(panel: Panel) -> statetimeline.Panel:
    found = statetimeline.Panel().show_value(VisibilityMode.NEVER).merge_values(True).row_height(0.8)
    found.thresholds(thresholds(panel.limits)).legend(legend(LegendDisplayMode.LIST))
    return found.color_scheme(builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))


def legend(mode: LegendDisplayMode) -> common.VizLegendOptions:
    found = common.VizLegendOptions().display_mode(mode).placement(LegendPlacement.BOTTOM).show_legend(True)
    return found.calcs(["lastNotNull", "max"] if mode is LegendDisplayMode.TABLE else [])


def graph_panel(panel: Panel) -> timeseries.Panel:
    found = timeseries.Panel().legend(legend(LegendDisplayMode.TABLE)).min(0).line_width(1)
    found.fill_opacity(25 if panel.stacked else 5).show_points(VisibilityMode.NEVER).thresholds(
        thresholds(panel.limits)
    )
    found.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if panel.stacked:
        found.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if panel.limits:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        found.thresholds_style(style)
    if panel.top is not None:
        found.axis_soft_max(panel.top)
    return found


def table_panel(panel: Panel) -> tables.Panel:
    found = tables.Panel().filterable(True)
    single = len(panel.queries) == 1
    columns = {("Value" if single else f"Value #{chr(ord('A') + i)}"): query for i, query in enumerate(panel.queries)}
    shown = {**panel.labels, **{column: query.name for column, query in columns.items() if query.name}}
    hidden = {"Time", *columns} - {*shown}
    if not single:
        found.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    found.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys(sorted(hidden), True),
                "indexByName": {name: index for index, name in enumerate(shown)},
                "renameByName": shown,
            },
        )
    )
    for query in filter(lambda query: query.name, panel.queries):
        properties = [models.DynamicConfigValue("unit", query.unit)]
        if query.limits:
            properties += [
                models.DynamicConfigValue("thresholds", thresholds(query.limits).build()),
                models.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
            ]
        found.override_by_name(query.name, properties)
    return found


def panel_of(dashboard: Dashboard, panel: Panel) -> builders.Panel:
    makers = {"stat": stat_panel, "graph": graph_panel, "states": states_panel, "table": table_panel}
    found: builders.Panel = makers[panel.shape](panel)  # type: ignore[assignment] # they differ in options alone
    found.id(number_of(dashboard, panel.title)).title(panel.title).description(panel.says).unit(panel.unit)
    found.datasource(SOURCE).span(panel.width).height(panel.height)
    for target in targets(panel):
        found.with_target(target)
    if panel.words:
        found.mappings(mappings(panel.words))
    if panel.empty:
        found.no_value(panel.empty)
    return found


def variable_of(variable: Variable) -> builders.QueryVariable:
    found = builders.QueryVariable(variable.name).label(variable.name).datasource(SOURCE)
    # As Grafana itself writes it: 1 is its number for the values of a label.
    query = f"label_values({variable.of}, {variable.label})"
    found.query({"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
    found.sort(models.VariableSort.ALPHABETICAL_ASC)
    found.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    if variable.several:
        every = models.VariableOption(text=["All"], value=["$__all"])
        found.multi(True).include_all(True).all_value(".+").current(every)
    return found


def text_of(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana reads it."""
    found = builders.Dashboard(dashboard.title).uid(f"{TAG}-{dashboard.name}").description(dashboard.says)
    found.tags([TAG, *([dashboard.broker] if dashboard.broker else [])])
    found.time("now-3h", "now").refresh("30s").tooltip(models.DashboardCursorSync.CROSSHAIR)
    found.link(
        builders.DashboardLink("Celery")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )
    source = models.VariableOption(text=SOURCE_NAME, value=SOURCE_NAME)
    found.with_variable(
        builders.DatasourceVariable("datasource").label("data source").type("prometheus").current(source)
    )
    for variable in dashboard.variables:
        found.with_variable(variable_of(variable))
    if dashboard.releases:
        found.annotation(ReleaseMarkBuilder())
    for title, panels in dashboard.rows.items():
        found.with_row(builders.Row(title).id(number_of(dashboard, f"row {title}")))
        for panel in panels:
            found.with_panel(panel_of(dashboard, panel))
    return json.dumps(found.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def written() -> dict[Path, str]:
    """Return the text of each file."""
    return {FILES / f"{dashboard.name}.json": text_of(dashboard) for dashboard in DASHBOARDS}


def main() -> int:
    """Write or check the files of all dashboards."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file would change")
    check: bool = parser.parse_args().check
    wanted = written()
    there = {path: path.read_text(encoding="utf-8") for path in FILES.glob("*.json")}
    stale = sorted(path.name for path in wanted.keys() | there.keys() if wanted.get(path) != there.get(path))
    if stale and check:
        print("Not as scripts/dashboards.py writes them (run `make dashboards`): " + ", ".join(stale))
        return 1
    for path in there.keys() - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print("Wrote " + ", ".join(stale) if stale else "The dashboards are as scripts/dashboards.py writes them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
