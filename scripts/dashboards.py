#!/usr/bin/env python3
"""Generate the Grafana dashboards of roles/grafana_dashboards/files from the definitions in this file.

The definitions come first, the conversion to Grafana's JSON is at the end. With --check, nothing is written, and it
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
# The data source that the role creates. If it is missing, Grafana uses its default.
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
SOURCE_NAME = "celery-fleet"

# Grafana's names of units.
SECONDS, BYTES, SHARE, COUNT, MOMENT = "s", "bytes", "percentunit", "short", "dateTimeAsIso"
A_SECOND, A_MINUTE = "cps", "cpm"
# For each value, the text that is shown, and its colour.
Words = Mapping[str, tuple[str, str]]
GOOD, WARN, BAD, PLAIN = "green", "orange", "red", "text"


@dataclass(frozen=True)
class Limits:
    """The thresholds of a number: doubtful and bad, from above or, with low, from below."""

    doubtful: float | None = None
    bad: float | None = None
    low: bool = False


@dataclass(frozen=True)
class Query:
    """A query to Prometheus.

    Attributes:
        name: legend of its series, with {{label}}. In a table, name of its column; a column without a name is hidden.
        expr: the expression in PromQL.
        unit: unit of a table's column. Other panels have one of their own.
        limits: thresholds of a table's column. Other panels have their own.
    """

    name: str
    expr: str
    unit: str = ""
    limits: Limits | None = None


@dataclass(frozen=True)
class Panel:
    """A panel.

    Attributes:
        description: what the panel shows, and what it does not.
        labels: in a table, names of the columns of labels, by label.
        empty: text of an empty panel, for panels that are empty in a healthy fleet.
        words: texts and colours of values.
        width: width, of 24.
        height: height, in Grafana's steps of 30 pixels.
        top: upper end of the axis, unless a value is above it.
    """

    shape: Literal["stat", "graph", "states", "table"]
    title: str
    description: str
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
    """A variable, whose values are those of a label in the series of a selector.

    Attributes:
        name: its name. Links keep its value in dashboards with a variable of the same name.
        of: the selector.
        label: the label.
        several: whether several values may be selected.
    """

    name: str
    of: str
    label: str
    several: bool = True


@dataclass(frozen=True)
class Dashboard:
    """A dashboard.

    Attributes:
        name: name of its file and, after the tag, its uid in Grafana.
        description: the question that it answers.
        broker: the kind of broker that it needs.
        releases: whether it has annotations of activations.
    """

    name: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: Mapping[str, tuple[Panel, ...]]
    broker: Literal["rabbitmq", "redis"] | None = None
    releases: bool = True


class Options(TypedDict, total=False):
    """The optional attributes of Panel."""

    limits: Limits
    empty: str
    stacked: bool
    width: int
    height: int
    top: float


def number(title: str, description: str, unit: str, expr: str, limits: Limits | None = None) -> Panel:
    """Return a panel with the current value of a number."""
    return Panel("stat", title, description, unit, (Query("", expr),), limits, width=4, height=4)


def word(title: str, description: str, expr: str, words: Words) -> Panel:
    """Return a panel with the current value as a text."""
    return Panel("stat", title, description, COUNT, (Query("", expr),), words=words, width=4, height=4)


def graph(title: str, description: str, unit: str, series: Mapping[str, str], **options: Unpack[Options]) -> Panel:
    """Return a panel of lines over time, from expressions by their legend."""
    return Panel("graph", title, description, unit, tuple(starmap(Query, series.items())), **options)


def states(title: str, description: str, series: Mapping[str, str], words: Words, **options: Unpack[Options]) -> Panel:
    """Return a state timeline."""
    return Panel("states", title, description, COUNT, tuple(starmap(Query, series.items())), words=words, **options)


def table(
    title: str, description: str, labels: Mapping[str, str], *columns: Query, **options: Unpack[Options]
) -> Panel:
    """Return a table with a row for each combination of labels, and current values."""
    return Panel("table", title, description, COUNT, columns, labels=labels, **options)


# Selectors of the chosen application, queues, hosts, programs and brokers.
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
STATUS = {"0": ("failed", BAD), "1": ("ok", GOOD)}
DRAINED = {"0": ("active", GOOD), "1": ("drained", WARN)}
RUNS = {"1": ("current", "blue")}
ANY = Limits(bad=1)
# Default thresholds of the alerts.
OLD = Limits(doubtful=150, bad=300)
SLOW = Limits(doubtful=900, bad=1800)
FAILING = Limits(doubtful=0.01, bad=0.05)
RETRIED = Limits(doubtful=0.1, bad=0.2)
FULL = Limits(doubtful=0.75, bad=0.9)

AGE_TEXT = (
    "Age of the oldest message. The method head is its exact age, bound an upper bound (RabbitMQ does not expose"
    " the head of a quorum queue), empty an empty queue. Messages without a timestamp have no age."
)
DRAIN_TEXT = (
    "Time to drain the backlog without new tasks, at the start rate of the last five minutes. Without started"
    " tasks, there is none, however deep the queue is."
)
QUANTILE_TEXT = "Quantiles are interpolated within histogram buckets (10 ms to an hour)."


def rate(metric: str, chosen: str, by: str = "") -> str:
    """Return an expression of the rate of a counter per second, summed by labels."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{chosen}}}[$__rate_interval]))"


