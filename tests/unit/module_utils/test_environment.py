"""A real shell reads back what was written, and what is secret of it is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._environment import environment_text, secrets_in
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

DUMP = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('T_')}))"
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.dictionaries(st.from_regex(r"T_[A-Za-z0-9_]{0,8}", fullmatch=True), VALUES, max_size=20))
@example(
    {"T_A": "100% of 'it' \"$HOME\" `id` $(id) \\ # ~ * !x\r\n\n\ttab ü €\x7f", "T_B": "", "T_C": "x\n", "T_D": "\n"}
)
def test_a_shell_reads_any_value_back(tmp_path: Path, environment: dict[str, str]) -> None:
    file = tmp_path / "environment"
    file.write_bytes(environment_text(environment).encode())
    run = subprocess.run(
        ["/bin/sh", "-euc", 'set -a; . "$1"; exec "$2" -Sc "$3"', "sh", str(file), sys.executable, DUMP],
        capture_output=True,
        check=True,
        env={"LANG": "C.UTF-8", "PYTHONUTF8": "1"},
    )
    assert json.loads(run.stdout) == environment


def test_plain_values_are_written_as_programs_expect_them() -> None:
    text = environment_text({"B": True, "A": False, "C": 8, "D": None})
    assert text == "A=false\nB=true\nC=8\nD=''\n"


@pytest.mark.parametrize("name", ["1A", "A-B", "A B", "", "A=B", "A\n", "$A", "ü"])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not valid as names of environment variables"):
        environment_text({"GOOD": 1, name: 2})


def test_a_nul_character_is_refused_without_showing_the_value() -> None:
    with pytest.raises(ValueError, match="with a NUL character in their value: SECRET") as refused:
        environment_text({"SECRET": "hush\0hush"})
    assert "hush" not in str(refused.value)


def test_secrets_are_found_by_name_and_in_urls() -> None:
    text = environment_text(
        {
            "CELERY_BROKER_URL": "amqp://shop:b%3Foker%40pass@10.0.0.1:5672/shop",
            "CACHE": "redis://:in%20a%20url@10.0.0.1/0",
            "SHOP_SECRET_KEY": "it's $ecret\nof two lines",
            "SHOP_AUTH": "1",
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "HOMEPAGE": "https://shop.example:8443/a@b",
        }
    )
    assert secrets_in(text) == {
        "amqp://shop:b%3Foker%40pass@10.0.0.1:5672/shop",
        "b%3Foker%40pass",
        "b?oker@pass",
        "in%20a%20url",
        "in a url",
        "it's $ecret\nof two lines",
    }
