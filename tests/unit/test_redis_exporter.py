"""What the role redis_exporter gives the exporter to read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from hypothesis import given, settings
from hypothesis import strategies as st

ROLE = Path(__file__).parents[2] / "roles" / "redis_exporter"
USER = {"redis_exporter_user": "shop-metrics", "redis_exporter_password": "secret"}


def render(template: str, **given_: Any) -> str:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    variables = {"ansible_managed": "managed"} | defaults | USER | given_
    text = (ROLE / "templates" / template).read_text(encoding="utf-8")
    # As Ansible's module template does.
    templar = Templar(loader=DataLoader(), variables=variables)
    return str(templar.template(trust_as_template(text), escape_backslashes=False))


@settings(max_examples=50)
@given(st.lists(st.text()), st.text())
def test_the_script_has_any_name_as_it_is(queues: list[str], prefix: str) -> None:
    text = render("queues.lua.j2", redis_exporter_queues=queues, redis_exporter_key_prefix=prefix)
    # Of all that a string of Lua's can have, only this means the same in each of its versions.
    literal = re.search(r'^local fleet = cjson\.decode\("((?:[ !#-\[\]-\x7f]|\\["\\])*)"\)$', text, re.MULTILINE)
    assert literal
    fleet = json.loads(re.sub(r"\\(.)", r"\1", literal[1]))
    assert fleet == {"database": 0, "prefix": prefix, "queues": queues}


def test_the_server_reads_how_it_may_run_the_script() -> None:
    assert render("queues.lua.j2").startswith("#!lua flags=no-writes\n--")


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_systemd_reads_any_password_as_it_is(password: str) -> None:
    text = render("prometheus-redis-exporter.j2", redis_exporter_password=password)
    quoted = re.search(r'^REDIS_PASSWORD="((?:[^"\\$`]|\\["\\$`])*)"$', text, re.MULTILINE)
    assert quoted
    assert re.sub(r"\\(.)", r"\1", quoted[1]) == password


def test_nobody_sees_the_password_in_the_list_of_processes() -> None:
    text = render("prometheus-redis-exporter.j2")
    assert text.count("secret") == 1
    assert "secret" not in re.sub(r"(?m)^REDIS_PASSWORD=.*$", "", text)
