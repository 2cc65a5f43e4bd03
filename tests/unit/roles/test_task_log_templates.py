"""What the role of the task log writes is what those who read it can parse, and what can't work is refused."""

from __future__ import annotations

import configparser
import json
import re
from typing import Any

import pytest
import yaml
from role import Role

APP = {
    "name": "my-shop",
    "user": "my-shop",
    "root": "/srv/my-shop",
    "config_dir": "/etc/my-shop",
    "state_dir": "/var/lib/my-shop",
    "log_dir": "/var/log/my-shop",
}
CLOUDWATCH = {
    "celery_task_log_sink": "cloudwatch",
    "celery_task_log_cloudwatch_region": "eu-central-1",
    "celery_task_log_cloudwatch_access_key": "AKIATEST",
    "celery_task_log_cloudwatch_secret_key": "secret",
}
ROLE = Role("celery_task_log", inventory_hostname="worker1", celery_task_log_identity=APP)
FILE = "/var/log/my-shop-tasks/tasks.jsonl"


def ini(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)  # SystemCallFilter comes twice
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


# -- what is refused --


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"celery_task_log_sink": "file", "celery_task_log_agents": {"vector": "/etc/vector/shop.yaml"}},
        CLOUDWATCH,
        {
            "celery_task_log_sink": "cloudwatch",
            "celery_task_log_cloudwatch_region": "eu-central-1",
            "celery_task_log_cloudwatch_credentials": "instance",
            "celery_task_log_cloudwatch_metrics": "Celery",
        },
    ],
)
def test_valid_options_are_accepted(given: dict[str, Any]) -> None:
    assert ROLE.problems(**given) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {**CLOUDWATCH, "celery_task_log_cloudwatch_secret_key": ""},
            "the sink cloudwatch has no credentials. Set it and celery_task_log_",
        ),
        (
            {**CLOUDWATCH, "celery_task_log_cloudwatch_secret_key": "two words"},
            "the sink cloudwatch has no credentials",
        ),
        (
            {**CLOUDWATCH, "celery_task_log_cloudwatch_region": ""},
            "celery_task_log_cloudwatch_region: must not be empty",
        ),
        (
            {**CLOUDWATCH, "celery_task_log_cloudwatch_group": "a b"},
            "celery_task_log_cloudwatch_group: 'a b' is not the name",
        ),
        ({"celery_task_log_cloudwatch_metrics": "Celery"}, "has no effect with the sink"),
        ({"celery_task_log_agents": {"alloy": "/etc/alloy/shop.alloy"}}, "agents read the file of the sink file"),
        ({"celery_task_log_journal_size": "1 GB"}, "celery_task_log_journal_size: '1 GB' is not a size"),
        ({"celery_task_log_retention_days": 0}, "celery_task_log_retention_days: 0 is too small. Set it to at least 1"),
        ({"celery_task_log_file_backups": 0}, "celery_task_log_file_backups: 0 is too small. Set it to at least 1"),
        ({"celery_task_log_file_size": 100}, "celery_task_log_file_size: 100 is too small. Set it to at least 65536"),
    ],
)
def test_invalid_options_are_refused(given: dict[str, Any], told: str) -> None:
    (mistake,) = ROLE.problems(**given)
    assert told in mistake
    assert "secret" not in mistake.replace("secret_key", "")


def test_all_errors_are_reported_at_once() -> None:
    wrong = {
        "celery_task_log_sink": "cloudwatch",
        "celery_task_log_journal_size": "much",
        "celery_task_log_retention_days": -1,
    }
    assert len(ROLE.problems(**wrong)) == 4


# -- what systemd reads --


def test_the_journal_is_bounded_and_drops_nothing_for_its_rate() -> None:
    journal = ini(ROLE.render("journald.conf.j2", celery_task_log_journal_size="2G"))["Journal"]
    assert (journal["SystemMaxUse"], journal["MaxRetentionSec"], journal["MaxFileSec"]) == ("2G", "30day", "1day")
    assert (journal["RateLimitIntervalSec"], journal["RateLimitBurst"], journal["SplitMode"]) == ("0", "0", "none")


