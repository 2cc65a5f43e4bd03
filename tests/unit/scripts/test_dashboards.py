"""Grafana's dashboards: up to date, and with queries of existing metrics."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from program import load

from scripts import dashboards as generator

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles" / "grafana_dashboards"
EXPORTER = ROOT / "plugins" / "module_utils" / "celery_fleet_runtime" / "services" / "exporter.py"
EXPORTED = re.compile(r"""families\.(gauge|counter|histogram)\(\s*f?"(celery_[a-z_{}]+)""")
# Metrics of other exporters, in all of their versions in Debian 12 and 13.
OTHERS = {
    # Prometheus and Alertmanager
    "ALERTS",
    "alertmanager_notifications_failed_total",
    "prometheus_rule_evaluation_failures_total",
    "scrape_duration_seconds",
    "up",
    # the node exporter and the blackbox exporter
    "node_cpu_seconds_total",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_textfile_mtime_seconds",
    "probe_ssl_earliest_cert_expiry",
    # the shipper of the task log
    "celery_task_log_behind_seconds",
    # RabbitMQ: deps/rabbitmq_prometheus/metrics.md
    "rabbitmq_alarms_free_disk_space_watermark",
    "rabbitmq_alarms_memory_used_watermark",
    "rabbitmq_build_info",
    "rabbitmq_channels",
    "rabbitmq_channels_opened_total",
    "rabbitmq_connections",
    "rabbitmq_connections_closed_total",
    "rabbitmq_connections_opened_total",
    "rabbitmq_consumers",
    "rabbitmq_detailed_queue_messages_ready",
    "rabbitmq_detailed_queue_messages_unacked",
    "rabbitmq_disk_space_available_bytes",
    "rabbitmq_disk_space_available_limit_bytes",
    "rabbitmq_global_messages_acknowledged_total",
    "rabbitmq_global_messages_delivered_total",
    "rabbitmq_global_messages_received_total",
    "rabbitmq_global_messages_redelivered_total",
    "rabbitmq_global_messages_unroutable_dropped_total",
    "rabbitmq_global_messages_unroutable_returned_total",
    "rabbitmq_process_max_fds",
    "rabbitmq_process_open_fds",
    "rabbitmq_process_resident_memory_bytes",
    "rabbitmq_resident_memory_limit_bytes",
    # Redis' exporter: exporter/exporter.go
    "redis_aof_current_size_bytes",
    "redis_aof_last_bgrewrite_status",
    "redis_aof_last_write_status",
    "redis_blocked_clients",
    "redis_commands_processed_total",
    "redis_script_values",
    "redis_connected_clients",
    "redis_cpu_sys_seconds_total",
    "redis_cpu_user_seconds_total",
    "redis_evicted_keys_total",
    "redis_exporter_last_scrape_error",
    "redis_memory_max_bytes",
    "redis_memory_used_bytes",
    "redis_memory_used_rss_bytes",
    "redis_rejected_connections_total",
    "redis_up",
    "redis_uptime_in_seconds",
}


asked: Any = load("molecule/shared/dashboards.py")
DASHBOARDS: dict[str, dict[str, Any]] = {dashboard["uid"]: dashboard for dashboard in asked.dashboards()}
PANELS = [
    pytest.param(panel, id=f"{uid}: {panel['title']}")
    for uid, dashboard in DASHBOARDS.items()
    for panel in asked.panels(dashboard)
]


def metrics_of(expr: str) -> set[str]:
    """Return the names of the metrics in an expression."""
    found = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(str(node.name))
        if isinstance(node, promql_parser.MatrixSelector):
            found.add(str(node.vector_selector.name))

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def exported() -> Iterator[str]:
    """Yield the names of the exporter's series, from its source."""
    suffixes = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    for kind, name in EXPORTED.findall(EXPORTER.read_text(encoding="utf-8")):
        names = [name.format(outcome=outcome) for outcome in ("started", "succeeded", "failed", "retried")]
        for each in dict.fromkeys(names):
            yield from (each + suffix for suffix in suffixes[kind])


def recorded() -> set[str]:
    rules = (ROOT / "templates" / "celery_rules.yml.j2").read_text(encoding="utf-8")
    return set(re.findall(r"^ *- record: (\S+)$", rules, re.MULTILINE))


