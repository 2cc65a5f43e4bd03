"""What the role redis_exporter gives the exporter to read."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from role import Role

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


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_systemd_reads_any_password_as_it_is(password: str) -> None:
    text = ROLE.render("prometheus-redis-exporter.j2", redis_exporter_password=password)
    quoted = re.search(r'^REDIS_PASSWORD="((?:[^"\\$`]|\\["\\$`])*)"$', text, re.MULTILINE)
    assert quoted
    assert re.sub(r"\\(.)", r"\1", quoted[1]) == password


def test_nobody_sees_the_password_in_the_list_of_processes() -> None:
    text = ROLE.render("prometheus-redis-exporter.j2")
    assert text.count("secret") == 1
    assert "secret" not in re.sub(r"(?m)^REDIS_PASSWORD=.*$", "", text)