def a_minute(metric: str, chosen: str, by: str = "") -> str:
    """Return an expression of the rate of a counter per minute."""
    return f"60 * {rate(metric, chosen, by)}"


def share(part: str, whole: str, chosen: str, by: str) -> str:
    """Return an expression of the ratio of two rates, from 0 to 1; empty if the second one is 0."""
    return f"{rate(part, chosen, by)} / ({rate(whole, chosen, by)} > 0)"


def quantile(which: float, kind: str, chosen: str, by: str = "") -> str:
    """Return an expression of a quantile of the waits or runs of tasks, in seconds."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({which}, {rate(f'celery_task_{kind}_seconds_bucket', chosen, labels)})"


def times(kind: str, chosen: str, by: str, name: str) -> dict[str, str]:
    """Return expressions of quantiles and the maximum of the waits or runs of tasks, by legend."""
    return {
        f"{name} P50".strip(): quantile(0.5, kind, chosen, by),
        f"{name} P99".strip(): quantile(0.99, kind, chosen, by),
        f"{name} max".strip(): f"max by ({by}) (celery_task_{kind}_seconds_max{{{chosen}}})",
    }


def completed(counted: str, chosen: str, by: str) -> str:
    """Return an expression of the rate at which tasks succeed or fail.

    Args:
        counted: "celery_task", by release, queue and task, or "celery_worker_tasks", by program and release.
    """
    return f"{rate(f'{counted}_succeeded_total', chosen, by)} + {rate(f'{counted}_failed_total', chosen, by)}"


METRICS_AGE = 'time() - max by (instance) (node_textfile_mtime_seconds{file=~".*/celery-$app[.]prom"})'
FIRING = f'ALERTS{{alertstate="firing", {QUEUE}, queue!=""}}'
USED_MEMORY = f"1 - node_memory_MemAvailable_bytes{{{NODE}}} / node_memory_MemTotal_bytes{{{NODE}}}"
USED_TIME = f'1 - avg by (instance) (rate(node_cpu_seconds_total{{{NODE}, mode="idle"}}[$__rate_interval]))'


def fullest(chosen: str) -> str:
    """Return an expression of the used share of hosts' fullest writable file systems."""
    disks = f'{chosen}, fstype!~"squashfs|iso9660|erofs|ramfs"'
    return f"1 - min by (instance) (node_filesystem_avail_bytes{{{disks}}} / node_filesystem_size_bytes{{{disks}}})"


def memory(process: str) -> str:
    """Return an expression of the resident memory of a worker's parents or children."""
    return f'sum by (program, instance) (celery_worker_memory_bytes{{{PROGRAM}, process="{process}"}})'


def messages(state: str) -> str:
    """Return a selector of the ready or unacked messages of RabbitMQ's queues."""
    return f'rabbitmq_detailed_queue_messages_{state}{{{BROKER}, vhost=~"$vhost"}}'