def test_the_files_are_up_to_date() -> None:
    there = {path: path.read_text(encoding="utf-8") for path in generator.FILES.glob("*.json")}
    assert there == generator.written()


def test_a_file_that_was_edited_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generator, "FILES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["dashboards.py"])
    assert generator.main() == 0
    changed = tmp_path / "queue.json"
    changed.write_text(changed.read_text(encoding="utf-8").replace("Drain time", "Empty in"), encoding="utf-8")
    (tmp_path / "old.json").write_text("{}", encoding="utf-8")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["dashboards.py", "--check"])
    assert generator.main() == 1
    assert capsys.readouterr().out.endswith("(run `make dashboards`): old.json, queue.json\n")


def test_the_role_installs_each_dashboard() -> None:
    names = [dashboard.name for dashboard in generator.DASHBOARDS]
    spec = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    option = spec["argument_specs"]["main"]["options"]["grafana_dashboards_names"]
    internal = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))
    assert option["choices"] == option["default"] == internal["__grafana_dashboards_all"] == names


@pytest.mark.parametrize("query", [pytest.param(q, id=f"{q.dashboard}: {q.panel}") for q in asked.queries()])
def test_each_queried_metric_exists(query: Any) -> None:
    metrics = metrics_of(query.expr)
    assert metrics
    assert metrics <= {*exported(), *recorded(), *OTHERS}


def test_each_listed_metric_is_queried() -> None:
    wanted = set[str]().union(*(metrics_of(query.expr) for query in asked.queries()))
    assert wanted >= OTHERS


@pytest.mark.parametrize(("broker", "other"), [("rabbitmq", "redis_"), ("redis", "rabbitmq_")])
def test_dashboards_of_a_broker_query_no_metrics_of_the_other(broker: str, other: str) -> None:
    metrics = set[str]().union(*(metrics_of(query.expr) for query in asked.queries(broker)))
    assert [name for name in metrics if name.startswith(broker)]
    assert not [name for name in metrics if name.startswith(other)]


def test_an_unknown_kind_of_broker_is_refused() -> None:
    with pytest.raises(ValueError, match="rabbitmq, redis"):
        list(asked.queries("kafka"))


def test_an_undefined_variable_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = json.loads((generator.FILES / "queue.json").read_text(encoding="utf-8"))
    broken["templating"]["list"] = [one for one in broken["templating"]["list"] if one["name"] != "queue"]
    (tmp_path / "queue.json").write_text(json.dumps(broken), encoding="utf-8")
    monkeypatch.setattr(asked, "FILES", tmp_path)
    with pytest.raises(ValueError, match="celery-fleet-queue: there is no variable queue"):
        list(asked.queries())


def test_ids_of_dashboards_and_panels_are_unique() -> None:
    assert len(DASHBOARDS) == len(generator.DASHBOARDS)
    for dashboard in DASHBOARDS.values():
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("panel", PANELS)
def test_each_panel_has_a_description_and_a_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for column in panel["fieldConfig"]["overrides"]:
        assert {"unit"} <= {entry["id"] for entry in column["properties"] if entry["value"]}
    if panel["type"] == "table":
        shown = panel["transformations"][-1]["options"]["renameByName"].values()
        columns = [column["matcher"]["options"] for column in panel["fieldConfig"]["overrides"]]
        hidden = {*panel["transformations"][-1]["options"]["excludeByName"]} - {"Time"}
        assert len(columns) + len(hidden) == len(panel["targets"])
        assert set(columns) <= set(shown)


@pytest.mark.parametrize("panel", PANELS)
def test_each_panel_uses_the_chosen_data_source(panel: dict[str, Any]) -> None:
    for asking in (panel, *panel["targets"]):
        assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_no_panel_covers_another(uid: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARDS[uid]["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, f"{panel['title']} covers {taken.get((x, y))}"
                taken[x, y] = panel["title"]


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_labels_in_a_legend_are_labels_of_its_series(uid: str) -> None:
    for panel in asked.panels(DASHBOARDS[uid]):
        for target in panel["targets"]:
            grouped = set(re.split(r"[ ,]+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            named = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            # What is not grouped has the labels of its series.
            assert not grouped - {""} or named <= grouped, f"{panel['title']}: {target['expr']}"
