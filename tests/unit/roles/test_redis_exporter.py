"""What the role redis_exporter gives the exporter to read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment
from role import Role

ROLES = Path(__file__).parents[3] / "roles"
ROLE = Role("redis_exporter", redis_exporter_user="shop-metrics", redis_exporter_password="secret")


@settings(max_examples=50)
@given(st.lists(st.text()), st.text())
def test_the_script_has_any_name_as_it_is(queues: list[str], prefix: str) -> None:
    text = ROLE.render("queues.lua.j2", redis_exporter_queues=queues, redis_exporter_key_prefix=prefix)
    # Of all that a string of Lua's can have, only this means the same in each of its versions.
    literal = re.search(r'^local fleet = cjson\.decode\("((?:[ !#-\[\]-\x7f]|\\["\\])*)"\)$', text, re.MULTILINE)
    assert literal
    fleet = json.loads(re.sub(r"\\(.)", r"\1", literal[1]))
    assert fleet == {"database": 0, "prefix": prefix, "queues": queues}


def test_the_server_reads_how_it_may_run_the_script() -> None:
    assert ROLE.render("queues.lua.j2").startswith("#!lua flags=no-writes\n--")


def test_the_password_is_sent_to_no_other_server() -> None:
    text = ROLE.render("prometheus-redis-exporter.j2")
    assert "secret" not in text
    assert "REDIS_PASSWORD" not in text
    assert "-redis.password-file=/etc/prometheus-redis-exporter/passwords.json" in text
    assert "-redis.addr=redis://127.0.0.1:6379 " in text


def test_each_version_of_the_exporter_finds_the_password_of_its_server_alone() -> None:
    variables = yaml.safe_load((ROLES / "redis_exporter" / "vars" / "main.yml").read_text())
    environment = Environment()  # noqa: S701 - no HTML
    environment.filters["to_json"] = json.dumps
    text = environment.from_string(variables["__redis_exporter_passwords"]).render(
        redis_exporter_user="shop metrics", redis_exporter_password="secret", __redis_exporter_server="10.0.0.1:6379"
    )
    # 1.45 looks for the address that it is given, 1.69 for the address with the user.
    assert json.loads(text) == {"redis://10.0.0.1:6379": "secret", "redis://shop%20metrics@10.0.0.1:6379": "secret"}