FLEET = Dashboard(
    "fleet",
    "Celery: fleet",
    "Whether the fleet is healthy, and where to look if it is not.",
    (THE_APP,),
    {
        "Now": (
            number(
                "Alerts",
                "Firing alerts, including those of hosts and of the monitoring.",
                COUNT,
                'count(ALERTS{alertstate="firing", app=~"$app|"}) or vector(0)',
                ANY,
            ),
            number(
                "Backlog",
                "Messages in all queues, without prefetched and unacknowledged ones.",
                COUNT,
                f"sum(celery_queue_depth{{{APP}}})",
            ),
            number("Oldest", AGE_TEXT, SECONDS, f"max(celery_queue_age_seconds{{{APP}}})", OLD),
            number(
                "Workers down",
                "Workers without a running process. Drained hosts and hosts that are down are not counted.",
                COUNT,
                f"sum((celery_worker_up{{{APP}}} == bool 0)"
                f" unless on (app, instance) (celery_host_drained{{{APP}}} == 1))",
                ANY,
            ),
            number(
                "Hosts down",
                "Hosts whose last scrape failed. All other panels lack them.",
                COUNT,
                'sum(up{job="hosts"} == bool 0)',
                ANY,
            ),
            number(
                "Releases",
                "Number of current releases: two during a rollout, else one.",
                COUNT,
                f"count(count by (release) (celery_release_info{{{APP}}}))",
                Limits(doubtful=2),
            ),
            table(
                "Firing alerts",
                "Firing alerts with their labels. docs/alerts.md is their runbook.",
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
                empty="No alert fires",
                width=24,
                height=5,
            ),
        ),
        "Queues": (
            table(
                "Queues",
                (
                    "Current state of each queue. An age with the method bound is an upper bound. A queue without drain"
                    " time has no started tasks."
                ),
                {"queue": "Queue", "method": "Method"},
                Query("Depth", f"sum by (queue) (celery_queue_depth{{{APP}}})", COUNT),
                Query("Oldest", f"max by (queue, method) (celery_queue_age_seconds{{{APP}}})", SECONDS, OLD),
                Query("Consumers", f"sum by (queue) (celery_queue_consumers{{{APP}}})", COUNT, Limits(bad=1, low=True)),
                Query("Arrivals", f"sum by (queue) (celery_queue_arrived:rate5m{{{APP}}})", A_SECOND),
                Query("Started", f"sum by (queue) (celery_queue_started:rate5m{{{APP}}})", A_SECOND),
                Query("Drain time", f"max by (queue) (celery_queue_drain_seconds{{{APP}}})", SECONDS, SLOW),
                Query(
                    "Failed",
                    share("celery_task_failed_total", "celery_task_started_total", APP, "queue"),
                    SHARE,
                    FAILING,
                ),
                Query(
                    "Retried",
                    share("celery_task_retried_total", "celery_task_started_total", APP, "queue"),
                    SHARE,
                    RETRIED,
                ),
                width=24,
                height=9,
            ),
            graph(
                "Depth, by queue",
                "Messages in the queue, without prefetched and unacknowledged ones.",
                COUNT,
                {"{{queue}}": f"sum by (queue) (celery_queue_depth{{{APP}}})"},
                stacked=True,
            ),
            graph(
                "Oldest, by queue",
                AGE_TEXT,
                SECONDS,
                {"{{queue}} ({{method}})": f"max by (queue, method) (celery_queue_age_seconds{{{APP}}})"},
                limits=OLD,
            ),
        ),
        "Tasks": (
            graph(
                "Task rates",
                "Tasks per second. Arrivals are an estimate over five minutes: started tasks plus the change of depth.",
                A_SECOND,
                {
                    "arrivals": f"sum(celery_queue_arrived:rate5m{{{APP}}})",
                    "started": rate("celery_task_started_total", APP),
                    "succeeded": rate("celery_task_succeeded_total", APP),
                    "failed": rate("celery_task_failed_total", APP),
                    "retried": rate("celery_task_retried_total", APP),
                },
            ),
            graph(
                "Wait",
                f"Wait of started tasks since they were sent, or due. {QUANTILE_TEXT}",
                SECONDS,
                times("wait", APP, "app", ""),
            ),
        ),
        "Workers and releases": (
            graph(
                "Utilization",
                "In-flight tasks and the total concurrency. The gap between the lines is free capacity.",
                COUNT,
                {
                    "in flight": f"sum(celery_worker_tasks_running{{{APP}}})",
                    "concurrency": f"sum(celery_worker_pool_size{{{APP}}})",
                },
            ),
            graph(
                "Hosts, by release",
                "Hosts by current release. A worker of the previous one may still be finishing its tasks.",
                COUNT,
                {"{{release}}": f"count by (release) (celery_release_info{{{APP}}})"},
                stacked=True,
            ),
        ),
        "Monitoring": (
            states(
                "Targets",
                "Whether each target's last scrape succeeded. All panels lack the metrics of a host that is down.",
                {"{{instance}} {{job}}": "min by (job, instance) (up)"},
                ANSWERS,
                height=10,
            ),
            graph(
                "Age of workers' metrics",
                "Seconds since a host's exporter wrote its metrics. Above a minute, an alert fires.",
                SECONDS,
                {"{{instance}}": METRICS_AGE},
                limits=Limits(doubtful=30, bad=60),
                height=10,
            ),
            graph(
                "Scrape duration",
                "Longest time for collecting the metrics of workers, and longest scrape of each job.",
                SECONDS,
                {
                    "metrics of workers": f"max(celery_exporter_seconds{{{APP}}})",
                    "job {{job}}": "max by (job) (scrape_duration_seconds)",
                },
            ),
            graph(
                "Monitoring failures",
                (
                    "Task results that the journal did not accept, failed notifications and failed rules, per minute."
                    " All are zero in a healthy fleet."
                ),
                A_MINUTE,
                {
                    "task results": a_minute("celery_worker_untold_total", APP),
                    "notifications": a_minute("alertmanager_notifications_failed_total", 'job="alertmanager"'),
                    "rules": a_minute("prometheus_rule_evaluation_failures_total", 'job="prometheus"'),
                },
                limits=ANY,
            ),
            graph(
                "Task log lag",
                "Age of the task results that a host ships to the sink. Empty without a sink.",
                SECONDS,
                {"{{instance}}": f"celery_task_log_behind_seconds{{{APP}}}"},
                limits=Limits(doubtful=300, bad=600),
                empty="No sink",
            ),
            graph(
                "Certificate expiry",
                "Seconds until the first certificate of a monitored endpoint expires.",
                SECONDS,
                {"{{instance}}": 'min by (instance) (probe_ssl_earliest_cert_expiry{job="certificates"} - time())'},
                limits=Limits(doubtful=14 * 24 * 3600, bad=3 * 24 * 3600, low=True),
                empty="No endpoint is monitored",
            ),
        ),
    },
)