@pytest.mark.parametrize(
    ("given", "keys", "writes"),
    [
        ({"celery_task_log_sink": "file"}, None, "/var/lib/my-shop /var/log/my-shop-tasks"),
        (CLOUDWATCH, "/etc/my-shop/task-log.env", "/var/lib/my-shop"),
        ({**CLOUDWATCH, "celery_task_log_cloudwatch_credentials": "instance"}, None, "/var/lib/my-shop"),
    ],
)
def test_the_service_may_write_where_it_must_and_has_the_keys_that_it_needs(
    given: dict[str, Any], keys: str | None, writes: str
) -> None:
    service = ini(ROLE.render("celery-task-log.service.j2", **given))["Service"]
    assert service.get("EnvironmentFile") == keys
    assert service["ReadWritePaths"] == writes
    assert service["SupplementaryGroups"] == "systemd-journal"
    assert "PYTHONPATH=/srv/my-shop/runtime" in service["Environment"]
    assert service["ExecStart"].endswith("-m celery_fleet_runtime.services.task_log /etc/my-shop/task-log.json")


# -- what other programs read --


def test_vectors_configuration_has_the_file_and_its_format() -> None:
    config = yaml.safe_load(ROLE.render("agents/vector.yaml.j2"))
    (source_name,) = config["sources"]
    assert config["sources"][source_name]["include"] == [FILE]
    transform = config["transforms"]["celery_my_shop"]
    assert transform["inputs"] == [source_name]
    assert '.app = "my-shop"' in transform["source"].splitlines()


def test_alloys_configuration_has_the_file_and_all_components() -> None:
    text = re.sub(r"^\s*//.*$", "", ROLE.render("agents/alloy.alloy.j2"), flags=re.M)
    assert f'"__path__" = "{FILE}"' in text
    declared = {".".join(match) for match in re.findall(r'^(\w+(?:\.\w+)+) "(\w+)" {$', text, re.M)}
    used = set(re.findall(r"\b((?:local|loki)(?:\.\w+)+?)\.(?:targets|receiver)\b", text))
    assert used - declared == {"loki.write.default"}, "that one is the user's"
    assert len(declared) == 3
    bare = re.sub(r'"[^"\n]*"', '""', text)
    for opening, closing in ("{}", "[]", "()"):
        assert bare.count(opening) == bare.count(closing)


def test_the_cloudwatch_agents_configuration_has_the_file_and_a_stream_for_each_host() -> None:
    config = json.loads(ROLE.render("agents/cloudwatch_agent.json.j2"))
    (collected,) = config["logs"]["logs_collected"]["files"]["collect_list"]
    assert (collected["file_path"], collected["log_group_name"]) == (FILE, "/celery/my-shop")
    assert (collected["log_stream_name"], collected["timezone"]) == ("worker1", "UTC")


def test_every_agent_has_a_template() -> None:
    specs = yaml.safe_load((ROLE.path / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    agents = specs["argument_specs"]["main"]["options"]["celery_task_log_agents"]["options"]
    paths = {agent: f"/etc/{agent}.conf" for agent in agents}
    assert agent_files(celery_task_log_agents=paths) == list(paths.values())
    assert agent_files(celery_task_log_agents={"alloy": "/etc/alloy.conf", "vector": ""}) == ["/etc/alloy.conf"]
    assert agent_files() == []
    variables = (ROLE.path / "vars" / "main.yml").read_text(encoding="utf-8")
    templates = {path.name for path in (ROLE.path / "templates" / "agents").iterdir()}
    assert set(re.findall(r"'agents/(\S+)'", variables)) == templates


def agent_files(**given: Any) -> list[str]:
    """Return the paths of the log agents' files."""
    paths: list[str] = ROLE.value("__celery_task_log_agent_files | map(attribute='path')", **given)
    return paths
