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


def test_the_password_is_sent_to_no_other_server() -> None:
    text = ROLE.render("prometheus-redis-exporter.j2")
    assert "secret" not in text
    assert "REDIS_PASSWORD" not in text
    assert "-redis.password-file=/etc/prometheus-redis-exporter/passwords.json" in text
    assert "-redis.addr=redis://127.0.0.1:6379 " in text


def test_each_version_of_the_exporter_finds_the_password_of_its_server_alone() -> None:
    text = ROLE.value(
        "__redis_exporter_passwords", redis_exporter_user="shop metrics", redis_exporter_redis_host="10.0.0.1"
    )
    # 1.45 looks for the address that it is given, 1.69 for the address with the user.
    assert json.loads(text) == {"redis://10.0.0.1:6379": "secret", "redis://shop%20metrics@10.0.0.1:6379": "secret"}


def test_the_page_is_served_by_tls() -> None:
    assert "ssl" not in ROLE.render("nginx.conf.j2")
    text = ROLE.render("nginx.conf.j2", redis_exporter_tls={"certificate": "/host.crt", "key": "/host.key"})
    assert "listen 127.0.0.1:9121 ssl;" in text
    assert "ssl_protocols TLSv1.2 TLSv1.3;" in text
    assert "ssl_certificate_key /host.key;" in text


def test_redis_is_verified_and_gets_its_password() -> None:
    text = ROLE.render("prometheus-redis-exporter.j2", redis_exporter_redis_ca="/ca.crt")
    assert "-redis.addr=rediss://127.0.0.1:6379 " in text
    assert "-tls-ca-cert-file=/ca.crt " in text
    assert "skip-tls-verification" not in text
    passwords = json.loads(ROLE.value("__redis_exporter_passwords", redis_exporter_redis_ca="/ca.crt"))
    assert passwords == {"rediss://127.0.0.1:6379": "secret", "rediss://shop-metrics@127.0.0.1:6379": "secret"}


def test_an_authority_that_cant_work_is_refused() -> None:
    assert ROLE.problems(redis_exporter_redis_ca="/etc/ca.crt") == []
    (problem,) = ROLE.problems(redis_exporter_redis_ca="ca.crt")
    assert problem.startswith("redis_exporter_redis_ca: 'ca.crt' is not an absolute path")