QUEUES = Dashboard(
    "queue",
    "Celery: queue",
    "Why a queue is deep or old: arrivals, completed tasks, waits and runs, failures and retries.",
    (THE_APP, THE_QUEUE),
    {
        "Depth and age": (
            graph(
                "Depth",
                "Messages in the queue, without prefetched and unacknowledged ones.",
                COUNT,
                {"{{queue}}": f"sum by (queue) (celery_queue_depth{{{QUEUE}}})"},
            ),
            graph(
                "Oldest",
                AGE_TEXT,
                SECONDS,
                {"{{queue}} ({{method}})": f"max by (queue, method) (celery_queue_age_seconds{{{QUEUE}}})"},
                limits=OLD,
            ),
            graph(
                "Drain time",
                DRAIN_TEXT,
                SECONDS,
                {"{{queue}}": f"max by (queue) (celery_queue_drain_seconds{{{QUEUE}}})"},
                limits=SLOW,
                empty="No task was started",
            ),
            graph(
                "Consumers",
                (
                    "Consumers. With RabbitMQ, its own count; with Redis, the running worker processes that declare the"
                    " queue."
                ),
                COUNT,
                {"{{queue}}": f"sum by (queue) (celery_queue_consumers{{{QUEUE}}})"},
            ),
        ),
        "Flow": (
            graph(
                "Arrivals and starts",
                "Tasks per second. Arrivals are an estimate over five minutes: started tasks plus the change of depth.",
                A_SECOND,
                {
                    "{{queue}} arrivals": f"sum by (queue) (celery_queue_arrived:rate5m{{{QUEUE}}})",
                    "{{queue}} started": f"sum by (queue) (celery_queue_started:rate5m{{{QUEUE}}})",
                },
            ),
            graph(
                "Completed",
                "Tasks that succeeded or failed, per second. A retried task is not completed.",
                A_SECOND,
                {"{{queue}}": completed("celery_task", QUEUE, "queue")},
            ),
        ),
        "Time": (
            graph(
                "Wait",
                f"Wait of started tasks since they were sent, or due. {QUANTILE_TEXT}",
                SECONDS,
                times("wait", QUEUE, "queue", "{{queue}}"),
                limits=OLD,
            ),
            graph(
                "Run",
                f"Run time of ended tasks, without in-flight ones. {QUANTILE_TEXT}",
                SECONDS,
                times("run", QUEUE, "queue", "{{queue}}"),
            ),
        ),
        "Tasks": (
            table(
                "Tasks",
                "Current state of each task. The longest run is of the last two minutes. Quantiles are interpolated.",
                {"queue": "Queue", "task": "Task"},
                Query("Started", rate("celery_task_started_total", QUEUE, "queue, task"), A_SECOND),
                Query(
                    "Failed",
                    share("celery_task_failed_total", "celery_task_started_total", QUEUE, "queue, task"),
                    SHARE,
                    FAILING,
                ),
                Query(
                    "Retried",
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
                "Tasks that failed with an exception, per minute. The task log has each of them with its exception.",
                A_MINUTE,
                {"{{task}}": a_minute("celery_task_failed_total", QUEUE, "queue, task")},
            ),
            graph(
                "Retries, by task",
                "Retried tasks per minute.",
                A_MINUTE,
                {"{{task}}": a_minute("celery_task_retried_total", QUEUE, "queue, task")},
            ),
        ),
        "Alerts": (
            states(
                "Alerts of queues and tasks",
                "When alerts fired. A queue may have its own thresholds, so the colours above may differ.",
                {"{{alertname}} {{queue}} {{task}}": f"max by (alertname, queue, task) ({FIRING})"},
                {"1": ("firing", BAD)},
                empty="None fired",
                width=24,
            ),
        ),
    },
)

WORKERS = Dashboard(
    "worker",
    "Celery: worker",
    "Which workers are running, their utilization, restarts, killed tasks and memory.",
    (THE_APP, THE_PROGRAM, THE_INSTANCE),
    {
        "Now": (
            number(
                "Up",
                "Workers with a running process, one per host and program.",
                COUNT,
                f"sum(celery_worker_up{{{PROGRAM}}})",
            ),
            number(
                "Down",
                "Workers without a running process, also on drained hosts. Hosts that are down are not counted.",
                COUNT,
                f"sum(celery_worker_up{{{PROGRAM}}} == bool 0)",
                ANY,
            ),
            number(
                "Concurrency",
                "Total concurrency: the number of prefork children, else the declared concurrency.",
                COUNT,
                f"sum(celery_worker_pool_size{{{PROGRAM}}})",
            ),
            number(
                "In flight",
                "In-flight tasks, without prefetched ones.",
                COUNT,
                f"sum(celery_worker_tasks_running{{{PROGRAM}}})",
            ),
            number(
                "Restarts",
                "Starts in the shown time, including those by rollouts. Two starts within 15 seconds count as one.",
                COUNT,
                "sum(changes(max by (app, program, instance)"
                f" (celery_worker_start_time_seconds{{{PROGRAM}}})[$__range:]))",
            ),
            number(
                "Killed tasks",
                "Tasks whose process was killed in the shown time, extrapolated by increase().",
                COUNT,
                f"sum(increase(celery_worker_broken_off_total{{{PROGRAM}}}[$__range]))",
                ANY,
            ),
        ),
        "Up": (
            states(
                "Workers",
                "Whether a process of the worker is running. A gap means that the host was down.",
                {"{{program}} {{instance}}": f"max by (program, instance) (celery_worker_up{{{PROGRAM}}})"},
                UP,
                height=10,
            ),
            states(
                "Hosts",
                "Whether a host is drained, and its workers are stopped on purpose.",
                {"{{instance}}": f"max by (instance) (celery_host_drained{{{HOST}}})"},
                DRAINED,
                height=10,
            ),
        ),
        "Work": (
            graph(
                "Utilization",
                "In-flight tasks as a share of the concurrency. At 100%, further tasks wait.",
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
                "Concurrency over time",
                "Concurrency of each worker. During a handover, both slots count.",
                COUNT,
                {"{{program}} {{instance}}": f"sum by (program, instance) (celery_worker_pool_size{{{PROGRAM}}})"},
            ),
            graph(
                "Completed",
                "Tasks that succeeded or failed, per second. A retried task is not completed.",
                A_SECOND,
                {"{{program}} {{instance}}": completed("celery_worker_tasks", PROGRAM, "program, instance")},
            ),
            graph(
                "Failures and retries",
                "Failed and retried tasks, per minute.",
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
        "Restarts and kills": (
            graph(
                "Restarts in 15 minutes",
                "Starts of a worker in the last 15 minutes, including those by rollouts. Above three, an alert fires.",
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
                "Killed tasks per minute",
                "Tasks whose process was killed, e.g. by the kernel, the hard time limit or kill -9.",
                A_MINUTE,
                {"{{program}} {{instance}}": a_minute("celery_worker_broken_off_total", PROGRAM, "program, instance")},
                limits=ANY,
            ),
        ),
        "Memory": (
            graph(
                "Parents",
                "Resident memory of each worker's main processes. Pages shared with children count in both.",
                BYTES,
                {"{{program}} {{instance}}": memory("parent")},
            ),
            graph(
                "Children",
                (
                    "Total resident memory of each worker's children. Shared pages count once for each child, so it is"
                    " more than they really use."
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
                "Used share of the fullest file system, including those in memory.",
                SHARE,
                {"{{instance}}": fullest(NODE)},
                limits=FULL,
                width=8,
                top=1,
            ),
        ),
        "Queues": (
            table(
                "Declared consumers",
                "Running processes that are declared for the queue. The broker knows whether they really consume it.",
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
                "Time since the last sent task",
                "Seconds since a program, such as beat, last sent a task. It may have had nothing to send.",
                SECONDS,
                {"{{program}}": f"time() - max by (program) (celery_program_sent_timestamp_seconds{{{APP}}})"},
                width=8,
                height=9,
            ),
            graph(
                "Tasks counted as (other)",
                (
                    "Started tasks per minute that are counted without queue and name, on the whole host. A process"
                    " counts at most 511 pairs of a queue and a task by name."
                ),
                A_MINUTE,
                {"{{instance}}": a_minute("celery_task_started_total", f'{HOST}, task="(other)"', "instance")},
                limits=ANY,
                empty="None",
                width=8,
                height=9,
            ),
        ),
    },
)

RELEASES = Dashboard(
    "release",
    "Celery: release",
    "Which host runs which release, since when, and how the new release compares to the old one.",
    (THE_APP, THE_INSTANCE),
    {
        "Releases": (
            table(
                "Hosts",
                "Current release of each host. A worker that was started before may still run another one.",
                {"instance": "Host", "release": "Release"},
                Query("", f"max by (instance, release) (celery_release_info{{{HOST}}})"),
                width=8,
                height=9,
            ),
            table(
                "Processes",
                "Release and start time of each worker process. Two slots of a program are a handover.",
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
        "Rollout": (
            states(
                "Hosts, over time",
                "Current release of each host. The other panels have annotations at its changes.",
                {"{{instance}} {{release}}": f"max by (instance, release) (celery_release_info{{{HOST}}})"},
                RUNS,
                height=9,
            ),
            graph(
                "Worker processes, by release",
                "Worker processes by release. Those of the old one exit once their tasks have ended.",
                COUNT,
                {"{{release}}": f"count by (release) (celery_worker_start_time_seconds{{{HOST}}})"},
                stacked=True,
                height=9,
            ),
        ),
        "Comparison": (
            graph(
                "Started, by release",
                "Started tasks per second on each release.",
                A_SECOND,
                {"{{release}}": rate("celery_task_started_total", HOST, "release")},
                stacked=True,
            ),
            graph(
                "Failed, by release",
                "Failed tasks as a share of started ones. With few tasks, it is not significant.",
                SHARE,
                {"{{release}}": share("celery_task_failed_total", "celery_task_started_total", HOST, "release")},
                limits=FAILING,
                empty="No task was started",
            ),
            graph(
                "Run, by release",
                f"Run time of ended tasks. The mix of tasks differs between releases. {QUANTILE_TEXT}",
                SECONDS,
                {
                    "{{release}} P50": quantile(0.5, "run", HOST, "release"),
                    "{{release}} P99": quantile(0.99, "run", HOST, "release"),
                },
            ),
            graph(
                "Killed tasks, by release",
                "Tasks whose process was killed, per minute, on each release.",
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
    "Whether RabbitMQ accepts and delivers tasks, and which resources it lacks.",
    (
        Variable("broker", "rabbitmq_build_info", "instance"),
        Variable("vhost", "rabbitmq_detailed_queue_messages_ready", "vhost"),
    ),
    {
        "Now": (
            word(
                "RabbitMQ",
                "Whether RabbitMQ's built-in exporter answers.",
                f'min(up{{job="broker", {BROKER}}})',
                ANSWERS,
            ),
            word(
                "Memory alarm",
                "Above the watermark, RabbitMQ accepts no more tasks, and senders block.",
                f"max(rabbitmq_alarms_memory_used_watermark{{{BROKER}}})",
                ALARM,
            ),
            word(
                "Disk alarm",
                "Below the limit of free disk space, RabbitMQ accepts no more tasks, and senders block.",
                f"max(rabbitmq_alarms_free_disk_space_watermark{{{BROKER}}})",
                ALARM,
            ),
            number(
                "Connections",
                "Open connections of workers and senders.",
                COUNT,
                f"sum(rabbitmq_connections{{{BROKER}}})",
            ),
            number(
                "Ready",
                "Ready messages in all queues, including Celery's own (events, control).",
                COUNT,
                f"sum({messages('ready')})",
            ),
            number(
                "Unacknowledged",
                "Messages that consumers have not acknowledged: in-flight and prefetched tasks.",
                COUNT,
                f"sum({messages('unacked')})",
            ),
        ),
        "Memory, disk, connections": (
            graph(
                "Memory",
                "Resident memory, and the watermark above which RabbitMQ accepts no more tasks.",
                BYTES,
                {
                    "{{instance}} used": f"rabbitmq_process_resident_memory_bytes{{{BROKER}}}",
                    "{{instance}} watermark": f"rabbitmq_resident_memory_limit_bytes{{{BROKER}}}",
                },
            ),
            graph(
                "Free disk",
                "Free disk space for messages, and the limit below which RabbitMQ accepts no more tasks.",
                BYTES,
                {
                    "{{instance}} free": f"rabbitmq_disk_space_available_bytes{{{BROKER}}}",
                    "{{instance}} limit": f"rabbitmq_disk_space_available_limit_bytes{{{BROKER}}}",
                },
            ),
            graph(
                "Connections, channels, consumers",
                "Open connections and channels. Consumers include those of Celery's own queues (events, control).",
                COUNT,
                {
                    "{{instance}} connections": f"rabbitmq_connections{{{BROKER}}}",
                    "{{instance}} channels": f"rabbitmq_channels{{{BROKER}}}",
                    "{{instance}} consumers": f"rabbitmq_consumers{{{BROKER}}}",
                },
            ),
            graph(
                "File descriptors in use",
                "Used share of the file descriptors. Each connection takes one.",
                SHARE,
                {"{{instance}}": f"rabbitmq_process_open_fds{{{BROKER}}} / rabbitmq_process_max_fds{{{BROKER}}}"},
                limits=Limits(doubtful=0.6, bad=0.8),
                top=1,
            ),
        ),
        "Messages": (
            graph(
                "Ready, by queue",
                "Ready messages. Empty queues are left out.",
                COUNT,
                {"{{queue}}": f"sum by (queue) ({messages('ready')}) > 0"},
                empty="No messages",
            ),
            graph(
                "Unacknowledged, by queue",
                "Messages that consumers have not acknowledged. Queues without any are left out.",
                COUNT,
                {"{{queue}}": f"sum by (queue) ({messages('unacked')}) > 0"},
                empty="No messages",
            ),
            graph(
                "Message rates",
                "Messages per second of all virtual hosts, including Celery's own (events, control).",
                A_SECOND,
                {
                    "received": rate("rabbitmq_global_messages_received_total", BROKER),
                    "delivered": rate("rabbitmq_global_messages_delivered_total", BROKER),
                    "acknowledged": rate("rabbitmq_global_messages_acknowledged_total", BROKER),
                },
            ),
            graph(
                "Redelivered and unroutable",
                "Messages per minute that were redelivered, because their worker was lost or requeued them, or that no"
                " queue accepted.",
                A_MINUTE,
                {
                    "redelivered": a_minute("rabbitmq_global_messages_redelivered_total", BROKER),
                    "dropped": a_minute("rabbitmq_global_messages_unroutable_dropped_total", BROKER),
                    "returned": a_minute("rabbitmq_global_messages_unroutable_returned_total", BROKER),
                },
            ),
        ),
        "Churn and exporter": (
            graph(
                "Opened and closed",
                "Connections and channels per minute. Many of them mean that senders reconnect for each task.",
                A_MINUTE,
                {
                    "connections opened": a_minute("rabbitmq_connections_opened_total", BROKER),
                    "connections closed": a_minute("rabbitmq_connections_closed_total", BROKER),
                    "channels opened": a_minute("rabbitmq_channels_opened_total", BROKER),
                },
            ),
            graph(
                "Scrape duration",
                "Duration of the scrapes of RabbitMQ's own metrics (broker) and of those of each queue (queues).",
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
    "Whether Redis or Valkey accepts and stores tasks, and which resources it lacks.",
    (Variable("broker", "redis_up", "instance"),),
    {
        "Now": (
            word("Redis", "Whether Redis answers its exporter.", f"min(redis_up{{{BROKER}}})", ANSWERS),
            number(
                "Memory in use",
                "Used share of maxmemory. At 100%, Redis refuses tasks.",
                SHARE,
                f"max(redis_memory_used_bytes{{{BROKER}}} / (redis_memory_max_bytes{{{BROKER}}} > 0))",
                FULL,
            ),
            word(
                "Last write",
                "Whether the last write to the append-only file succeeded. If not, Redis accepts no more tasks.",
                f"min(redis_aof_last_write_status{{{BROKER}}})",
                STATUS,
            ),
            word(
                "Last rewrite",
                "Whether the last rewrite of the append-only file succeeded.",
                f"min(redis_aof_last_bgrewrite_status{{{BROKER}}})",
                STATUS,
            ),
            number(
                "Connections",
                "Open connections of workers and senders.",
                COUNT,
                f"sum(redis_connected_clients{{{BROKER}}})",
            ),
            number("Uptime", "Seconds since Redis was started.", SECONDS, f"min(redis_uptime_in_seconds{{{BROKER}}})"),
        ),
        "Memory, disk, connections": (
            graph(
                "Memory",
                "Memory of the data, resident memory of the process, and maxmemory, at which Redis refuses tasks.",
                BYTES,
                {
                    "{{instance}} data": f"redis_memory_used_bytes{{{BROKER}}}",
                    "{{instance}} process": f"redis_memory_used_rss_bytes{{{BROKER}}}",
                    "{{instance}} maxmemory": f"redis_memory_max_bytes{{{BROKER}}}",
                },
            ),
            graph(
                "Append-only file",
                "Size of the append-only file. It grows until its next rewrite.",
                BYTES,
                {"{{instance}}": f"redis_aof_current_size_bytes{{{BROKER}}}"},
            ),
            graph(
                "Connections in use",
                "Used share of maxclients. Above it, new connections are refused.",
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
                "Used share of the fullest file system of its host, including those in memory.",
                SHARE,
                {"{{instance}}": fullest(f'job="hosts", {BROKER}')},
                limits=FULL,
                top=1,
            ),
        ),
        "Work": (
            graph(
                "Commands",
                "Commands per second, including those of workers that wait for tasks.",
                A_SECOND,
                {"{{instance}}": rate("redis_commands_processed_total", BROKER, "instance")},
            ),
            graph(
                "Processor",
                "Used share of one processor. Redis executes commands on one, so at 100% all clients wait.",
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
                "Refused connections and evicted keys, per minute. Both are zero in a healthy fleet, as an evicted key"
                " may be a lost task.",
                A_MINUTE,
                {
                    "connections refused": a_minute("redis_rejected_connections_total", BROKER),
                    "keys evicted": a_minute("redis_evicted_keys_total", BROKER),
                },
                limits=ANY,
            ),
            graph(
                "Blocked clients",
                "Connections that wait for a task. Idle workers have more of them than busy ones.",
                COUNT,
                {"{{instance}}": f"redis_blocked_clients{{{BROKER}}}"},
            ),
        ),
        "Exporter": (
            states(
                "Exporter",
                "Whether the exporter answers Prometheus, and whether Redis answers the exporter.",
                {
                    "{{instance}} answers": f'up{{job="broker", {BROKER}}}',
                    "{{instance}} is answered": f"1 - max by (instance) (redis_exporter_last_scrape_error{{{BROKER}}})",
                },
                {"0": ("no", BAD), "1": ("yes", GOOD)},
            ),
            graph(
                "Scrape duration",
                "Duration of the exporter's scrape, which reads the head of each queue.",
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

# From here on: conversion to Grafana's JSON.


class ReleaseMark(models.AnnotationQuery):
    """The annotation of an activation, with fields that the SDK's model lacks."""

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {"titleFormat": "Release {{release}}", "textFormat": "Activated on hosts"}


class ReleaseMarkBuilder(builders.AnnotationQuery):
    def build(self) -> models.AnnotationQuery:
        return ReleaseMark(name="Releases", datasource=SOURCE, enable=True, icon_color="blue", expr=RELEASE_MARK)


def panel_id(dashboard: Dashboard, title: str) -> int:
    """Return the id of a panel, which does not depend on the other panels."""
    return crc32(f"{dashboard.name} {title}".encode()) % 1_000_000 + 1


def steps(limits: Limits | None) -> list[models.Threshold]:
    """Return the colours, each with its lowest value."""
    if limits is None:
        return [models.Threshold(None, PLAIN)]
    marks = [(limits.doubtful, WARN), (limits.bad, BAD)]
    if limits.low:
        marks = [(limits.bad, GOOD if limits.doubtful is None else WARN), (limits.doubtful, GOOD)]
    built = [models.Threshold(None, BAD if limits.low else GOOD)]
    return built + [models.Threshold(value, colour) for value, colour in marks if value is not None]


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
    built = stat.Panel().graph_mode(BigValueGraphMode.NONE).thresholds(thresholds(panel.limits))
    return built.color_mode(BigValueColorMode.VALUE).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def states_panel(panel: Panel) -> statetimeline.Panel:
    built = statetimeline.Panel().show_value(VisibilityMode.NEVER).merge_values(True).row_height(0.8)
    built.thresholds(thresholds(panel.limits)).legend(legend(LegendDisplayMode.LIST))
    return built.color_scheme(builders.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))


def legend(mode: LegendDisplayMode) -> common.VizLegendOptions:
    built = common.VizLegendOptions().display_mode(mode).placement(LegendPlacement.BOTTOM).show_legend(True)
    return built.calcs(["lastNotNull", "max"] if mode is LegendDisplayMode.TABLE else [])


def graph_panel(panel: Panel) -> timeseries.Panel:
    built = timeseries.Panel().legend(legend(LegendDisplayMode.TABLE)).min(0).line_width(1)
    built.fill_opacity(25 if panel.stacked else 5).show_points(VisibilityMode.NEVER).thresholds(
        thresholds(panel.limits)
    )
    built.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if panel.stacked:
        built.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if panel.limits:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        built.thresholds_style(style)
    if panel.top is not None:
        built.axis_soft_max(panel.top)
    return built


def table_panel(panel: Panel) -> tables.Panel:
    built = tables.Panel().filterable(True)
    single = len(panel.queries) == 1
    columns = {("Value" if single else f"Value #{chr(ord('A') + i)}"): query for i, query in enumerate(panel.queries)}
    shown = {**panel.labels, **{column: query.name for column, query in columns.items() if query.name}}
    hidden = {"Time", *columns} - {*shown}
    if not single:
        built.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    built.with_transformation(
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
        built.override_by_name(query.name, properties)
    return built


def panel_of(dashboard: Dashboard, panel: Panel) -> builders.Panel:
    makers = {"stat": stat_panel, "graph": graph_panel, "states": states_panel, "table": table_panel}
    built: builders.Panel = makers[panel.shape](panel)  # type: ignore[assignment] # they differ in options alone
    built.id(panel_id(dashboard, panel.title)).title(panel.title).description(panel.description).unit(panel.unit)
    built.datasource(SOURCE).span(panel.width).height(panel.height)
    for target in targets(panel):
        built.with_target(target)
    if panel.words:
        built.mappings(mappings(panel.words))
    if panel.empty:
        built.no_value(panel.empty)
    return built


def variable_of(variable: Variable) -> builders.QueryVariable:
    built = builders.QueryVariable(variable.name).label(variable.name).datasource(SOURCE)
    # As Grafana itself writes it: 1 is its number for the values of a label.
    query = f"label_values({variable.of}, {variable.label})"
    built.query({"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
    built.sort(models.VariableSort.ALPHABETICAL_ASC)
    built.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    if variable.several:
        every = models.VariableOption(text=["All"], value=["$__all"])
        built.multi(True).include_all(True).all_value(".+").current(every)
    return built


def text_of(dashboard: Dashboard) -> str:
    """Return the JSON of a dashboard."""
    built = builders.Dashboard(dashboard.title).uid(f"{TAG}-{dashboard.name}").description(dashboard.description)
    built.tags([TAG, *([dashboard.broker] if dashboard.broker else [])])
    built.time("now-3h", "now").refresh("30s").tooltip(models.DashboardCursorSync.CROSSHAIR)
    built.link(
        builders.DashboardLink("Celery")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )
    source = models.VariableOption(text=SOURCE_NAME, value=SOURCE_NAME)
    built.with_variable(
        builders.DatasourceVariable("datasource").label("data source").type("prometheus").current(source)
    )
    for variable in dashboard.variables:
        built.with_variable(variable_of(variable))
    if dashboard.releases:
        built.annotation(ReleaseMarkBuilder())
    for title, panels in dashboard.rows.items():
        built.with_row(builders.Row(title).id(panel_id(dashboard, f"row {title}")))
        for panel in panels:
            built.with_panel(panel_of(dashboard, panel))
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


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
